"""Inputs of the fuzzer: one request each, with a body that comes in pieces, and what its client does."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.fuzz.gateway_grammar import Object, damage, deep, make_message, make_tree, make_watch, spelled, written
from tests.fuzz.gateway_messages import METHODS, PAGES, STREAMS, UNSERVED

_OFTEN_ASKED = (
    *("/v3/kv/range", "/v3/kv/put", "/v3/kv/txn") * 5,
    *("/v3/kv/deleterange", "/v3/lock/lock", "/v3/election/campaign", "/v3/lease/grant") * 2,
)
_PATHS = (*METHODS, *_OFTEN_ASKED)
_STREAM_PATHS = ("/v3/watch", "/v3/watch", "/v3/watch", "/v3/lease/keepalive", "/v3/election/observe")

HOSTS = {  # whether a request with it may come in
    "127.0.0.1:2379": True,
    "localhost": True,
    "LOCALHOST.:2379": True,
    "[::1]:2379": True,
    "kv.example": True,
    "KV.example:1": True,
    "10.1.2.3": True,
    "kv.example.evil.example": False,
    "evil.example:2379": False,
    "127.0.0.1.evil.example": False,
    "[::1": False,
    "": False,
    ":2379": False,
    "localhost@evil.example": False,
    "0x7f.1": False,
    "\xff": False,
    "127.0.0.1, evil.example": False,
}
ORIGINS = ("null", "http://evil.example", "", "http://", "localhost", "file://")
METHOD_NAMES = ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "post", "CONNECT", "X")
TYPES = ("application/json", "text/plain", "application/x-www-form-urlencoded", "application/grpc", "\xe9", "")
WRONG_PATHS = (
    *("/", "", "*", "/v3", "/v3/", "/v3/kv", "/v3/kv/", "/v3//kv/put", "//v3/kv/put", "/v3/kv/put/", "/v3/kv/put/x"),
    *("/V3/kv/put", "/v3/KV/put", "/v3alpha/kv/put", "/v3alpha/kv/range", "/v3beta", "/v3beta/", "/v3betakv/put"),
    *("/v3beta/v3beta/kv/put", "/v3/v3/kv/put", "/v3beta//v3/kv/put", "/v3/kv/../kv/put", "/v2/keys", "/metrics"),
    *(
        "/v3/kv/put;x",
        "/v3/kv/put%",
        "/v3/kv/put%0",
        "/v3/kv/%zz",
        "/v3/kv/put%00",
        "/v3/kv/put%2F",
        "/v3/kv/lease/grant",
    ),
    *(
        "http://127.0.0.1/v3/kv/put",
        "/v3/kv/put\xe9",
        "/%ff%fe",
        "/version/",
        "/health/",
        "/debug/vars",
        "/v3/" + "a/" * 4000,
    ),
)


@dataclass(frozen=True, slots=True)
class Given:
    """An input. `path`: what the target names, "" = nothing. `admitted`: by Host and Origin.

    `ended`: the body's end comes; `leaves`: the client goes after so many turns of the loop, else once all is quiet;
    `stays`: it does not go then, either, but keeps waiting or watching; `reads`: it takes what it is sent. `pause`:
    seconds before the next input.
    """

    method: str
    target: str
    path: str
    headers: dict[str, str]
    admitted: bool
    pieces: tuple[bytes, ...]
    damage: str
    ended: bool = True
    leaves: int | None = None
    stays: bool = False
    reads: bool = True
    pause: float = 0.0

    @property
    def body(self) -> bytes:
        """All of it, up to where it was cut off."""
        return b"".join(self.pieces)


def make_input(rng: Random) -> Given:
    """Any."""
    way = rng.random()
    path = rng.choice(_STREAM_PATHS if rng.random() < 0.2 else _PATHS)
    if way < 0.03:
        path = rng.choice((*PAGES, *UNSERVED))
    body, damaged = _body(rng, path) if path in METHODS or path in STREAMS else (b"{}", "none")
    target, method, headers, admitted, named = path, "POST", {"host": "127.0.0.1:2379"}, True, path
    if path in PAGES and rng.random() < 0.8:
        method = "GET"
    if way > 0.88:
        kind = rng.choice((_other_spelling, _other_path, _other_method, _other_host, _other_fields))
        changed = kind(rng, path, method, headers)
        method, target, named, headers, admitted = changed
        damaged = kind.__name__.lstrip("_") if damaged == "none" else damaged
    streamed = named in ("/v3/watch", "/v3/lease/keepalive")
    return Given(
        *(method, target, named, headers, admitted),
        pieces=tuple(_cut(rng, body)) if streamed else (body,),
        damage=damaged,
        ended=not streamed or rng.random() < 0.7,
        leaves=rng.randrange(6) if rng.random() < 0.04 else None,
        stays=rng.random() < 0.15,
        reads=rng.random() < 0.95,
        pause=rng.choice((0.6, 5.0, 40.0)) if rng.random() < 0.02 else 0.0,
    )


# ---- bodies


def _body(rng: Random, path: str) -> tuple[bytes, str]:
    """A body and how it was damaged."""
    way = rng.random()
    if path == "/v3/watch" or path == "/v3/lease/keepalive":
        trees = _stream_trees(rng, path)
    else:
        trees = [make_tree(rng, METHODS.get(path) or STREAMS[path])]
    kind = "none"
    if 0.5 < way < 0.75:
        kind = "json"
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            damage(rng, rng.choice(trees))
    pieces = [written(rng, tree) for tree in trees]
    body = rng.choice((b"", b"", b" ", b"\n")).join(pieces)
    if 0.75 < way < 0.97:
        change = rng.choice(_CHANGES)
        kind = change.__name__.lstrip("_")
        body = change(rng, body)
    elif way >= 0.97:
        kind, body = _rare(rng, path, body)
    return body, kind


def _stream_trees(rng: Random, path: str) -> list[Object]:
    fields = STREAMS[path].asked
    count = rng.choice((1, 1, 1, 2, 3, 6, 30)) if rng.random() < 0.97 else 0
    if path != "/v3/watch":
        return [spelled(rng, fields, make_message(rng, fields)) for _ in range(count)] or [Object()]
    first = [{"create_request": {"key": b"foo"}}] if rng.random() < 0.5 else []
    return [spelled(rng, fields, one) for one in (*first, *(make_watch(rng) for _ in range(count)))] or [Object()]


def _rare(rng: Random, path: str, body: bytes) -> tuple[str, bytes]:
    """Bodies that are dear to make."""
    way = rng.random()
    if way < 0.3:
        return "deep", deep(rng).encode()
    if way < 0.5:
        return "nothing", rng.choice((b"", b" ", b"\n\t ", b"null", b" null ", b"\x0b", b"\xc2\xa0", b"\xef\xbb\xbf{}"))
    if way < 0.6:
        return "junk", rng.randbytes(rng.choice((1, 10, 1000)))
    if way < 0.62:
        size = rng.choice((1_100_000, 1_500_000, 1_572_800, 1_572_864, 1_573_000, 1_900_000))
        return "large", b'{"key":"Zm9v","value":"%b"}' % (b"QUFB" * (size // 3))
    if way < 0.72:
        return "endless", b'{"create_request":{"key":"' + b"A" * rng.choice((60_000, 70_000, 150_000))
    if way < 0.86:
        return "trailing", body + rng.choice((b"\xff", b"{", b"}", b"null", b" x", b"\x00", body))
    return "wrong method's", written(rng, make_tree(rng, rng.choice(list(METHODS.values()))))


Change = Callable[[Random, bytes], bytes]


def _flipped(rng: Random, body: bytes) -> bytes:
    data = bytearray(body)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _replaced(rng: Random, body: bytes) -> bytes:
    at = rng.randrange(len(body) + 1)
    return body[:at] + rng.choice(_TOKENS) + body[at + 1 :]


def _cut_short(rng: Random, body: bytes) -> bytes:
    return body[: rng.randrange(len(body) + 1)]


def _taken_out(rng: Random, body: bytes) -> bytes:
    at = rng.randrange(len(body) + 1)
    return body[:at] + body[at + rng.choice((1, 2, 5, 20)) :]


def _put_in(rng: Random, body: bytes) -> bytes:
    at = rng.randrange(len(body) + 1)
    new = rng.choice(_TOKENS) if rng.random() < 0.7 else rng.randbytes(rng.choice((1, 2, 4, 20)))
    return body[:at] + new + body[at:]


def _repeated(rng: Random, body: bytes) -> bytes:
    start = rng.randrange(len(body) + 1)
    end = min(start + rng.choice((1, 3, 10, 100)), len(body))
    return body[:end] + body[start:end] * rng.choice((1, 2, 50)) + body[end:]


_TOKENS = (
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\x00",
    b"\n",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"-",
    b"=",
    b"1",
)
_CHANGES: tuple[Change, ...] = (_flipped, _replaced, _cut_short, _taken_out, _put_in, _repeated)


def _cut(rng: Random, body: bytes) -> list[bytes]:
    """A stream's body in pieces; none is empty, as from a connection."""
    way = rng.random()
    if way < 0.4 or not body:
        return [body] if body else []
    if way < 0.5 and len(body) < 300:
        return [body[at : at + 1] for at in range(len(body))]
    size = 1 << 14
    if len(body) > 4 * size:
        return [body[at : at + size] for at in range(0, len(body), size)]
    places = sorted(rng.randrange(len(body) + 1) for _ in range(rng.choice((1, 2, 5))))
    return [body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True) if a < b]


