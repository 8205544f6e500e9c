"""Addresses, hosts, networks, header fields and names as the configuration writes them.

Every function returns the normal form or raises ValueError saying what is wrong and what would be right.
"""

import ipaddress
import re

from balancer.config.scalars import shown

UNIX_PATH_MAX = 107  # sun_path has 108 bytes, the last one a NUL
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_\[][A-Za-z0-9_.:@/\[\]-]{0,127}", re.ASCII)
_ACCOUNT = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?|[0-9]{1,9}", re.ASCII)
_BAD_ESCAPE = re.compile(r"\\|%00|%(?![0-9A-Fa-f]{2})", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)

# RFC 9110 section 9 and the registry's methods that proxies meet; our parser answers any other with 501.
# fmt: off
METHODS = (
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "ACL", "BIND", "CHECKOUT", "COPY", "LINK",
    "LOCK", "M-SEARCH", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MOVE", "NOTIFY", "PROPFIND", "PROPPATCH",
    "PURGE", "QUERY", "REBIND", "REPORT", "SEARCH", "SOURCE", "SUBSCRIBE", "UNBIND", "UNLINK", "UNLOCK",
    "UNSUBSCRIBE",
)
# fmt: on


def split_port(text: str, example: str, *, zero: bool) -> tuple[str, int]:
    """(host, port) of `host:port` or `[v6]:port`; the host is not looked at. `zero` allows port 0."""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or not rest.startswith(":"):
            raise ValueError(f"{shown(text)} lacks its port; write [address]:port, such as [::1]:8080")
        port_text = rest[1:]
        if ":" not in host:
            raise ValueError(f"{shown(text)}: brackets hold an IPv6 address; write {example}")
    else:
        host, colon, port_text = text.rpartition(":")
        if not colon:
            if _PORT.fullmatch(text):
                raise ValueError(f"{shown(text)} is only a port; write address:port, such as {example}")
            raise ValueError(f"{shown(text)} lacks its port; write address:port, such as {example}")
        if ":" in host:
            raise ValueError(f"{shown(text)}: an IPv6 address stands in brackets; write [address]:port")
    low = 0 if zero else 1
    if not _PORT.fullmatch(port_text) or not low <= int(port_text) <= 65535:
        raise ValueError(f"{shown(text)} has the port {shown(port_text)}; a port is {low} to 65535")
    return host, int(port_text)


def unix_path(text: str) -> str:
    """The path of a Unix socket, checked for length once it is complete."""
    if not text or "\0" in text:
        raise ValueError("a Unix socket needs a path; write unix:/path/to/socket")
    if len(text.encode()) > UNIX_PATH_MAX:
        raise ValueError(f"the path of a Unix socket has at most {UNIX_PATH_MAX} bytes; {shown(text)} is longer")
    return text


def bind_address(text: str) -> tuple[str, int]:
    """(IP address, port) to listen on."""
    host, port = split_port(text, "0.0.0.0:8080", zero=True)
    if host in ("", "*"):
        raise ValueError(f"{shown(text)} names no address; write 0.0.0.0:{port} for IPv4 or [::]:{port} for IPv6")
    try:
        return str(ipaddress.ip_address(host)), port
    except ValueError as error:
        if host.lower() == "localhost":
            raise ValueError(f"{shown(text)}: write the address itself, 127.0.0.1:{port} or [::1]:{port}") from error
        raise ValueError(
            f"{shown(host)} is not an IP address; write one of this machine's, or 0.0.0.0:{port}"
        ) from error


def backend_address(text: str) -> tuple[str, int]:
    """(IP address or name, port) of a backend. A name is lower-cased and resolved later, by the daemon."""
    if "://" in text:
        rest = text.partition("://")[2].partition("/")[0]
        raise ValueError(f"{shown(text)} is a URL; write host:port, such as {rest if ':' in rest else rest + ':80'}")
    host, port = split_port(text, "127.0.0.1:9001", zero=False)
    try:
        return str(ipaddress.ip_address(host)), port
    except ValueError:
        return _host_name(host), port


def _host_name(text: str) -> str:
    """A host name in lower case, without a trailing dot (RFC 1123; underscores as they occur in the wild)."""
    name = text.lower().removesuffix(".")
    if not name.isascii():
        try:
            ascii_name = name.encode("idna").decode()
        except UnicodeError:
            ascii_name = ""
        if "xn--" not in ascii_name:
            ascii_name = "xn--..."  # no form, or the one of IDNA 2003 for a letter that IDNA 2008 keeps
        raise ValueError(f"{shown(text)} is not ASCII; write it as it travels, {ascii_name}")
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(
            f"{shown(text)} is not a host name; write letters, digits, - and dots, such as api.example.com"
        )
    if labels[-1].isdigit():
        raise ValueError(
            f"{shown(text)} is neither an IP address nor a host name; an IPv4 address has 4 parts, 0 to 255"
        )
    return name


