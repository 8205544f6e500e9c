"""A gateway over one state machine, without sockets: clients that send, wait, watch and leave, and the time.

`World.begin` sends a request as the HTTP server would hand it over: bodies of streams in pieces, the answer's pieces
taken one by one, and a client that leaves ends its stream and cancels the handler.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import msgspec

from balancer.consensus.gateway import Gateway
from balancer.consensus.peer_frames import FRAME_MAX, Change, Forward, KeepAlive, decode_frame, encode
from balancer.consensus.service import Watches
from balancer.coordination import requests
from balancer.coordination.command import Command, Ticket
from balancer.coordination.command import Request as Asked
from balancer.coordination.command import encode as encode_command
from balancer.transport.http_server import BodyStream, Request, Response
from tests.fuzz.findings import check
from tests.fuzz.gateway_grammar import LEASES, SESSION
from tests.fuzz.gateway_requests import Given
from tests.support.etcd_memory_service import UNNUMBERED, MemoryService
from tests.support.virtual_loop import VirtualLoop

TURNS_MAX = 20_000
BUFFER_MAX = 64 * 1024  # of a stream's body that is not taken, beside one piece


class Follower(MemoryService):
    """Hands what only a leader can do over the wire, as a member does that does not lead."""

    async def apply(self, request: Asked, ticket: Ticket | None = None) -> msgspec.Struct:
        command = encode_command(Command(*(ticket or UNNUMBERED), request))
        self._hand_on(Forward(1, command))
        return await super().apply(request, ticket)

    async def renew(self, lease: int) -> int:
        self._hand_on(KeepAlive(1, lease))
        return await super().renew(lease)

    async def remaining(self, lease: int) -> int:
        self._hand_on(KeepAlive(1, lease, renew=False))
        return await super().remaining(lease)

    async def member_add(self, request: requests.MemberAddRequest) -> Any:
        self._hand_on(Change(1, "add", 0, "".join(request.peerURLs[:1])))
        return await super().member_add(request)

    async def member_remove(self, request: requests.MemberChangeRequest) -> Any:
        self._hand_on(Change(1, "remove", request.ID))
        return await super().member_remove(request)

    async def member_promote(self, request: requests.MemberChangeRequest) -> Any:
        self._hand_on(Change(1, "promote", request.ID))
        return await super().member_promote(request)

    async def move_leader(self, request: requests.MoveLeaderRequest) -> Any:
        self._hand_on(Change(1, "transfer", request.targetID))
        return await super().move_leader(request)

    @staticmethod
    def _hand_on(frame: Forward | KeepAlive | Change) -> None:
        """A frame that the leader does not take would end the connection between the two."""
        payload = encode(frame)
        check(len(payload) <= FRAME_MAX and decode_frame(payload) == frame, "no frame that a leader takes")


Call = tuple[str, Any, tuple[int, int, int] | None]  # its name, the message's fields that are not zero, the ticket


class Recorder:
    """Passes on what the gateway asks for, and remembers it."""

    def __init__(self, member: MemoryService) -> None:
        self._member = member
        self.calls: list[Call] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._member, name)

        def ask(*given: Any, **named: Any) -> Any:
            asked = given[0] if given else {key: value for key, value in named.items() if value}
            ticket = given[1] if len(given) > 1 else None
            self.calls.append((name, plain(asked), None if ticket is None else tuple(ticket)))
            return call(*given, **named)

        return ask

    def watch(self) -> "RecordedWatches":
        return RecordedWatches(self._member, self.calls)


class RecordedWatches(Watches):
    """The same for a stream of watches."""

    def __init__(self, member: MemoryService, calls: list[Call]) -> None:
        super().__init__(member)
        self._calls = calls

    async def create(self, request: requests.WatchCreateRequest) -> None:
        self._calls.append(("create_request", plain(request), None))
        await super().create(request)

    async def cancel(self, watch_id: int) -> None:
        self._calls.append(("cancel_request", watch_id, None))
        await super().cancel(watch_id)

    async def request_progress(self) -> None:
        self._calls.append(("progress_request", None, None))
        await super().request_progress()


def plain(value: Any) -> Any:
    """A message as the fields that are not zero."""
    if isinstance(value, msgspec.Struct):
        fields = {name: plain(getattr(value, name)) for name in value.__struct_fields__}
        return {name: part for name, part in fields.items() if part or type(part) is dict}
    if isinstance(value, tuple):
        return [plain(part) for part in value]
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value


class Client:
    """Whoever sent one request. `response` is there once its status is, `pieces` once they were read."""

    def __init__(self, world: "World", given: Given) -> None:
        self.given = given
        self.response: Response | None = None
        self.pieces: list[bytes] = []
        self.read_to_end = False
        self._world = world
        self._gone = asyncio.Event()
        body = given.body
        self.stream: BodyStream | None = None
        self._unsent = list(given.pieces)
        request = Request(given.method, given.target, "1.1", given.headers, body)
        if body and world.rules.streamed(request):
            self.stream = BodyStream(lambda: None)
            request = Request(given.method, given.target, "1.1", given.headers, b"", self.stream)
        self.task = asyncio.create_task(self._served(request))

    @property
    def waits(self) -> bool:
        """There is no status yet."""
        return self.response is None

    async def _served(self, request: Request) -> None:
        """As the connection of the HTTP server does it."""
        self.response = response = await self._world.rules.handler(request)
        if isinstance(response.body, bytes):
            return
        try:
            if not self.given.reads:
                await self._gone.wait()
            async for piece in response.body:
                self.pieces.append(piece)
            self.read_to_end = True
        finally:
            await cast(Any, response.body).aclose()

    async def send(self) -> None:
        """The body, piece by piece; no more of it while too much waits to be read."""
        if self.stream is None:
            return
        for piece in self._unsent:
            if self.stream.full:
                return
            self.stream.feed(piece)
            await self._world.rest()
            check(self.stream._size <= BUFFER_MAX + len(piece), "a body that is not read is held")
        if self.given.ended:
            self.stream.end()

    async def leave(self) -> None:
        """The connection is lost. Raises what the handler raised, but not that it was cancelled."""
        if self.stream is not None:
            self.stream.end()
        self.task.cancel()
        await self._world.rest()
        check(self.task.done(), "the handler goes on although its client has gone")
        with suppress(asyncio.CancelledError):
            self.task.result()


class World:
    """Begin it inside a running VirtualLoop."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self._loop = cast(Any, loop)
        self.member = Follower()
        self.asked = Recorder(self.member)
        self.rules = Gateway(cast(Any, self.asked), hosts=frozenset(["kv.example"])).server().rules
        self.clients: list[Client] = []  # that stay
        self.faults: list[str] = []
        loop.set_exception_handler(lambda _, context: self.faults.append(f"{context}"))

    async def prepare(self) -> None:
        """A client's session, some leases and keys."""
        member = self.member
        check((await member.open_session()).session == SESSION, "the first session has another number")
        for lease in LEASES:
            await member.lease_grant(requests.LeaseGrantRequest(TTL=30, ID=lease))
        for key in (b"foo", b"a/b", b"lock/8"):
            await member.put(requests.PutRequest(key, b"old", 8))

    @property
    def revision(self) -> int:
        """The store's."""
        return self.member.machine.revision

    def state(self, *, sessions: bool = True) -> tuple[object, ...]:
        """What `StateMachine.hash` is made of, but for the place in the log, which a refused command has, too."""
        machine = self.member.machine
        space = machine.space
        found: tuple[object, ...] = (
            *(space.revision, space.compacted, space.log.first, space.size, space.digest),
            *(machine.leases.digest, len(machine.leases), machine.leases.size),
        )
        if sessions:
            kept = [(number, one.answered_below, len(one.answers), one.size) for number, one in machine.sessions]
            found += (tuple(kept),)
        return found

    async def rest(self, turns: int = TURNS_MAX) -> None:
        """Until everybody waits, or for so many turns of the loop. No time passes."""
        for _ in range(turns):
            if not self._loop._ready:
                return
            await asyncio.sleep(0)
        check(turns < TURNS_MAX, "it does not come to rest")

    async def begin(self, given: Given) -> Client:
        """Send a request; until everybody waits, or the client leaves."""
        client = Client(self, given)
        if given.leaves is not None:
            await self.rest(given.leaves)
            await client.leave()
            return client
        await self.rest()
        await client.send()
        await self.rest()
        return client

    async def let_pass(self, seconds: float) -> None:
        """Time passes, and leases end."""
        await asyncio.sleep(seconds)
        await self.rest()

    async def end(self) -> None:
        """All clients leave; nothing may be left of them."""
        while self.clients:
            await self.clients.pop().leave()
        self.check_left()

    def check_left(self) -> None:
        """That nothing is left of those that have gone, where nobody stayed."""
        check(not self.faults, f"told to the loop: {self.faults}")
        if self.clients:
            return
        member, turns, synced = self.member, self.member._turns, self.member.hub._synced
        left = {
            "streams of watches": len(member.hub._streams),
            "watches": member.hub.watchers,
            "ranges that are watched": len(synced._keys) + len(synced._prefixes) + len(synced._others),
            "streams to be woken": len(member.wakers) + len(member.hub._ready),
            "callers for their turn": len(turns._callers),
            "claims that wait": len(turns._waiters),
            "claims to be given up": len(turns._releases),
            "tasks": len(asyncio.all_tasks()) - 1,
            "timers of streams": sum(map(_is_of_watches, self._loop._scheduled)),
        }
        found = [f"{count} {what}" for what, count in left.items() if count]
        check(not found, f"left behind: {', '.join(found)}")


def _is_of_watches(timer: Any) -> bool:
    return not timer.cancelled() and isinstance(getattr(timer._callback, "__self__", None), Watches)
