"""Results of health checks as a node publishes them and as others take them in. Pure.

    /balancer/checks/NODE/POOL/CHUNK
    {"version": 1, "digest": "3f2a...", "incarnation": "81c4...",
     "results": [["b1", "10.0.0.7:80", true, "200 in 3 ms", 12, 40], ...]}

A result tells the verdict, how often it came in a row, and a count that grows by one with every result of this backend.
So a reader that missed publications knows how many results it missed, and what the last ones were; what it cannot know
is what was before those, and that its thresholds have forgotten, too, once so many were alike.
"""

from collections.abc import Iterable
from typing import Annotated, Final, NamedTuple
from urllib.parse import quote, unquote

import msgspec

PREFIX: Final = "/balancer/checks/"
VERSION: Final = 1
CHUNK_MAX: Final = 256
"""Results in one value."""
CHUNKS_MAX: Final = 1000
"""Chunks of one pool that a reader takes notice of: far more backends than one balancer has."""
EVIDENCE_MAX: Final = 120
VALUE_MAX: Final = 512 * 1024
"""Bytes of a value that are read."""

_Positive = Annotated[int, msgspec.Meta(ge=1)]


class Result(msgspec.Struct, frozen=True, array_like=True):
    """The last result of a backend. `address` tells what was probed; `streak`: results in a row that were alike."""

    backend: str
    address: str
    passed: bool
    evidence: str
    streak: _Positive
    count: _Positive


class Publication(msgspec.Struct, frozen=True):
    """The value of a key. `digest`: of what decides a probe in this pool. `incarnation`: another one counts anew."""

    version: int
    digest: str
    incarnation: str
    results: Annotated[tuple[Result, ...], msgspec.Meta(max_length=CHUNK_MAX)]


class Place(NamedTuple):
    """What a key is about."""

    node: str
    pool: str
    chunk: int


def key_of(place: Place) -> str:
    """The key; names are percent-encoded, so that any may be one."""
    return f"{PREFIX}{quote(place.node, safe='')}/{quote(place.pool, safe='')}/{place.chunk}"


def place_of(key: bytes) -> Place:
    """The reverse. Raises ValueError in words."""
    try:
        node, pool, chunk = key.decode().removeprefix(PREFIX).split("/")
        place = Place(unquote(node, errors="strict"), unquote(pool, errors="strict"), int(chunk))
    except ValueError:
        raise ValueError(f"the key is not {PREFIX}NODE/POOL/NUMBER") from None
    if key_of(place).encode() != key:
        raise ValueError(f"a key for the same as {key_of(place)}, which is not read")
    if not 0 <= place.chunk < CHUNKS_MAX:
        raise ValueError(f"chunks are numbered from 0 to {CHUNKS_MAX - 1}")
    return place


def value_of(digest: str, incarnation: str, results: Iterable[Result]) -> bytes:
    """The value of a key; `results`: at most CHUNK_MAX."""
    return msgspec.json.encode(Publication(VERSION, digest, incarnation, tuple(results)))


def publication_in(value: bytes) -> Publication:
    """What a value says. Raises ValueError in words."""
    if len(value) > VALUE_MAX:
        raise ValueError(f"the value has {len(value):,} bytes; at most {VALUE_MAX:,} are read")
    try:
        publication = _decoder.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)[:200]) from None
    if publication.version != VERSION:
        raise ValueError(f"version {publication.version}; this balancer reads version {VERSION}")
    return publication


_decoder = msgspec.json.Decoder(Publication)


def shortened(evidence: str) -> str:
    """Evidence of a bounded length that is safe to show, wherever it came from."""
    shown = "".join(sign if sign.isprintable() else "?" for sign in evidence[: EVIDENCE_MAX + 1])
    return shown if len(shown) <= EVIDENCE_MAX else f"{shown[: EVIDENCE_MAX - 3]}..."


class Own:
    """The results of one backend that this node checks, as they are published. `before`: where its count begins.

    A backend that is checked again later must count on from where it was, or above, since readers know its last count.
    """

    __slots__ = ("count", "evidence", "passed", "streak")

    def __init__(self, before: int) -> None:
        self.passed = False
        self.evidence = ""
        self.streak = 0  # 0 = there is no result yet
        self.count = before

    def add(self, passed: bool, evidence: str) -> None:
        """One more result."""
        self.streak = self.streak + 1 if passed == self.passed else 1
        self.passed = passed
        self.evidence = shortened(evidence)
        self.count += 1


class Source(NamedTuple):
    """Whose results of a backend were heard last, and up to which."""

    node: str
    incarnation: str
    upto: int


def news(before: Source | None, heard: Source, streak: int, most: int) -> int:
    """How many results like the last one are to be taken in; 0 = nothing is new.

    Of a source that was not heard before all in a row; else those since. Never more than `most`, the larger threshold:
    further ones change nothing.
    """
    if before is None or before[:2] != heard[:2] or heard.upto < before.upto:
        return min(streak, most)
    return min(heard.upto - before.upto, streak, most)
