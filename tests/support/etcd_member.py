"""A real member that is alone: `async with MemberEtcd(folder) as etcd: etcd.url ...`."""

import asyncio
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from balancer.consensus.member import MemberSettings, RunningMember
from tests.support.etcd_http import EtcdHttp

START_SECONDS = 20.0


class MemberEtcd:
    """Serves at `url` when the block is entered: it has elected itself."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._over = asyncio.Event()
        self._running: asyncio.Task[int] | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        peer, client = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
        self.url = f"http://127.0.0.1:{client.getsockname()[1]}"
        address = f"127.0.0.1:{peer.getsockname()[1]}"
        settings = MemberSettings(name="n1", members={"n1": address}, data_dir=str(self._folder / "member"))
        self._running = asyncio.create_task(RunningMember(settings, peer, client).run(self._over))
        http = EtcdHttp(self.url)
        async with asyncio.timeout(START_SECONDS):
            while (await http.call("/health", method="GET")).status != 200:
                await asyncio.sleep(0.02)
        await http.close()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._running is not None
        self._over.set()
        await self._running
