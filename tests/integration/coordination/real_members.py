"""Real members: processes that are started, killed, stopped and started again as their supervisor would.

async with running_members(folder, names) as members: ...
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import monotonic

import msgspec

from balancer.config.model import EmbeddedCluster, Log
from balancer.consensus.client_http import ExchangeError, Server
from balancer.consensus.client_json import decoded
from balancer.consensus.storage_errors import EXIT_TRANSIENT
from balancer.coordination.errors import CoordinationError
from balancer.coordination.responses import PutResponse, RangeResponse, StatusResponse
from balancer.daemon.member_messages import MemberMessage, MemberReport, MemberStart
from balancer.transport.framed import Channel, Received, pair
from tests.integration.coordination.real_disks import Disk, make_disks
from tests.integration.coordination.real_network import Namespaces, Network, NoNamespacesError
from tests.integration.coordination.real_relays import Relays

NAMES = ("n1", "n2", "n3")
SECRET = b"a secret of the real members of a test"
PATIENCE = 60.0
"""Seconds for what takes less than one on a machine that has nothing else to do."""

SEGMENT_BYTES = 64 * 1024
SNAPSHOT_EVERY = 1_000
_PROJECT = Path(__file__).resolve().parents[3]
_AGAIN_AFTER = 0.2  # seconds until a member that failed is started again
_LINES = 2_000
FORCED = "BALANCER_TEST_NETWORK"
"""The environment variable that, set to "relays", has relays used even where there can be namespaces."""


class MemberFailedError(AssertionError):
    """A member ended as it should not have, or does not come."""


class RealMember:
    """One of them. `wanted`: it is to run, and is started again after a failure that its disk explains."""

    def __init__(self, name: str, orders: EmbeddedCluster, network: Network, disk: Disk) -> None:
        self.name = name
        self.orders = orders
        self.disk = disk
        self.network = network
        self.data = Path(orders.data_dir)
        self.url = f"http://{orders.client.host}:{orders.client.port}"
        self.said: deque[str] = deque(maxlen=_LINES)
        self.codes: list[int] = []  # with which it ended, each time
        self.terms = 0
        self.wanted = False
        self.may_fail: Callable[[int], bool] = lambda _: False
        self.problems: list[str] = []
        self.process: asyncio.subprocess.Process | None = None
        self._freed = 0.0
        self._watching: asyncio.Task[None] | None = None
        self._server = Server(self.url)

    # ---- its process

    async def start(self) -> None:
        """Have it run, from now on."""
        self.wanted = True
        if self._watching is None or self._watching.done():
            self._watching = asyncio.get_running_loop().create_task(self._keep())
            await asyncio.sleep(0)

    async def kill(self) -> None:
        """End it at once, whatever it does, and do not start it again."""
        self.wanted = False
        self._signal(signal.SIGKILL)
        if self._watching is not None:
            await self._watching

    def stop(self) -> None:
        """In its tracks."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """After `stop`."""
        self._signal(signal.SIGCONT)

    def fill_disk(self) -> None:
        """Until `free_disk` there is no room."""
        self.disk.fill()

    def free_disk(self) -> None:
        """There is room again."""
        self._freed = monotonic()
        self.disk.free()

    @property
    def runs(self) -> bool:
        """Its process is there, be it stopped, or about to be."""
        return self.wanted or (self.process is not None and self.process.returncode is None)

    def tail(self, lines: int = 15) -> str:
        """The end of what it said."""
        return "\n".join(list(self.said)[-lines:])

    def _signal(self, number: int) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def _keep(self) -> None:
        while self.wanted:
            code = await self._live()
            self.codes.append(code)
            if self.wanted and not (self._explained(code) or self.may_fail(code)):
                self.problems.append(f"{self.name} ended with {code}:\n{self.tail()}")
            if code != EXIT_TRANSIENT:
                self.wanted = False
            if self.wanted:
                await asyncio.sleep(_AGAIN_AFTER)

    def _explained(self, code: int) -> bool:
        return code == EXIT_TRANSIENT and (self.disk.full or monotonic() - self._freed < PATIENCE / 10)

    async def _live(self) -> int:
        ours, theirs = pair()
        sizes = str(SEGMENT_BYTES), str(SNAPSHOT_EVERY)
        orders = MemberStart(self.orders, theirs.fileno(), -1, -1, Log(format="console"))
        line = [*self.network.command(self.name), sys.executable, "-m", f"{__package__}.real_member"]
        self.process = process = await asyncio.create_subprocess_exec(
            *line,
            msgspec.json.encode(orders).decode(),
            *sizes,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(orders.channel,),
            cwd=_PROJECT,
            env={**os.environ, "NO_COLOR": "1"},
        )
        theirs.close()
        self.disk.started(process.pid)
        if not self.wanted:
            process.kill()  # not wanted any more while it was made
        channel: Channel[MemberMessage] = Channel(ours, MemberMessage, received=self._received, lost=lambda _: None)
        try:
            assert process.stderr is not None
            async for text in process.stderr:
                self.said.append(text.decode(errors="replace").rstrip())
            return await process.wait()
        finally:
            channel.close()
            if process.returncode is None:
                process.kill()

    def _received(self, received: Received[MemberMessage]) -> None:
        received.close_descriptors()
        if isinstance(received.message, MemberReport):
            self.terms = max(self.terms, received.message.term)

    # ---- what it answers

    async def status(self, timeout: float = 1.0) -> StatusResponse | None:
        """What it says of itself; None when it does not answer."""
        with contextlib.suppress(ExchangeError, CoordinationError):
            answer = await self._server.exchange("/v3/maintenance/status", b"{}", timeout=timeout)
            if answer.status == 200:
                return decoded(answer.body, StatusResponse)
        return None

    async def put(self, key: str, timeout: float = 1.0, size: int = 0) -> PutResponse | None:
        """Write `size` bytes here, for no purpose of its own; None where that was not acknowledged."""
        body = msgspec.json.encode({"key": key.encode(), "value": b"-" * size})
        with contextlib.suppress(ExchangeError, CoordinationError):
            answer = await self._server.exchange("/v3/kv/put", body, timeout=timeout)
            if answer.status == 200:
                return decoded(answer.body, PutResponse)
        return None

    async def value(self, key: str) -> bytes | None:
        """What a key holds; None when it holds nothing, or nothing is heard."""
        body = msgspec.json.encode({"key": key.encode()})
        with contextlib.suppress(ExchangeError, CoordinationError):
            answer = await self._server.exchange("/v3/kv/range", body, timeout=PATIENCE)
            if answer.status == 200:
                return next((kv.value for kv in decoded(answer.body, RangeResponse).kvs), None)
        return None

    async def serves(self, seconds: float = PATIENCE) -> float:
        """Wait until a write here is acknowledged; after how many seconds it was. Raises MemberFailedError."""
        began = monotonic()
        while await self.put(f"probe/{self.name}") is None:
            if monotonic() - began > seconds or not self.runs:
                raise MemberFailedError(f"{self.name} takes no write for {seconds:g} s, or ended:\n{self.tail(40)}")
            await asyncio.sleep(0.02)
        return monotonic() - began

    async def close(self) -> None:
        """End it, whatever state it is in."""
        await self.kill()
        self._server.close()


class RealMembers(dict[str, RealMember]):
    """All of them, by name, and the network between them."""

    network: Network

    async def serve(self, seconds: float = PATIENCE) -> float:
        """Wait until each takes a write; how long that took. Raises MemberFailedError."""
        return max(await asyncio.gather(*(member.serves(seconds) for member in self.values())))

    async def leader(self) -> str | None:
        """Who says that it leads, the one of the highest term."""
        told = await asyncio.gather(*(member.status() for member in self.values()))
        leading = [
            (status.header.raft_term, name)
            for name, status in zip(self, told, strict=True)
            if status is not None and status.leader == status.header.member_id
        ]
        return max(leading)[1] if leading else None

    @property
    def urls(self) -> list[str]:
        """Where clients ask."""
        return [member.url for member in self.values()]

    @property
    def problems(self) -> list[str]:
        """What went wrong with processes."""
        return [problem for member in self.values() for problem in member.problems]


async def open_network(names: Sequence[str]) -> Network:
    """Of namespaces if there can be any, else of relays; says which, and why."""
    if os.environ.get(FORCED) != "relays":
        try:
            network: Network = Namespaces(names)
        except NoNamespacesError as error:
            print(f"no network namespaces: {error}")
        else:
            print(f"network: {network.words}")
            return network
    network = await Relays.open(names)
    print(f"network: {network.words}")
    return network


def orders_for(name: str, network: Network, folder: Path, names: Sequence[str] = NAMES) -> EmbeddedCluster:
    """What a member is told. `folder`: below it lies its data."""
    return EmbeddedCluster(
        name=name,
        members={each: network.address(each) for each in names},
        client=network.client(name),
        peer=network.peer(name),
        data_dir=str(folder / "data"),
        peer_secret_file=str(folder / "secret"),
    )


@asynccontextmanager
async def running_members(folder: Path, names: Sequence[str] = NAMES) -> AsyncIterator[RealMembers]:
    """All started, each on a disk of its own; they may need a moment until they serve. Nothing is left at the end."""
    async with AsyncExitStack() as stack:
        network = await open_network(names)
        stack.push_async_callback(network.close)
        disks = make_disks(folder, names)
        for disk in disks.values():
            stack.callback(disk.close)
        print(f"disks: {disks[names[0]].words}")
        members = RealMembers()
        members.network = network
        for name, disk in disks.items():
            (disk.folder / "secret").write_bytes(SECRET)
            members[name] = RealMember(name, orders_for(name, network, disk.folder, names), network, disk)
            stack.push_async_callback(members[name].close)
        for member in members.values():
            await member.start()
        yield members
