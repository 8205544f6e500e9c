"""Runs one case in one mode through one lane of a target, and writes down what the client and the origin saw."""

import functools
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.conformance.model import (
    AwaitClient,
    AwaitOrigin,
    Case,
    Finish,
    Interim,
    Mode,
    Relayed,
    Reset,
    Send,
)
from tests.support.peers import Lane as Addresses
from tests.support.raw_client import Pulse, Wire
from tests.support.raw_messages import Message, read_response
from tests.support.raw_origin import PROBE_TARGET, OriginConnection, RawOrigin

PATIENCE = 4.0
"""Seconds to wait for what must happen; far above what any target needs, far below every default timeout."""

PROBE = b"GET /probe HTTP/1.1\r\nHost: probe\r\n\r\n"


@dataclass
class Lane:
    """An origin and the addresses that lead to it; one case at a time uses it."""

    origin: RawOrigin
    addresses: Addresses


@dataclass
class Arrived:
    """One request at the origin, in order of arrival."""

    connection: int
    message: Message


@dataclass
class Observation:
    """Everything that a verdict needs."""

    responses: list[Message]
    leftover: bytes
    received: bytes
    client_end: str
    arrived: list[Arrived]
    fragments: dict[int, bytes]  # per connection: bytes behind its last request, or in place of one
    connections: int  # that were opened to the origin, the probe's alone not counted
    ended_upstream: list[bool]  # per connection: the proxy ended it
    probe_connection: int  # where the probe came in; -1 = never
    probe_answered: bool
    probed_on_client: bool
    probes: int  # that reached the origin
    lingering: bool  # the client's connection stands, said to be closed, and may do so (Case.lingers)
    values: dict[bytes, bytes] = field(default_factory=dict)


def read_responses(data: bytes, methods: Iterable[str], ended: bool) -> tuple[list[Message], int]:
    """All responses that begin in `data`, and the offset behind the last complete one."""
    found: list[Message] = []
    at = 0
    methods = list(methods)
    final = 0
    while at < len(data):
        method = methods[final] if final < len(methods) else "GET"
        message = read_response(data, at, method, ended)
        if message is None:
            break
        found.append(message)
        if not message.complete:
            break
        at = message.end
        if message.status == 101:
            break
        if not message.interim:
            final += 1
    return found, at