# ---- heads

Head = tuple[str, str, str, dict[str, str], bool]


def _other_spelling(rng: Random, path: str, method: str, headers: dict[str, str]) -> Head:
    """The same path."""
    target = path
    if target.startswith("/v3/") and rng.random() < 0.6:
        target = "/v3beta/" + target[4:]
    if rng.random() < 0.5:
        at = rng.randrange(1, len(target))
        target = f"{target[:at]}%{ord(target[at]):02{rng.choice('xX')}}{target[at + 1 :]}"
    if rng.random() < 0.4:
        target += rng.choice(("?", "?a=b", "?serializable=true", "?x=%ff&&;=", "??/v3/kv/range", "?" + "a=1&" * 300))
    return method, target, path, headers, True


def _other_path(rng: Random, path: str, method: str, headers: dict[str, str]) -> Head:
    """No path that there is."""
    return method, rng.choice(WRONG_PATHS), "", headers, True


def _other_method(rng: Random, path: str, method: str, headers: dict[str, str]) -> Head:
    return rng.choice(METHOD_NAMES), path, path, headers, True


def _other_host(rng: Random, path: str, method: str, headers: dict[str, str]) -> Head:
    host = rng.choice(list(HOSTS))
    changed = {"host": host}
    admitted = HOSTS[host]
    way = rng.random()
    if way < 0.2:
        changed["origin"] = rng.choice(ORIGINS)
        admitted = False
    elif way < 0.4:
        changed["origin"] = f"{rng.choice(('http', 'https'))}://{host}"
    elif way < 0.45:
        del changed["host"]
        admitted = False
    return method, path, path, changed, admitted


def _other_fields(rng: Random, path: str, method: str, headers: dict[str, str]) -> Head:
    """Fields that make no difference."""
    changed = {**headers, "content-type": rng.choice(TYPES)}
    if rng.random() < 0.5:
        changed[
            rng.choice(("accept", "grpc-timeout", "authorization", "content-encoding", "x-http-method-override"))
        ] = "GET"
    return method, path, path, changed, True
