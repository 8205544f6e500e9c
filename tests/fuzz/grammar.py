"""Bytes for the fuzzer: messages built by rule, then spoilt by rule, and pieces of the corpus.

Everything is drawn from the given generator of random numbers, so that a number names an input for good.
"""

from collections.abc import Callable, Sequence
from random import Random

from tests.fuzz.drafts import Draft, chunks, interim_draft, one, request_draft, response_draft, switching_draft
from tests.fuzz.vocabulary import (
    CODINGS,
    CONTENTS,
    DICTIONARY,
    FORBIDDEN,
    NUMBERS,
    ODD_HOSTS,
    ODD_METHODS,
    ODD_STATUSES,
    ODD_TARGETS,
    ODD_VERSIONS,
    REASONS,
    RESPONSE_SPECIAL,
    SIZES,
    SPECIAL,
)

# Mutations of a draft. Each changes one thing; which part of the message it is about says its name.


def _line_twice(rng: Random, draft: Draft) -> None:
    if draft.lines:
        draft.lines.insert(int(rng.random() * (len(draft.lines) + 1)), one(rng, draft.lines))


def _line_gone(rng: Random, draft: Draft) -> None:
    if draft.lines:
        del draft.lines[int(rng.random() * len(draft.lines))]


def _line_forbidden(rng: Random, draft: Draft) -> None:
    draft.lines.insert(int(rng.random() * (len(draft.lines) + 1)), one(rng, FORBIDDEN))


def _line_special(rng: Random, draft: Draft) -> None:
    for _ in range(1 + int(rng.random() * 3)):
        draft.lines.insert(int(rng.random() * (len(draft.lines) + 1)), one(rng, SPECIAL))


def _lines_many(rng: Random, draft: Draft) -> None:
    draft.lines += [b"X-%d: 1" % number for number in range(int(rng.random() * 26))]


def _line_long(rng: Random, draft: Draft) -> None:
    draft.lines.append(b"X-Long: " + b"v" * int(1500 + rng.random() * 800))


def _name_changed(rng: Random, draft: Draft) -> None:
    if draft.lines:
        at = int(rng.random() * len(draft.lines))
        name, colon, value = draft.lines[at].partition(b":")
        change = one(rng, ("case", "case", "underscore", "space", "octet"))
        if change == "case":
            name = name.swapcase()
        elif change == "underscore":
            name = name.replace(b"-", b"_", 1)
        elif change == "space":
            name += one(rng, (b" ", b"\t"))
        else:
            name = _with_octet(rng, name)
        draft.lines[at] = name + colon + value


def _value_changed(rng: Random, draft: Draft) -> None:
    if draft.lines:
        at = int(rng.random() * len(draft.lines))
        name, colon, value = draft.lines[at].partition(b":")
        space = one(rng, (b"", b" ", b"\t", b"  ", b" \t", b"\x0b", b"\xa0"))
        draft.lines[at] = name + colon + (space + value if rng.random() < 0.5 else _with_octet(rng, value))


def _length(rng: Random, draft: Draft) -> None:
    name = one(rng, (b"Content-Length: ", b"Content-Length: ", b"content-length:", b"Content-Length:\t"))
    draft.lines = [line for line in draft.lines if not line.lower().startswith(b"content-length")]
    draft.lines.insert(int(rng.random() * (len(draft.lines) + 1)), name + one(rng, NUMBERS))
    if rng.random() < 0.5:
        draft.rest = b"hello"


def _coding(rng: Random, draft: Draft) -> None:
    if rng.random() < 0.6:
        draft.lines = [
            line for line in draft.lines if not line.lower().startswith((b"content-length", b"transfer-enc"))
        ]
    draft.lines.insert(int(rng.random() * (len(draft.lines) + 1)), b"Transfer-Encoding: " + one(rng, CODINGS))


def _chunks_spoilt(rng: Random, draft: Draft) -> None:
    draft.lines = [line for line in draft.lines if not line.lower().startswith((b"content-length", b"transfer-enc"))]
    draft.lines.append(b"Transfer-Encoding: chunked")
    body = chunks(rng, one(rng, CONTENTS[1:]))
    change = one(rng, ("size", "line end", "octet", "cut", "spill"))
    if change == "size":
        body = one(rng, SIZES) + b"\r\nhello\r\n" + body
    elif change == "line end":
        at = body.find(b"\r\n", int(rng.random() * len(body)))
        body = body if at < 0 else body[:at] + one(rng, (b"\n", b"\r", b"\r\r\n", b"", b"\n\r")) + body[at + 2 :]
    elif change == "octet":
        body = _with_octet(rng, body)
    elif change == "cut":
        body = body[: int(rng.random() * len(body))]
    else:
        body = b"5\r\nhello" + one(rng, (b"x\r\n", b"\n", b"", b"\r\n\r\n")) + body
    draft.rest = body


