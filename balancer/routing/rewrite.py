"""The path sent upstream when a route cuts off or replaces a prefix."""

import functools

from balancer.config.model import Rewrite
from balancer.http1.target import normalise_path, split_query
from balancer.routing.match import normal_pattern

PREFIXES_REMEMBERED = 1024  # pairs of a configuration's prefixes; past that they are only computed again


def rewrite_target(rewrite: Rewrite, target: bytes) -> bytes:
    """The target with the prefix cut off, or replaced, on a segment boundary; a path without it stays as it is.

    The query stays. The result's path begins with exactly one slash. Raw bytes are kept where they mean what was
    matched; where the raw path hides the prefix behind escapes, dot segments or double slashes, or would mean
    another path without it (`/v1/a/../../v1/b`), the normal form is rewritten instead. Otherwise a backend could be
    shown a path outside of what the route covers. Raises ProtocolError when the path has no normal form.
    """
    raw, _ = split_query(target)
    if not raw.startswith(b"/"):
        return target  # OPTIONS *
    prefix, replacement = _prefixes(rewrite.strip_prefix, rewrite.replace_prefix)
    matched = _rest(prefix, normalise_path(raw))
    if matched is None:
        return target
    rest = _rest(prefix, raw)
    if rest is None or normalise_path(replacement + rest or b"/") != (replacement + matched or b"/"):
        rest = matched
    return (replacement + rest or b"/") + target[len(raw) :]


@functools.lru_cache(maxsize=PREFIXES_REMEMBERED)
def _prefixes(strip: str, replace: str) -> tuple[bytes, bytes]:
    """Both in normal form and without a slash at the end: b"" for `/` and for nothing."""
    return normal_pattern(strip).rstrip(b"/"), normal_pattern(replace).rstrip(b"/") if replace else b""


def _rest(prefix: bytes, path: bytes) -> bytes | None:
    """What follows `prefix` in `path`: b"" or something with exactly one slash in front. None: it is not there."""
    if not path.startswith(prefix):
        return None
    rest = path[len(prefix) :]
    if not rest:
        return b""
    return b"/" + rest.lstrip(b"/") if rest.startswith(b"/") else None