def host_pattern(text: str) -> str:
    """A host to match: a name, `*.name`, an IPv4 address or a bracketed IPv6 address; lower case, no trailing dot."""
    if text == "*":
        raise ValueError("`*` matches every host; leave hosts out for that")
    if "/" in text:
        raise ValueError(f"{shown(text)} is not a host; write the name alone and put a path into path or path_prefix")
    if text.startswith("[") and text.endswith("]"):
        try:
            return f"[{ipaddress.IPv6Address(text[1:-1])}]"
        except ValueError as error:
            raise ValueError(f"{shown(text)} is not an IPv6 address in brackets") from error
    host, colon, _ = text.rpartition(":")
    if colon:
        if ":" in host and not host.endswith("]"):
            raise ValueError(f"{shown(text)}: an IPv6 address stands in brackets, such as [::1]")
        raise ValueError(f"{shown(text)} has a port; hosts are matched without it: write {shown(host)}")
    wildcard = text.startswith("*.")
    rest = text[2:] if wildcard else text
    if "*" in rest:
        raise ValueError(f"{shown(text)}: a * stands only as the whole first label, such as *.example.com")
    try:
        address = str(ipaddress.IPv4Address(rest))
    except ValueError:
        return ("*." if wildcard else "") + _host_name(rest)
    if wildcard:
        raise ValueError(f"{shown(text)}: an IP address has no names below it; remove the *.")
    return address


def server_name(text: str) -> str:
    """A host name or IP address without a port, as TLS names its peer."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        if ":" in text:
            raise ValueError(f"{shown(text)} has a port; write the name alone") from None
        return _host_name(text)


def authority(text: str) -> str:
    """A host with an optional port, as a Host field holds it."""
    if text.startswith("[") or ":" in text:
        if not text.endswith("]"):
            host, port = split_port(text, "app.example.com:8080", zero=False)
            return f"{authority(f'[{host}]' if ':' in host else host)}:{port}"
        return host_pattern(text)
    return server_name(text)


def network(text: str) -> str:
    """A network in CIDR form; an address alone is the network of that one address."""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        try:
            wide = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise ValueError(f"{shown(text)} is not a network; write address/bits, such as 10.0.0.0/8") from error
        raise ValueError(
            f"{shown(text)} has bits set beyond its prefix; did you mean {wide} (the network), "
            f"or {text.partition('/')[0]} (that one address)?"
        ) from error


def header_name(text: str) -> str:
    """A field name as written (RFC 9110 section 5.6.2)."""
    if not _TOKEN.fullmatch(text) or len(text) > 256:
        raise ValueError(
            f"{shown(text)} is not a header name; write letters, digits and - only, such as X-Request-Kind"
        )
    return text


def header_value(text: str) -> str:
    """A field value: no control characters, no blanks around it (RFC 9110 section 5.5)."""
    if any((ord(char) < 32 and char != "\t") or ord(char) == 127 for char in text):
        raise ValueError(f"{shown(text)} holds a control character, which a header value cannot; remove it")
    if text != text.strip(" \t"):
        raise ValueError(f"{shown(text)} has blanks at its start or end, which a header value cannot; remove them")
    if len(text.encode()) > 8192:
        raise ValueError("a header value has at most 8,192 bytes here, because peers refuse longer ones; shorten it")
    return text


def method(text: str) -> str:
    """A request method; methods are case-sensitive (RFC 9110 section 9.1)."""
    if text in METHODS:
        return text
    if text.upper() in METHODS:
        raise ValueError(f"{shown(text)} is not a method, they are case-sensitive; did you mean {text.upper()}?")
    if text.upper() in ("CONNECT", "TRACE"):
        raise ValueError(f"{shown(text)} is refused by the balancer before any route; remove it")
    raise ValueError(f"{shown(text)} is not a method that the balancer takes; the methods are {', '.join(METHODS)}")


def name(text: str) -> str:
    """The name of a listener, route, pool or backend: it becomes a metric label and a part of URLs."""
    if not _NAME.fullmatch(text):
        raise ValueError(
            f"{shown(text)} cannot be a name; write 1 to 128 letters, digits, _ . : @ / [ ] or -, "
            "starting with a letter, a digit or _"
        )
    return text


def account(text: str) -> str:
    """A user or group, by name or number."""
    if not _ACCOUNT.fullmatch(text):
        raise ValueError(f"{shown(text)} is not the name or number of an account, such as balancer")
    return text


def url_path(text: str) -> str:
    """An absolute path as it is matched: after normalisation, so without dot segments, query or fragment."""
    if not text.startswith("/"):
        raise ValueError(f"{shown(text)} does not start with /; write {shown('/' + text)}")
    for sign, meaning in (("?", "a query; match it with query"), ("#", "a fragment, which no client sends; remove it")):
        if sign in text:
            raise ValueError(f"{shown(text)} holds {meaning}")
    if any(char < " " or char == "\x7f" for char in text):
        raise ValueError(f"{shown(text)} holds a control character, which no path has; remove it")
    if _BAD_ESCAPE.search(text):
        raise ValueError(f"{shown(text)} holds a backslash, %00 or a % without two hex digits; no request has those")
    if any(segment in (".", "..") for segment in text.split("/")):
        raise ValueError(f"{shown(text)} holds . or .., which are resolved before routes are matched; remove them")
    return text
