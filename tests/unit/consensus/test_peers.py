"""Links between members over real sockets: what is sent arrives or is counted, and nobody is in anybody's way."""

import asyncio
import contextlib
import os
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest
import uvloop
from structlog.testing import capture_logs

from balancer.consensus import peer_link
from balancer.consensus.peer_connection import PeerConnection, PeerError, PeerLimits
from balancer.consensus.peer_frames import Answer, Ask, Forward, Frame, KeepAlive, Member, encode, frame_bytes
from balancer.consensus.peer_hello import PeerIdentity
from balancer.consensus.peers import Peers, Security
from balancer.raft.log_entry import Entry, NodeId
from balancer.raft.message import Append, Heartbeat
from tests.support.cables import Cable
from tests.support.certificates import authority, issued

DEADLINE = 10.0
NUMBER = 0xC1
SECRET = Security(b"a secret of some length")
QUICK = PeerLimits(backoff_first=0.005, backoff_max=0.05)
LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


def run(test: Callable[[], Awaitable[Any]], loop: str = "uvloop") -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test()
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert left == []

    LOOPS[loop]().close()  # libuv opens a pipe of its own with the first loop of the process
    before = set(os.listdir("/proc/self/fd"))
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(bounded())
    assert set(os.listdir("/proc/self/fd")) <= before


def uuid(number: int) -> bytes:
    return bytes([number]) * 16


def beat(sender: int, to: int, read_id: int = 0) -> Heartbeat:
    return Heartbeat(sender=sender, to=to, term=1, commit=0, read_id=read_id)


class Site:
    """A member with its links, and what happened to it."""

    def __init__(self, number: int, security: Security | None = None, **more: Any) -> None:
        self.number = number
        self.frames: list[tuple[NodeId, Frame]] = []
        self.links: list[tuple[NodeId, bool]] = []
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.sock.getsockname()[1]}"
        identity = more.pop("identity", None) or PeerIdentity(NUMBER, number, uuid(number), f"n{number}")
        self.member = Member(identity.node_id, identity.name, self.address, identity.uuid)
        self.news = asyncio.Event()
        self.peers = Peers(
            identity,
            on_frame=self.on_frame,
            on_ask=lambda ask: Answer(identity.name, identity.uuid, identity.cluster_id),
            on_link=self.on_link,
            security=security,
            limits=more.pop("limits", QUICK),
            rng=Random(number),
        )
        self.peers.start(self.sock)

    def on_frame(self, sender: NodeId, frame: Frame) -> None:
        self.frames.append((sender, frame))
        self.news.set()

    def on_link(self, node_id: NodeId, up: bool) -> None:
        self.links.append((node_id, up))
        self.news.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                self.news.clear()
                with contextlib.suppress(TimeoutError):  # not every condition is announced
                    async with asyncio.timeout(0.01):
                        await self.news.wait()

    def knows(self, *others: "Site | Member") -> None:
        members = [self.member, *(other.member if isinstance(other, Site) else other for other in others)]
        self.peers.set_members({member.node_id: member for member in members})


async def meet(*sites: Site) -> None:
    for site in sites:
        site.knows(*(other for other in sites if other is not site))
    for site in sites:
        await site.until(lambda site=site: all(site.peers.up(other.number) for other in sites if other is not site))


async def part(*sites: Site) -> None:
    for site in sites:
        await site.peers.close()


def at(site: Site, address: str) -> Member:
    """That member, behind another address."""
    return Member(site.member.node_id, site.member.name, address, site.member.uuid)


def tls(ca: str = "test authority", *, trusted: str = "test authority") -> Security:
    pair = issued("127.0.0.1", ca=ca)
    contexts = []
    for protocol in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        context = ssl.SSLContext(protocol)
        context.load_cert_chain(pair.cert_path, pair.key_path)
        context.load_verify_locations(authority(trusted).cert_path)
        context.verify_mode = ssl.CERT_REQUIRED
        contexts.append(context)
    return Security(server=contexts[0], client=contexts[1])


