"""Carries out bootstrap.py: asks, decides, writes, and asks again, until the member belongs to a cluster or must not.

The composition's duty: `load_origin` before anything else; when it is None, `new_origin` and `save_origin`; unless it
has begun, answer asks with `FirstStart.answer` and await `run`. Then make the log (or open it, should a crash have
come between), then `await begin()`, and only then vote: an origin that has begun and has no log means lost votes.
"""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Awaitable, Callable
from random import Random
from typing import ClassVar

import msgspec
import structlog

from balancer.consensus.bootstrap import Agree, Begin, Origin, Own, Refuse, Wait, answer_of, decide
from balancer.consensus.disk import Disk
from balancer.consensus.peer_connection import PeerError
from balancer.consensus.peer_frames import Answer, Ask, Listed, Member
from balancer.consensus.storage_errors import EXIT_SUSPECT, REJOIN, IdentityError
from balancer.errors import BalancerError
from balancer.telemetry import events

log = structlog.get_logger()

ORIGIN = "origin"
_TEMPORARY = "origin.new"
_NO_DATA = {_TEMPORARY, "lost+found"}  # what an empty directory may hold: a crash's leftover, a file system's own
_MAGIC = b"BLNCRORG1\n"
_DIGEST = 16
_PAUSE_FIRST, _PAUSE_MAX = 0.1, 1.0  # seconds between two rounds of questions

_encode_origin = msgspec.msgpack.Encoder().encode
_decode_origin = msgspec.msgpack.Decoder(Origin).decode


class StartRefusedError(BalancerError):
    """This member must not start as it is. The text says why, and the commands that help."""

    exit_code: ClassVar[int] = EXIT_SUSPECT


# ---- the file


def new_origin(name: str) -> Origin:
    """Of an empty data directory: draws its uuid. Save it before telling it to anybody."""
    return Origin(name, os.urandom(16))


def save_origin(disk: Disk, origin: Origin) -> None:
    """Write it, durably and whole or not at all. Blocks. OSError."""
    body = _encode_origin(origin)
    if _TEMPORARY in disk.names():
        disk.unlink(_TEMPORARY)
    file = disk.create(_TEMPORARY)
    try:
        file.write(_MAGIC + _digest(body) + body, 0)
        file.sync()
    finally:
        file.close()
    disk.rename(_TEMPORARY, ORIGIN)
    disk.sync_directory()


def load_origin(disk: Disk) -> Origin | None:
    """What was saved; None for an empty directory. Blocks. OSError, and IdentityError: nobody may take such a
    directory for empty, because it has voted.
    """
    names = disk.names()
    if ORIGIN not in names:
        others = sorted(set(names) - _NO_DATA)
        if others:
            raise IdentityError(f"the data directory has no file `{ORIGIN}`, but {', '.join(others[:5])}. {REJOIN}")
        return None
    data = disk.read(ORIGIN)
    start = len(_MAGIC)
    body = data[start + _DIGEST :]
    if not data.startswith(_MAGIC) or data[start : start + _DIGEST] != _digest(body):
        raise IdentityError(f"the file `{ORIGIN}` in the data directory is damaged. {REJOIN}")
    try:
        return _decode_origin(body)
    except (msgspec.MsgspecError, ValueError) as error:
        raise IdentityError(f"the file `{ORIGIN}` in the data directory is of another version: {error}") from None


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST).digest()


# ---- asking


class FirstStart:
    """Of one member. `ask(address, question)` raises PeerError where nobody answers."""

    def __init__(
        self, disk: Disk, own: Own, ask: Callable[[str, Ask], Awaitable[Answer]], rng: Random | None = None
    ) -> None:
        self.own = own
        self._disk = disk
        self._ask = ask
        self._rng = rng or Random()
        self._answers: dict[str, Answer] = {}
        self._unreached: dict[str, str] = {}
        self._askers: set[bytes] = set()
        self._news = asyncio.Event()
        self._said: tuple[str, str] = ("", "")

    def answer(self, question: Ask) -> Answer:
        """Who this member is, as far as it is written durably."""
        if question.uuid not in self._askers and len(self._askers) < 100:
            self._askers.add(question.uuid)
            self._news.set()  # somebody who was not there before
        return answer_of(self.own)

    async def run(self) -> Begin:
        """Until the member may belong to a cluster. StartRefusedError, and OSError of the disk."""
        pause = 0.0  # nobody was asked yet
        while True:
            match decide(self.own, self._answers):
                case Begin() as begin:
                    return begin
                case Refuse(words):
                    raise StartRefusedError(words)
                case Agree(origin):
                    await self._save(origin)
                    log.info(events.FOUNDING_AGREED, name=origin.name, cluster=f"{origin.cluster_id:x}")
                    pause = 0.0  # the others may have agreed, too, by now
                case Wait(words):
                    if pause:
                        self._tell(words)
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(pause * self._rng.uniform(0.5, 1)):
                                await self._news.wait()
                    pause = min(2 * pause, _PAUSE_MAX) or _PAUSE_FIRST
            self._news.clear()
            await self._ask_all()

    async def begin(self, begin: Begin) -> None:
        """Write that this member may have voted; its log is there. OSError."""
        await self._save(begin.origin)
        origin = begin.origin
        log.info(events.MEMBER_BEGAN, name=origin.name, cluster=f"{origin.cluster_id:x}", node=f"{origin.node_id:x}")

    async def _save(self, origin: Origin) -> None:
        await asyncio.to_thread(save_origin, self._disk, origin)
        self.own = Own(origin, self.own.listed, self.own.join)  # only now is anybody told

    async def _ask_all(self) -> None:
        """Once each: the listed members; after the agreement those who agreed to each other."""
        origin = self.own.origin
        known: tuple[Listed, ...] | tuple[Member, ...] = origin.members or self.own.listed
        question = Ask(origin.name, origin.uuid)
        others = [(member.name, member.address) for member in known if member.name != origin.name]
        await asyncio.gather(*(self._ask_one(name, address, question) for name, address in others))

    async def _ask_one(self, name: str, address: str, question: Ask) -> None:
        try:
            self._answers[name] = await self._ask(address, question)
            self._unreached.pop(name, None)
        except PeerError as error:
            self._unreached[name] = str(error)

    def _tell(self, words: str) -> None:
        unreached = "; ".join(f"{name}: {reason}" for name, reason in sorted(self._unreached.items()))
        if (words, unreached) != self._said:
            self._said = (words, unreached)
            log.warning(events.MEMBER_START_DELAYED, name=self.own.origin.name, reason=words, unreached=unreached)
