"""Location values of redirects, which never lead where the configuration did not mean to."""

import re

_placeholder = re.compile(rb"\{(scheme|host|path|query)\}")
# What a URI must not hold as it is (RFC 3986 appendix A), and with it CR, LF and the backslash, which browsers
# read as a slash. "%" stays: it begins an escape.
_unsafe = re.compile(rb"[^!$-;=?-\[\]_a-z~]")
_unsafe_in_template = re.compile(rb"[^!#$-;=?-\[\]_a-z~{}]")  # also a fragment and the placeholders
_leading_slashes = re.compile(rb"^/+")


def location(to: str, *, scheme: bytes, host: bytes, path: bytes, query: bytes) -> bytes:
    """The Location for `to` with {scheme}, {host}, {path} and {query} filled in.

    {query} brings its own `?`, and nothing when the query is empty. A path is given exactly one slash in front,
    and so is a result that begins with a slash: `//name/x` would be another host (RFC 3986 section 4.2), unless
    `to` itself begins that way. Without a host (HTTP/1.0) a `to` that asks for one becomes a path on this host.
    """
    template = _unsafe_in_template.sub(_escape, to.encode("utf-8"))
    safe_path = b"/" + _escaped(path).lstrip(b"/") if path != b"*" else b"/"
    values = {
        b"scheme": scheme,
        b"host": _escaped(host),
        b"path": safe_path,
        b"query": b"?" + _escaped(query) if query else b"",
    }
    if not host and b"{host}" in template:
        return safe_path + values[b"query"]
    filled = _placeholder.sub(lambda match: values[match[1]], template)
    if not template.startswith(b"//"):
        filled = _leading_slashes.sub(b"/", filled)
    return filled


def _escaped(text: bytes) -> bytes:
    return _unsafe.sub(_escape, text)


def _escape(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]