SECURITIES: dict[str, Callable[[], Security]] = {
    "nothing": Security,
    "a secret": lambda: SECRET,
    "TLS": tls,
    "both": lambda: Security(SECRET.secret, tls().server, tls().client),
}


# ---- frames


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("security", SECURITIES)
def test_two_members_hear_each_other(security: str, loop: str) -> None:
    async def test() -> None:
        one, two = Site(1, SECURITIES[security]()), Site(2, SECURITIES[security]())
        await meet(one, two)
        large = Append(
            sender=1,
            to=2,
            term=3,
            previous_index=0,
            previous_term=0,
            commit=0,
            entries=tuple(Entry(n + 1, 1, data=os.urandom(10_000)) for n in range(100)),
        )
        for frame in (beat(1, 2), large, Forward(1, b"command")):
            one.peers.send(2, frame)
        two.peers.send(1, KeepAlive(5, 6))
        await two.until(lambda: len(two.frames) == 3)
        await one.until(lambda: one.frames)
        assert two.frames == [(1, beat(1, 2)), (1, large), (1, Forward(1, b"command"))]
        assert one.frames == [(2, KeepAlive(5, 6))]
        assert (one.links, two.links) == ([(2, True)], [(1, True)])
        await part(one, two)

    run(test, loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_three_members_get_every_frame_in_order(loop: str) -> None:
    async def test() -> None:
        sites = [Site(number, SECRET) for number in (1, 2, 3)]
        await meet(*sites)
        count = 3000
        for number in range(count):
            for site in sites:
                for other in sites:
                    if other is not site:
                        site.peers.send(other.number, beat(site.number, other.number, number))
            if number % 100 == 0:
                await asyncio.sleep(0)
        for site in sites:
            await site.until(lambda site=site: len(site.frames) == 2 * count)
            for other in sites:
                ids = [frame.read_id for sender, frame in site.frames if sender == other.number]  # type: ignore[union-attr]
                assert ids == (list(range(count)) if other is not site else [])
        for site in sites:
            for counters in site.peers.counters.values():
                assert (counters.sent, counters.received, counters.dropped, counters.connects) == (count, count, 0, 1)
                assert counters.sent_bytes > counters.received_bytes > 10 * count
        await part(*sites)

    run(test, loop)


def test_the_frames_of_one_turn_leave_in_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        one, two = Site(1, SECRET), Site(2, SECRET)
        await meet(one, two)
        writes = []
        write = PeerConnection.write
        monkeypatch.setattr(
            PeerConnection, "write", lambda connection, data: (writes.append(len(data)), write(connection, data))
        )
        for number in range(50):
            one.peers.send(2, beat(1, 2, number))
        assert writes == []
        await two.until(lambda: len(two.frames) == 50)
        assert len(writes) == 1
        one.peers.send(2, beat(1, 2, 50))
        one.peers.flush()
        assert len(writes) == 2  # at once, for who is at the end of its turn
        await two.until(lambda: len(two.frames) == 51)
        await part(one, two)

    run(test)


def test_what_cannot_leave_is_dropped_and_counted() -> None:
    async def test() -> None:
        one, two = Site(1, limits=PeerLimits(frame=1000, backoff_first=0.005)), Site(2)
        one.peers.send(2, beat(1, 2))
        assert one.peers.others.dropped == 1  # nobody of that number
        one.knows(two)
        one.peers.send(2, beat(1, 2))
        assert one.peers.counters[2].dropped == 1  # not connected yet
        await one.until(lambda: one.peers.up(2))
        one.peers.send(2, Forward(1, bytes(1001)))
        assert one.peers.counters[2].dropped == 2  # too large
        one.peers.send(2, Forward(1, b"fits"))
        await two.until(lambda: two.frames)
        assert two.frames == [(1, Forward(1, b"fits"))]
        await part(one, two)
        one.peers.send(2, beat(1, 2))  # closed, and still no error

    run(test)


def test_a_member_that_listens_nowhere_yet_may_send() -> None:
    async def test() -> None:
        two = Site(2)
        identity = PeerIdentity(NUMBER, 1, uuid(1), "n1")
        one = Peers(identity, on_frame=lambda *_: None, on_ask=two.peers.on_ask, limits=QUICK)
        one.set_members({2: two.member})
        await two.until(lambda: one.up(2))
        one.send(2, beat(1, 2))
        await two.until(lambda: two.frames)
        await one.close()
        await part(two)

    run(test)


def deaf(site: Site, *, deaf: bool = True) -> None:
    """Let a member stop, or resume, to read what comes."""
    listener = site.peers._listener
    assert listener is not None
    for connection in listener._links.values():
        transport = connection._transport
        assert transport is not None
        (transport.pause_reading if deaf else transport.resume_reading)()


def test_a_member_that_does_not_read_delays_nobody_and_costs_a_bounded_queue() -> None:
    async def test() -> None:
        limits = PeerLimits(queue_bytes=1_000_000, unacknowledged=60)
        one, two, three = Site(1, SECRET, limits=limits), Site(2, SECRET), Site(3, SECRET)
        await meet(one, two, three)
        deaf(two)
        counters = one.peers.counters[2]
        number = 0
        while counters.dropped < 100:
            one.peers.send(2, Forward(number, bytes(50_000)))
            one.peers.send(3, Forward(number, b""))
            assert one.peers.queued(2) <= limits.queue_bytes
            number += 1
            await asyncio.sleep(0)
        await three.until(lambda: len(three.frames) == number)  # all of them, meanwhile
        assert one.peers.counters[3].dropped == 0
        deaf(two, deaf=False)
        await two.until(lambda: len(two.frames) == number - counters.dropped)
        ids = [frame.request_id for _, frame in two.frames]  # type: ignore[union-attr]
        assert ids == sorted(set(ids))
        assert one.links.count((2, False)) == 0  # it is still the same connection
        await part(one, two, three)

    run(test)


def test_the_count_of_waiting_frames_is_bounded_as_well() -> None:
    async def test() -> None:
        one, two = Site(1, limits=PeerLimits(queue_count=10)), Site(2)
        await meet(one, two)
        for number in range(25):
            one.peers.send(2, beat(1, 2, number))
        assert one.peers.counters[2].dropped == 15
        await two.until(lambda: len(two.frames) == 10)
        await part(one, two)

    run(test)


# ---- links that break


def test_a_cut_link_is_noticed_and_comes_back() -> None:
    async def test() -> None:
        one, two = Site(1, SECRET), Site(2, SECRET)
        cable = await Cable.to(two.address)
        one.knows(at(two, cable.address))
        two.knows(one)
        await one.until(lambda: one.peers.up(2))
        with capture_logs() as logged:
            for round_ in range(1, 4):
                cable.snap()
                await one.until(lambda: not one.peers.up(2))
                one.peers.send(2, beat(1, 2))
                assert one.peers.counters[2].dropped == round_
                cable.mend()
                await one.until(lambda: one.peers.up(2))
        one.peers.send(2, beat(1, 2, 7))
        await two.until(lambda: two.frames)
        assert two.frames == [(1, beat(1, 2, 7))]
        assert one.links == [(2, True), *[(2, False), (2, True)] * 3]
        assert one.peers.counters[2].connects == 4
        words = [entry["event"] for entry in logged if entry.get("address") == cable.address]
        assert words.count("peer.connected") == 3
        assert "peer.lost" in words
        await part(one, two)
        await cable.close()

    run(test)


def test_a_cut_link_takes_what_waits_with_it() -> None:
    async def test() -> None:
        one, two = Site(1, SECRET, limits=PeerLimits(unacknowledged=60, backoff_first=0.005)), Site(2, SECRET)
        cable = await Cable.to(two.address)
        one.knows(at(two, cable.address))
        await one.until(lambda: one.peers.up(2))
        cable.hold()
        while one.peers.queued(2) < 100_000:
            one.peers.send(2, Forward(1, bytes(50_000)))
            await asyncio.sleep(0)
        dropped = one.peers.counters[2].dropped
        cable.snap()
        await one.until(lambda: not one.peers.up(2))
        assert one.peers.queued(2) == 0
        assert one.peers.counters[2].dropped >= dropped + 2
        cable.mend()
        await one.until(lambda: one.peers.up(2))
        one.peers.send(2, Forward(9, b"new"))
        await two.until(lambda: two.frames and two.frames[-1] == (1, Forward(9, b"new")))
        await part(one, two)
        await cable.close()

    run(test)


def test_tcp_itself_notices_a_machine_that_is_gone() -> None:
    async def test() -> None:
        one, two = Site(1), Site(2)
        await meet(one, two)
        link = one.peers._links[2]._connection
        assert link is not None
        assert two.peers._listener is not None
        (incoming,) = two.peers._listener._links.values()
        for connection in (link, incoming):
            assert connection._transport is not None
            sock = connection._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 3000
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 3
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        await part(one, two)

    run(test)


def test_sent_bytes_that_nobody_takes_end_the_link() -> None:
    async def test() -> None:
        one, two = Site(1, limits=PeerLimits(unacknowledged=0.2, backoff_first=0.005)), Site(2)
        cable = await Cable.to(two.address)
        one.knows(at(two, cable.address))
        await one.until(lambda: one.peers.up(2))
        cable.hold()
        async with asyncio.timeout(DEADLINE):
            while (2, False) not in one.links:
                one.peers.send(2, Forward(1, bytes(100_000)))
                await asyncio.sleep(0.005)
        await part(one, two)
        await cable.close()

    run(test)


def test_tries_are_spaced_out_and_their_trouble_is_logged_once() -> None:
    async def test() -> None:
        pauses: list[float] = []

        class Die(Random):
            def uniform(self, a: float, b: float) -> float:
                pauses.append(a)
                return super().uniform(a, b)

        one, two = Site(1), Site(2)
        one.peers._dialing.rng.__class__ = Die
        await part(two)  # nobody listens there any more
        with capture_logs() as logged:
            one.knows(two)
            await one.until(lambda: len(pauses) > 8)
        assert [entry["event"] for entry in logged] == ["peer.lost"]
        assert pauses[0] == 0.5  # jitter: from half of the pause to the whole
        await part(one)

    run(test)


def test_a_link_waits_twice_as_long_after_each_failure_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        pauses: list[float] = []

        def timeout(seconds: float) -> asyncio.Timeout:
            pauses.append(seconds)
            return real(0.0 if seconds < limits.connect else seconds)

        class Even(Random):
            def uniform(self, a: float, b: float) -> float:
                return b

        limits = PeerLimits(connect=5.0)
        real = asyncio.timeout
        one, two = Site(1, limits=limits), Site(2)
        one.peers._dialing.rng.__class__ = Even
        await part(two)
        monkeypatch.setattr(peer_link.asyncio, "timeout", timeout)
        one.knows(two)
        while len(pauses) < 16:
            await asyncio.sleep(0)
        monkeypatch.undo()
        waits = [seconds for seconds in pauses if seconds != limits.connect]
        assert waits[:7] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0]
        await part(one)

    run(test)