def _line_end(rng: Random, draft: Draft) -> None:
    at = int(rng.random() * (len(draft.lines) + 1))
    end = one(rng, (b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n ", b"\x0b"))
    if at == len(draft.lines):
        draft.line[-1] += end
    elif at + 1 < len(draft.lines):
        draft.lines[at : at + 2] = [draft.lines[at] + end + draft.lines[at + 1]]
    else:
        draft.lines[at] += end


def _rest_changed(rng: Random, draft: Draft) -> None:
    draft.rest = one(rng, (draft.rest[: int(rng.random() * len(draft.rest))], draft.rest + one(rng, CONTENTS)))


def _start_line_changed(rng: Random, draft: Draft) -> None:
    change = one(rng, ("spaces", "octet", "part gone", "part twice"))
    at = int(rng.random() * len(draft.line))
    if change == "spaces":
        draft.line[at] = one(rng, (b" ", b"\t")) + draft.line[at]
    elif change == "octet":
        draft.line[at] = _with_octet(rng, draft.line[at])
    elif change == "part gone":
        del draft.line[at]
        draft.line = draft.line or [b""]
    else:
        draft.line.insert(at, draft.line[at])


def _method(rng: Random, draft: Draft) -> None:
    draft.line[0] = one(rng, ODD_METHODS)


def _target(rng: Random, draft: Draft) -> None:
    draft.line[1] = one(rng, ODD_TARGETS)


def _version(rng: Random, draft: Draft) -> None:
    draft.line[-1] = one(rng, ODD_VERSIONS)


def _host(rng: Random, draft: Draft) -> None:
    host = one(rng, ODD_HOSTS)
    draft.lines = [line for line in draft.lines if not line.lower().startswith(b"host")] + [b"Host: " + host]
    if rng.random() < 0.3:
        draft.line[1] = b"http://" + host + b"/"


def _websocket(_: Random, draft: Draft) -> None:
    draft.lines += [b"Connection: keep-alive, Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"]


def _expect(rng: Random, draft: Draft) -> None:
    draft.lines.append(one(rng, (b"Expect: 100-continue", b"Expect: x", b"Expect:", b"Expect: 100-continue, y")))


def _options(rng: Random, draft: Draft) -> None:
    draft.line[0] = b"OPTIONS"
    draft.lines.append(one(rng, (b"Max-Forwards: 0", b"Max-Forwards: 0", b"Max-Forwards: 3", b"Max-Forwards: 03")))


def _status(rng: Random, draft: Draft) -> None:
    draft.line[1:2] = [one(rng, ODD_STATUSES)]


def _response_version(rng: Random, draft: Draft) -> None:
    draft.line[0] = one(rng, ODD_VERSIONS)


def _reason(rng: Random, draft: Draft) -> None:
    draft.line[2:] = [_with_octet(rng, one(rng, REASONS))]


def _special_response(rng: Random, draft: Draft) -> None:
    for _ in range(1 + int(rng.random() * 3)):
        draft.lines.insert(int(rng.random() * (len(draft.lines) + 1)), one(rng, RESPONSE_SPECIAL))


def _with_octet(rng: Random, data: bytes) -> bytes:
    at = int(rng.random() * (len(data) + 1))
    octet = one(
        rng, (b"\x00", b"\r", b"\n", b"\t", b" ", b"\x0b", b"\x7f", b"\x80", b"\xff", b"\x01", b":", b",", b"\x85")
    )
    return data[:at] + octet + data[at + int(rng.random() * 2) :]


def _head_too_large(rng: Random, draft: Draft) -> None:
    if rng.random() < 0.1:  # they are slow to read
        draft.lines += [b"X: 1"] * int(190 + rng.random() * 20) if rng.random() < 0.8 else [b"X: " + b"v" * 82_000]


Mutation = Callable[[Random, Draft], None]
_ANY: tuple[Mutation, ...] = (
    _line_twice, _line_gone, _line_forbidden, _name_changed, _value_changed, _length, _length, _coding, _coding,
    _chunks_spoilt, _chunks_spoilt, _line_end, _rest_changed, _start_line_changed, _line_long,
)  # fmt: skip
REQUEST_MUTATIONS: tuple[Mutation, ...] = (
    *_ANY, _line_special, _line_special, _lines_many, _lines_many, _method, _method, _target, _target, _target,
    _version, _host, _host, _websocket, _expect, _options,
)  # fmt: skip
RESPONSE_MUTATIONS: tuple[Mutation, ...] = (
    *_ANY, _status, _response_version, _reason, _special_response, _special_response, _head_too_large,
)  # fmt: skip


def byte_mutation(rng: Random, data: bytes) -> bytes:
    """A few bytes changed, anywhere."""
    out = bytearray(data)
    for _ in range(1 + int(rng.random() * 3)):
        at = int(rng.random() * (len(out) + 1))
        change = rng.random()
        if change < 0.3 and at < len(out):
            out[at] ^= 1 << int(rng.random() * 8)
        elif change < 0.5:
            out[at:at] = one(rng, DICTIONARY)
        elif change < 0.7:
            del out[at : at + 1 + int(rng.random() * 4)]
        elif change < 0.85:
            out[at:at] = out[at : at + 1 + int(rng.random() * 30)]
        else:
            out[at : at + 1] = bytes((int(rng.random() * 256),))
    return bytes(out)


def splice(rng: Random, data: bytes, other: bytes) -> bytes:
    """The beginning of one and the end of the other."""
    return data[: int(rng.random() * (len(data) + 1))] + other[int(rng.random() * (len(other) + 1)) :]


class Grammar:
    """Makes inputs. `requests` and `responses` are the corpus's, for splicing."""

    def __init__(self, requests: Sequence[bytes], responses: Sequence[bytes]) -> None:
        self._requests = requests
        self._responses = responses

    def request(self, rng: Random) -> bytes:
        """One request, sometimes two or three, as they may come in one connection."""
        data = self._one_request(rng)
        while rng.random() < 0.12:
            data += one(rng, (b"", b"", b"", b"\r\n", b"\r\n\r\n\r\n\r\n\r\n")) + self._one_request(rng)
        return b"\r\n" + data if rng.random() < 0.02 else data

    def _one_request(self, rng: Random) -> bytes:
        chance = rng.random()
        if chance < 0.03:
            return one(rng, self._requests) if self._requests else request_draft(rng).bytes()
        draft = request_draft(rng)
        if 0.48 < chance < 0.8:
            one(rng, REQUEST_MUTATIONS)(rng, draft)
            if rng.random() < 0.3:
                one(rng, REQUEST_MUTATIONS)(rng, draft)
        data = draft.bytes()
        if chance < 0.8:
            return data
        if chance < 0.92 or not self._requests:
            return byte_mutation(rng, data)
        return splice(rng, data, one(rng, self._requests))

    def response(self, rng: Random, *, upgrade: bool) -> bytes:
        """What a backend may send to one request: interim responses, the final one, and what it should not."""
        chance = rng.random()
        if rng.random() < 0.01:
            return b""
        if chance < 0.03 and self._responses:
            return one(rng, self._responses)
        data = b""
        while rng.random() < 0.15:
            data += interim_draft(rng).bytes()
        if rng.random() < 0.002:
            data += b"HTTP/1.1 102 Processing\r\n\r\n" * int(18 + rng.random() * 6)
        draft = switching_draft(rng) if rng.random() < (0.4 if upgrade else 0.01) else response_draft(rng)
        if 0.48 < chance < 0.8:
            one(rng, RESPONSE_MUTATIONS)(rng, draft)
            if rng.random() < 0.3:
                one(rng, RESPONSE_MUTATIONS)(rng, draft)
        data += draft.bytes()
        if rng.random() < 0.04:
            data = data[: int(rng.random() * rng.random() * len(data))]
        elif rng.random() < 0.05:
            data += one(rng, (b"\r\n", b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"))
        if chance < 0.8:
            return data
        if chance < 0.92 or not self._responses:
            return byte_mutation(rng, data)
        return splice(rng, data, one(rng, self._responses))


def pieces(rng: Random, data: bytes) -> list[bytes]:
    """`data` as the network may deliver it: whole, in a few pieces, or byte by byte."""
    chance = rng.random()
    if chance < 0.6 or len(data) < 2:
        return [data] if data else []
    if chance < 0.61 and len(data) < 300:
        return [data[at : at + 1] for at in range(len(data))]
    cuts = sorted({1 + int(rng.random() * (len(data) - 1)) for _ in range(1 if chance < 0.85 else 4)})
    return [data[start:end] for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True)]