class Run:
    """One case in one mode."""

    def __init__(self, lane: Lane, case: Case, mode: Mode, tls: ssl.SSLContext) -> None:
        self.lane = lane
        self.case = case
        self.mode = mode
        self.address = lane.addresses[case.variant, mode.tls]
        self.tls = tls if mode.tls else None
        self.pulse: Pulse = lane.origin.pulse
        self.methods = [answer.method for answer in case.answers if not isinstance(answer, Interim)]

    async def observe(self) -> Observation:
        """Run it. Raises OSError when the target cannot be reached."""
        origin = self.lane.origin
        sent_replies = 0

        def cuts(data: bytes) -> Iterable[int]:
            nonlocal sent_replies
            start = sent_replies
            sent_replies += len(data)
            return self.mode.reply_cuts(start, len(data))

        origin.begin(self.case.script, cuts)
        wire = await Wire.connect(self.address, self.pulse, self.tls)
        origin.client = wire
        try:
            await self._steps(wire)
            await self._answers(wire)
            on_client = await self._probe_on(wire) if self._expects_more(wire) else False
            answered = on_client or await self._probe_apart()
            await self._upstream_ends()
            return self._note(wire, answered, on_client)
        finally:
            wire.close()
            await origin.settle()

    async def _steps(self, wire: Wire) -> None:
        start = 0
        for step in self.case.steps:
            if isinstance(step, Send):
                await wire.send(step.data, self.mode.request_cuts(start, len(step.data)))
                start += len(step.data)
            elif isinstance(step, AwaitClient):
                await self.pulse.until(functools.partial(_has, wire, step.data), PATIENCE)
            elif isinstance(step, AwaitOrigin):
                await self.pulse.until(self._origin_has(step.data), PATIENCE)
            elif isinstance(step, Finish):
                await wire.consumed()
                wire.finish()
            elif isinstance(step, Reset):
                await wire.consumed()
                wire.reset()
                return
            else:
                await self.pulse.until(self._upstream_is_over, PATIENCE)

    def _upstream_is_over(self) -> bool:
        return all(connection.wire.ended for connection in self.lane.origin.connections)

    def _origin_has(self, data: bytes) -> Callable[[], bool]:
        return lambda: any(data in connection.wire.received for connection in self.lane.origin.connections)

    def _responses(self, wire: Wire) -> tuple[list[Message], int]:
        return read_responses(bytes(wire.received), self.methods, bool(wire.ended))

    def _finals(self, wire: Wire) -> int:
        return sum(1 for message in self._responses(wire)[0] if message.complete and not message.interim)

    async def _answers(self, wire: Wire) -> None:
        """Wait for the expected answers, and for the end of the connection where one is expected."""
        wanted = len(self.methods)
        if self.case.end == "closed":
            await self.pulse.until(lambda: bool(wire.ended) or self._may_linger(wire), PATIENCE)
            if not wire.ended and self._may_linger(wire):
                await wire.send(PROBE)  # must be ignored: the verdict counts the probes that reached the origin
                await wire.consumed()
            return
        if self.case.end == "broken":
            await self.pulse.until(lambda: bool(wire.ended) or self._is_502(wire), PATIENCE)
            return
        raw = b"".join(answer.raw for answer in self.case.answers if isinstance(answer, Relayed))

        def enough() -> bool:
            if wire.ended:
                return True
            found, at = self._responses(wire)
            finals = sum(1 for message in found if message.complete and not message.interim)
            return finals >= wanted and len(wire.received) - at >= len(raw)

        await self.pulse.until(enough, PATIENCE)
        for forwarded in self.case.forwarded:
            following = getattr(forwarded, "raw", b"")
            if following:
                await self.pulse.until(self._origin_has(following), PATIENCE)
        if self.case.end == "stated" and self._says_close(wire) and not self._may_linger(wire):
            await self.pulse.until(lambda: bool(wire.ended), PATIENCE)

    def _may_linger(self, wire: Wire) -> bool:
        """Everything is said, and this is a case in which a connection over TLS may stand for a while."""
        lingers = self.mode.tls and self.case.lingers
        return lingers and self._finals(wire) >= len(self.methods) and self._says_close(wire)

    def _says_close(self, wire: Wire) -> bool:
        found = [message for message in self._responses(wire)[0] if not message.interim]
        return bool(found) and any(b"close" in value.lower() for value in found[-1].values(b"connection"))

    def _expects_more(self, wire: Wire) -> bool:
        if self.case.end == "kept":
            return True
        stated = self.case.end == "stated" or (self.case.end == "broken" and self._is_502(wire))
        return stated and not self._says_close(wire) and not wire.ended

    def _is_502(self, wire: Wire) -> bool:
        return any(message.status == 502 and message.complete for message in self._responses(wire)[0])

    async def _probe_on(self, wire: Wire) -> bool:
        """Send a further request on the same connection; whether it was answered."""
        if wire.ended or not await wire.send(PROBE):
            return False
        wanted = len(self.methods) + 1
        await self.pulse.until(lambda: bool(wire.ended) or self._finals(wire) >= wanted, PATIENCE)
        return self._finals(wire) >= wanted and wire.received.endswith(b"\r\n\r\nprobe")

    async def _probe_apart(self) -> bool:
        """A request on a fresh connection: once it is answered, whatever was forwarded before has arrived."""
        probe = await Wire.connect(self.lane.addresses["plain", False], self.pulse)
        try:
            await probe.send(PROBE)
            await self.pulse.until(lambda: bool(probe.ended) or probe.received.endswith(b"\r\n\r\nprobe"), PATIENCE)
            return probe.received.endswith(b"\r\n\r\nprobe")
        finally:
            probe.close()

    async def _upstream_ends(self) -> None:
        """Where upstream connections must be ended by the proxy, wait for that."""
        partial = any(not hasattr(forwarded, "raw") for forwarded in self.case.forwarded)
        if not partial and self.case.upstream != "closed":
            return
        probes = {id(c) for c, start in self.lane.origin.arrivals if _is_probe(c, start)}
        others = [c for c in self.lane.origin.connections if id(c) not in probes]
        await self.pulse.until(lambda: all(c.wire.ended for c in others), PATIENCE)

    def _note(self, wire: Wire, answered: bool, on_client: bool) -> Observation:
        origin = self.lane.origin
        number = {id(connection): index for index, connection in enumerate(origin.connections)}
        arrived, probe, probes = [], -1, 0
        last: dict[int, Message] = {}
        for connection, start in origin.arrivals:
            message = connection.at(start)
            assert message is not None
            index = number[id(connection)]
            last[index] = message
            if message.target == PROBE_TARGET:
                probe = index
                probes += 1
            else:
                arrived.append(Arrived(index, message))
        fragments = {}
        for index, connection in enumerate(origin.connections):
            latest = last.get(index)
            if latest is None:
                fragments[index] = bytes(connection.wire.received)
            elif latest.complete and not latest.broken:
                fragments[index] = bytes(connection.wire.received[latest.end :])
        found, at = self._responses(wire)
        used = {entry.connection for entry in arrived}
        return Observation(
            responses=found,
            leftover=bytes(wire.received[at:]) if not found or found[-1].complete else b"",
            received=bytes(wire.received),
            client_end=wire.ended,
            arrived=arrived,
            fragments={index: data for index, data in fragments.items() if data},
            connections=sum(1 for index in range(len(origin.connections)) if index in used or index != probe),
            ended_upstream=[connection.peer_left for connection in origin.connections],
            probe_connection=probe,
            probe_answered=answered,
            probed_on_client=on_client,
            probes=probes,
            lingering=not wire.ended and self._may_linger(wire),
            values={
                b"<port>": b"%d" % self.address[1],
                b"<proto>": b"https" if self.mode.tls else b"http",
                b"<client>": b"127.0.0.1",
                b"<backend>": b"127.0.0.1:%d" % origin.port,
            },
        )


def _has(wire: Wire, data: bytes) -> bool:
    return data in wire.received or bool(wire.ended)


def _is_probe(connection: OriginConnection, start: int) -> bool:
    message = connection.at(start)
    return message is not None and message.target == PROBE_TARGET