def test_a_peer_that_is_seen_alive_is_connected_to_at_once() -> None:
    async def test() -> None:
        one, two = Site(1, limits=PeerLimits(backoff_first=600, backoff_max=600)), Site(2)
        cable = await Cable.to(two.address)
        cable.snap()
        one.knows(at(two, cable.address))
        await one.until(lambda: cable.refused)
        cable.mend()
        two.knows(one)
        await one.until(lambda: one.peers.up(2))
        await part(one, two)
        await cable.close()

    run(test)


def test_a_newer_connection_of_a_member_takes_the_place_of_a_half_open_one() -> None:
    async def test() -> None:
        two = Site(2, SECRET)
        first = Site(1, SECRET)
        first.knows(two)
        await first.until(lambda: first.peers.up(2))
        second = Site(1, SECRET)  # the same member, back on another address; `first` never said good-bye
        second.knows(two)
        await second.until(lambda: second.peers.up(2))
        await first.until(lambda: (2, False) in first.links)
        assert two.peers._listener is not None
        assert len(two.peers._listener._links) == 1
        await part(first, second, two)

    run(test)


# ---- who belongs, changes


def test_members_come_move_and_go_while_it_runs() -> None:
    async def test() -> None:
        one, two, three = Site(1, SECRET), Site(2, SECRET), Site(3, SECRET)
        await meet(one, two)
        one.knows(two, three)
        await one.until(lambda: one.peers.up(3))
        assert one.peers.up(2)
        cable = await Cable.to(two.address)
        one.knows(at(two, cable.address), three)
        await one.until(lambda: cable.connections and one.peers.up(2))
        assert one.links.count((3, False)) == 0  # who did not move keeps its link
        one.knows(at(two, cable.address))
        one.peers.send(3, beat(1, 3))
        assert not one.peers.up(3)
        assert 3 not in one.peers.counters
        one.peers.send(2, beat(1, 2))
        await two.until(lambda: two.frames)
        assert three.frames == []
        await part(one, two, three)
        await cable.close()

    run(test)


