"""Messages before they are written out, built from the vocabulary: good ones, or nearly so."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

from tests.fuzz.vocabulary import (
    COMMON,
    CONTENTS,
    EXTENSIONS,
    HOSTS,
    INTERIMS,
    METHODS,
    REASONS,
    RESPONSE_FIELDS,
    RESPONSE_SPECIAL,
    SPECIAL,
    STATUSES,
    TARGETS,
    TRAILERS,
    VERSIONS,
)

T = TypeVar("T")


def one(rng: Random, choices: Sequence[T]) -> T:
    """One of the choices, at a third of the cost of Random.choice."""
    return choices[int(rng.random() * len(choices))]


class Draft:
    """A message before it is written out: start line, field lines without CRLF, and what stands behind the head."""

    __slots__ = ("line", "lines", "rest")

    def __init__(self, line: list[bytes], lines: list[bytes], rest: bytes) -> None:
        self.line = line
        self.lines = lines
        self.rest = rest

    def bytes(self) -> bytes:
        """The message."""
        return b"\r\n".join((b" ".join(self.line), *self.lines, b"", self.rest))


def chunks(rng: Random, content: bytes) -> bytes:
    """`content` in a few chunks, some with extensions and trailers."""
    out = []
    at = 0
    while at < len(content):
        size = 1 + int(rng.random() * min(len(content) - at, 80))
        extension = one(rng, EXTENSIONS) if rng.random() < 0.2 else b""
        form = b"%x" if rng.random() < 0.7 else b"%04X"
        out.append(form % size + extension + b"\r\n" + content[at : at + size] + b"\r\n")
        at += size
    out.append(b"0\r\n" if rng.random() < 0.8 else b"000;last\r\n")
    if rng.random() < 0.3:
        out += [one(rng, TRAILERS) + b"\r\n" for _ in range(1 + int(rng.random() * 3))]
    return b"".join(out) + b"\r\n"


def request_draft(rng: Random) -> Draft:
    """A request that is good, or nearly so: special fields may contradict each other."""
    method, version, host = one(rng, METHODS), one(rng, VERSIONS), one(rng, HOSTS)
    target = one(rng, TARGETS)
    chance = rng.random()
    if chance < 0.07:
        scheme = b"http://" if chance < 0.05 else b"HTTPS://"
        authority = host.swapcase() if chance < 0.02 else host
        target = scheme + authority + (target if chance < 0.04 else one(rng, (b"", b"?q", b"/")))
    elif chance < 0.09:
        method, target = b"OPTIONS", b"*"
    lines = [one(rng, COMMON) for _ in range(int(rng.random() * 7))]
    for _ in range(int(rng.random() * 3)):
        lines.append(one(rng, SPECIAL))
    rest = b""
    chance = rng.random() + (0.2 if method in (b"POST", b"PUT", b"PATCH") else -0.25)
    if chance > 0.7:
        lines.append(one(rng, (b"Transfer-Encoding: chunked", b"transfer-encoding:CHUNKED ")))
        rest = chunks(rng, one(rng, CONTENTS))
    elif chance > 0.3:
        rest = one(rng, CONTENTS)
        lines.append(one(rng, (b"Content-Length: %d", b"Content-Length: %d", b"content-length:%d ")) % len(rest))
    if len(lines) > 1:
        rng.shuffle(lines)
    if version == b"HTTP/1.1" or rng.random() < 0.6:
        lines.insert(int(rng.random() * 2), one(rng, (b"Host: ", b"Host: ", b"hOsT:", b"Host:  ")) + host)
    return Draft([method, target, version], lines, rest)


def response_draft(rng: Random) -> Draft:
    """A final response that is good, or nearly so."""
    status = one(rng, STATUSES)
    lines = [one(rng, RESPONSE_FIELDS) for _ in range(int(rng.random() * 6))]
    if rng.random() < 0.4:
        lines.append(one(rng, RESPONSE_SPECIAL))
    rest = b""
    chance = rng.random()
    if chance < 0.45:
        rest = one(rng, CONTENTS)
        lines.append(one(rng, (b"Content-Length: %d", b"Content-Length: %d", b"content-length:%d ")) % len(rest))
    elif chance < 0.75:
        lines.append(one(rng, (b"Transfer-Encoding: chunked", b"transfer-encoding:CHUNKED ")))
        rest = chunks(rng, one(rng, CONTENTS))
    elif chance < 0.9:
        rest = one(rng, CONTENTS)
    if status in (b"204", b"304") and rng.random() < 0.8:
        rest = b""
    if len(lines) > 1:
        rng.shuffle(lines)
    return _status_line(rng, status, lines, rest)


def interim_draft(rng: Random) -> Draft:
    """A response 1xx."""
    lines = [one(rng, RESPONSE_FIELDS) for _ in range(int(rng.random() * 3))]
    if rng.random() < 0.1:
        lines.append(one(rng, (*RESPONSE_SPECIAL, b"Content-Length: 5", b"Transfer-Encoding: chunked")))
    return _status_line(rng, one(rng, INTERIMS), lines, b"")


def switching_draft(rng: Random) -> Draft:
    """A response 101, mostly one that opens a tunnel, with bytes of the tunnel behind it."""
    lines = [b"Connection: Upgrade", b"Upgrade: websocket", one(rng, RESPONSE_FIELDS)]
    if rng.random() < 0.3:
        lines[1:2] = one(rng, ([], [b"Upgrade: h2c"], [b"Upgrade: websocket", b"Upgrade: h2c"], [b"upgrade:WebSocket"]))
    return _status_line(rng, b"101", lines, one(rng, CONTENTS))


def _status_line(rng: Random, status: bytes, lines: list[bytes], rest: bytes) -> Draft:
    version = b"HTTP/1.1" if rng.random() < 0.93 else b"HTTP/1.0"
    reason = [] if rng.random() < 0.05 else [one(rng, REASONS)]
    return Draft([version, status, *reason], lines, rest)