def test_a_member_that_comes_to_belong_to_a_cluster_links_up_then() -> None:
    async def test() -> None:
        empty = PeerIdentity(0, 0, uuid(2), "n2")
        one, two = Site(1, SECRET), Site(2, SECRET, identity=empty)
        member = Member(2, "n2", two.address, uuid(2))
        with capture_logs() as logged:
            one.knows(member)
            await one.until(lambda: len(logged) >= 2)
        reason = "n2 belongs to no cluster: its data directory is empty"
        assert {(entry["reason"], entry["refused_by"]) for entry in logged} == {(reason, "us"), (reason, "peer")}
        two.peers.become(PeerIdentity(NUMBER, 2, uuid(2), "n2"))
        two.peers.set_members({1: one.member, 2: member})
        await one.until(lambda: one.peers.up(2))
        await two.until(lambda: two.peers.up(1))
        await part(one, two)

    run(test)


# ---- who does not belong


@pytest.mark.parametrize(
    ("stranger", "security", "reason"),
    [
        (PeerIdentity(NUMBER, 2, uuid(2), "n2"), Security(b"another long secret"), "the peer secrets of"),
        (PeerIdentity(NUMBER, 2, uuid(2), "n2"), Security(), "has a peer_secret_file and"),
        (PeerIdentity(0xC2, 2, uuid(2), "n2"), SECRET, "n[12] belongs to cluster c[12] and n[12] to c[12]"),
        (PeerIdentity(NUMBER, 2, uuid(99), "n2"), SECRET, r"n2 \(2\) is known with another data directory"),
        (PeerIdentity(NUMBER, 1, uuid(2), "n2"), SECRET, r"has the node id of n[12] \(1\) and another data directory"),
        (PeerIdentity(NUMBER, 1, uuid(1), "n1"), SECRET, "is this member itself, or runs on a copy"),
        (PeerIdentity(NUMBER, 5, uuid(5), "n5"), SECRET, r"answers as n5 \(5\), not as n2 \(2\)"),
    ],
    ids=["other secret", "no secret", "other cluster", "other uuid", "own id", "own uuid", "other member"],
)
@pytest.mark.parametrize("calling", [False, True], ids=["is called", "calls"])
def test_the_wrong_one_is_refused_with_the_reason_in_both_logs(
    stranger: PeerIdentity, security: Security, reason: str, calling: bool
) -> None:
    async def test() -> None:
        one = Site(1, SECRET)
        two = Site(2, security, identity=stranger)
        expected = Member(2, "n2", two.address, uuid(2))
        with capture_logs() as logged:
            if calling:
                one.peers.members[2] = expected
                two.peers.set_members({1: one.member})
                if stranger.node_id == 1:  # it takes itself for n1, and so would not call n1
                    two.peers.set_members({7: Member(7, "n7", one.address, uuid(7))})
            else:
                one.peers.set_members({1: one.member, 2: expected})
            if stranger.node_id == 5 and calling:
                await two.until(lambda: two.peers.up(1))  # a member that is not known yet may call
                await part(one, two)
                return
            await one.until(lambda: {entry["refused_by"] for entry in logged} == {"us", "peer"})
        assert all(entry["event"] == "peer.refused" and entry["log_level"] == "error" for entry in logged)
        assert [entry["reason"] for entry in logged if not re.search(reason, entry["reason"])] == []
        assert not one.peers.up(2)
        assert one.frames == two.frames == []
        await part(one, two)

    run(test)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_certificate_of_another_authority_is_refused(loop: str) -> None:
    async def test() -> None:
        one, two = Site(1, tls()), Site(2, tls("another authority"))
        with capture_logs() as logged:
            one.knows(two)
            two.knows(one)
            await one.until(lambda: {entry["peer"] for entry in logged} >= {"n1", "n2"})
            await one.until(lambda: one.peers.strangers and two.peers.strangers)
        assert any("CERTIFICATE_VERIFY_FAILED" in entry["reason"] for entry in logged)
        assert not one.peers.up(2)
        assert not two.peers.up(1)
        await part(one, two)

    run(test, loop)


def test_a_stranger_without_certificate_gets_no_further() -> None:
    async def test() -> None:
        one, two = Site(1, tls()), Site(2)
        with capture_logs():
            two.knows(one)
            await one.until(lambda: one.peers.strangers)
        assert not two.peers.up(1)
        await part(one, two)

    run(test)


@pytest.mark.parametrize("secure", [True, False], ids=["sealed", "plain"])
def test_an_altered_repeated_or_inserted_frame_ends_the_connection_and_nothing_of_it_is_taken(secure: bool) -> None:
    async def test() -> None:
        security = SECRET if secure else Security()
        one, two = Site(1, security), Site(2, security)
        cable = await Cable.to(two.address)
        one.knows(at(two, cable.address))

        def altered(data: bytes) -> bytes:
            at = data.index(b"beat")
            return data[:at] + b"bear" + data[at + 4 :]

        tricks: list[Callable[[bytes], bytes]] = [altered]
        if secure:
            tricks += [
                lambda data: data + data,
                lambda data: frame_bytes(encode(beat(1, 2, 666)), None) + data,
                lambda data: data[:-1] + bytes([data[-1] ^ 1]),
            ]
        good = 0
        for trick in tricks:
            await one.until(lambda: one.peers.up(2))
            one.peers.send(2, beat(1, 2, good))
            good += 1
            await two.until(lambda good=good: len(two.frames) == good)
            with capture_logs() as logged:
                cable.trick = trick
                one.peers.send(2, beat(1, 2, good))
                await one.until(lambda: not one.peers.up(2))
                cable.trick = None
                await two.until(lambda: any(entry["event"] == "peer.lost" for entry in logged))
            if len(two.frames) > good:  # the first of two equal ones is as it should be
                good += 1
            reasons = [entry["reason"] for entry in logged if entry["peer"] == "n1"]
            assert len(reasons) == 1
            assert re.search("its mac is wrong|where 17 to" if secure else "not understood", reasons[0])
        assert [frame.read_id for _, frame in two.frames] == list(range(good))  # type: ignore[union-attr]
        await part(one, two)
        await cable.close()

    run(test)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (beat(3, 2), "a message from 3 to 2"),
        (beat(1, 3), "a message from 1 to 3"),
        (Heartbeat(sender=1, to=2, term=-1, commit=0), "a number out of range"),
        (Ask("n1", uuid(1)), "not understood"),
    ],
    ids=["in another's name", "to another", "out of range", "not for a link"],
)
def test_a_frame_that_no_member_sends_ends_its_connection(frame: Any, words: str) -> None:
    async def test() -> None:
        one, two = Site(1, SECRET), Site(2, SECRET)
        await meet(one, two)
        with capture_logs() as logged:
            one.peers.send(2, frame)
            await one.until(lambda: (2, False) in one.links)
            await one.until(lambda: one.links.count((2, True)) == 2)
        assert any(words in entry.get("reason", "") for entry in logged)
        assert two.frames == []
        await part(one, two)

    run(test)


def test_an_error_of_ours_in_handling_a_frame_ends_the_connection_and_is_not_hidden() -> None:
    async def test() -> None:
        one, two = Site(1), Site(2)
        await meet(one, two)
        reported: list[BaseException | None] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context.get("exception")))

        def broken(sender: NodeId, frame: Frame) -> None:
            raise ZeroDivisionError

        two.peers.on_frame = broken
        with capture_logs():
            one.peers.send(2, beat(1, 2))
            await one.until(lambda: (2, False) in one.links)
        assert [type(error) for error in reported] == [ZeroDivisionError]
        two.peers.on_frame = two.on_frame
        await one.until(lambda: one.peers.up(2))
        one.peers.send(2, beat(1, 2))
        await two.until(lambda: two.frames)
        await part(one, two)

    run(test)


# ---- strangers


async def hears_the_end(sock: socket.socket) -> bytes:
    """What a raw socket still gets, until the other side closes."""
    sock.setblocking(False)
    got = b""
    async with asyncio.timeout(DEADLINE):
        with contextlib.suppress(ConnectionError):
            while data := await asyncio.get_running_loop().sock_recv(sock, 65536):
                got += data
    sock.close()
    return got


def raw(site: Site) -> socket.socket:
    host, port = site.address.split(":")
    return socket.create_connection((host, int(port)))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\xff\xff\xff\x7f",
        (4097).to_bytes(4, "little"),
        frame_bytes(b"\xc1", None),
        frame_bytes(encode(beat(1, 2)), None),
        frame_bytes(encode(["hello"]), None),
        bytes(100_000),
    ],
    ids=["http", "2 GiB", "more than 4 KiB", "rubbish", "a frame before any hello", "a short hello", "zeros"],
)
def test_what_is_no_handshake_ends_a_connection_at_once(data: bytes) -> None:
    async def test() -> None:
        one = Site(1, SECRET)
        with capture_logs() as logged:
            sock = raw(one)
            sock.sendall(data)
            await hears_the_end(sock)
            await one.until(lambda: logged)
        assert logged[0]["peer"] == "unknown"
        assert one.peers.strangers == 1
        assert one.frames == []
        await part(one)

    run(test)


def test_a_connection_that_stays_silent_is_ended_in_time() -> None:
    async def test() -> None:
        one = Site(1, SECRET, limits=PeerLimits(hello=0.05))
        with capture_logs() as logged:
            silent, half = raw(one), raw(one)
            half.sendall(b"\x10\x00")
            assert await hears_the_end(silent) == b""
            assert await hears_the_end(half) == b""
        assert [entry["reason"] for entry in logged] == ["no handshake within 0.05 s"]  # the same trouble once
        assert one.peers.strangers == 2
        await part(one)

    run(test)


@pytest.mark.parametrize("security", ["a secret", "TLS"])
def test_strangers_who_hold_connections_open_do_not_keep_members_out(security: str) -> None:
    async def test() -> None:
        one, two = Site(1, SECURITIES[security]()), Site(2, SECURITIES[security]())
        with capture_logs():
            strangers = [raw(one) for _ in range(100)]
            assert one.peers._listener is not None
            await one.until(lambda: one.peers.strangers >= 100 - 64)
            assert one.peers._listener.pending == 64
            two.knows(one)
            await two.until(lambda: two.peers.up(1))
            assert one.peers._listener.pending <= 64
            for stranger in strangers:
                stranger.close()
        await part(one, two)

    run(test)


def test_a_flood_of_strangers_does_not_fill_the_log() -> None:
    async def test() -> None:
        one = Site(1, SECRET)
        with capture_logs() as logged:
            for number in range(300):
                sock = raw(one)
                sock.sendall(frame_bytes(encode(["hello", "x" * (number % 3)]), None))
                await hears_the_end(sock)
        assert one.peers.strangers == 300
        assert len(logged) <= 3
        await part(one)

    run(test)


def test_a_shortage_of_descriptors_is_survived() -> None:
    class Tired(socket.socket):
        tired = 3

        def accept(self) -> tuple[socket.socket, Any]:
            if self.tired:
                self.tired -= 1
                raise OSError(24, "Too many open files")
            return super().accept()

    async def test() -> None:
        one, two = Site(1), Site(2)
        sock = Tired(socket.AF_INET, socket.SOCK_STREAM)
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        tired = Peers(
            one.peers.identity, on_frame=one.on_frame, on_ask=one.peers.on_ask, on_link=one.on_link, limits=QUICK
        )
        tired.start(sock)
        two.knows(at(one, f"127.0.0.1:{sock.getsockname()[1]}"))
        await two.until(lambda: two.peers.up(1))
        await tired.close()
        await part(one, two)

    run(test)


# ---- asking


@pytest.mark.parametrize("security", SECURITIES)
def test_whoever_shares_the_secret_may_ask_who_is_there(security: str) -> None:
    async def test() -> None:
        one = Site(1, SECURITIES[security]())
        asking = Site(9, SECURITIES[security](), identity=PeerIdentity(0, 0, uuid(9), "n9"))
        asked: list[Ask] = []
        answer = Answer("n1", uuid(1), NUMBER, True, (one.member,))
        one.peers.on_ask = lambda ask: asked.append(ask) or answer  # type: ignore[func-returns-value]
        assert await asking.peers.ask(one.address, Ask("n9", uuid(9))) == answer
        assert asked == [Ask("n9", uuid(9))]
        await one.until(lambda: one.peers._listener is not None and not one.peers._listener.pending)
        await part(one, asking)

    run(test)


def test_asking_tells_why_there_is_no_answer() -> None:
    async def test() -> None:
        one = Site(1, SECRET, identity=PeerIdentity(0, 0, uuid(1), "n1"), limits=PeerLimits(ask=0.1, connect=0.1))
        gone = Site(2)
        await part(gone)
        mute = socket.create_server(("127.0.0.1", 0))
        other = Site(3, Security(b"another long secret"))
        addresses = {
            gone.address: "refused",
            f"127.0.0.1:{mute.getsockname()[1]}": "no answer within 0.1 s",
            other.address: "the peer secrets of n1 and n3 differ",
            one.address: "is this member itself",
            "nowhere": "lacks its port",
            "name.invalid:7001": "[Nn]ame|no connection within",
        }
        with capture_logs():
            for address, words in addresses.items():
                with pytest.raises(PeerError, match=words):
                    await one.peers.ask(address, Ask("n1", uuid(1)))
        mute.close()
        await part(one, other)

    run(test)


def test_who_asks_and_says_nothing_is_ended_in_time() -> None:
    async def test() -> None:
        one = Site(1, limits=PeerLimits(hello=0.05))
        asking = Site(2)
        connection: list[PeerConnection] = []
        over = asyncio.Event()

        def make() -> PeerConnection:
            return PeerConnection(
                asking.peers._handshake("ask"),
                QUICK,
                opened=connection.append,
                received=lambda *_: None,
                ended=lambda *_: over.set(),
            )

        with capture_logs() as logged:
            await peer_link.dial(one.address, make, QUICK, None)
            async with asyncio.timeout(DEADLINE):
                await over.wait()
        assert connection
        assert [entry["reason"] for entry in logged] == ["no question and answer within 0.05 s"]
        await part(one, asking)

    run(test)


# ---- the end


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("security", ["a secret", "TLS"])
def test_closing_ends_everything_and_calls_nobody(security: str, loop: str) -> None:
    async def test() -> None:
        one, two, three = (Site(number, SECURITIES[security]()) for number in (1, 2, 3))
        await meet(one, two)
        stranger = raw(one)
        gone = Member(4, "n4", "127.0.0.1:1", uuid(4))
        with capture_logs():
            one.knows(two, three, gone)
            two.peers.send(1, beat(2, 1))
            one.peers.send(2, beat(1, 2))
            links = list(one.links)
            await one.peers.close()
            await one.peers.close()
            heard = len(one.frames)
            await two.until(lambda: (1, False) in two.links)
            assert await hears_the_end(stranger) == b""
            assert one.links == links
            assert len(one.frames) == heard
            await part(two, three)

    run(test, loop)


def test_trust_has_conditions() -> None:
    with pytest.raises(ValueError, match="15 bytes"):
        Security(b"x" * 15)
    with pytest.raises(ValueError, match="each side"):
        Security(server=tls().server)
    careless = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(ValueError, match="CERT_REQUIRED"):
        Security(server=careless, client=tls().client)
