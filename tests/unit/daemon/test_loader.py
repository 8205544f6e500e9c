"""Loading in a process of its own: the same answers as `balancer check`, and every end of that process is a refusal."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import uvloop

from balancer.daemon.loader import BadConfig, GoodConfig, Loader
from tests.support.daemon import children_of, is_alive, wait_until

T = TypeVar("T")
GOOD = "listeners: {web: {bind: '127.0.0.1:0'}}\nroutes: [{name: all, respond: {body: hi}}]\npools: {}\n"


def run(work: Callable[[], Awaitable[T]]) -> T:
    async def all_of_it() -> T:
        return await work()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(all_of_it())


def write(folder: Path, text: str) -> str:
    path = folder / "balancer.yaml"
    path.write_text(text)
    return str(path)


def loader_pids() -> list[int]:
    return [
        pid
        for pid in children_of(os.getpid())
        if b"balancer.daemon.load_config" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def test_one_process_serves_several_loads_and_ends_when_it_is_not_needed(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)

    async def work() -> None:
        loader = Loader(path)
        first = await loader.load()
        assert isinstance(first, GoodConfig)
        assert [listener.name for listener in first.config.listeners] == ["web"]
        [pid] = loader_pids()
        write(tmp_path, GOOD.replace("web", "other"))
        second = await loader.load()
        assert isinstance(second, GoodConfig)
        assert [listener.name for listener in second.config.listeners] == ["other"]
        assert loader_pids() == [pid]
        loader.close()
        assert await asyncio.to_thread(wait_until, lambda: not is_alive(pid), 10.0)

    run(work)


def test_it_ends_by_itself_when_it_was_idle(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)

    async def work() -> None:
        loader = Loader(path, idle=0.05)
        assert isinstance(await loader.load(), GoodConfig)
        [pid] = loader_pids()
        assert await asyncio.to_thread(wait_until, lambda: not is_alive(pid), 10.0)
        assert isinstance(await loader.load(), GoodConfig), "and comes again"
        loader.close()

    run(work)


def test_every_problem_of_the_file_is_told_with_its_place(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("bind", "bond") + "workers: many\n")

    async def work() -> None:
        loader = Loader(path)
        answer = await loader.load()
        assert isinstance(answer, BadConfig)
        assert len(answer.problems) >= 2
        assert all(problem.startswith(f"{path}:") for problem in answer.problems)
        os.unlink(path)
        answer = await loader.load()
        assert answer == BadConfig((f"{path}: no such file; give the path of a configuration file",))
        loader.close()

    run(work)


def test_a_process_that_died_idle_is_replaced(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)

    async def work() -> None:
        loader = Loader(path)
        assert isinstance(await loader.load(), GoodConfig)
        [pid] = loader_pids()
        os.kill(pid, signal.SIGKILL)
        assert isinstance(await loader.load(), GoodConfig)
        assert loader_pids() != [pid]
        loader.close()

    run(work)


def other_command(loader: Loader, script: str) -> Loader:
    loader._command = (sys.executable, "-c", script)
    return loader


def test_its_death_while_it_reads_is_a_refusal_that_says_so(tmp_path: Path) -> None:
    async def work() -> None:
        loader = other_command(Loader(""), "import os; input(); os.kill(os.getpid(), 9)")
        assert await loader.load() == BadConfig(("the process that reads the configuration ended with signal SIGKILL",))
        loader = other_command(Loader(""), "input(); raise ValueError('out of order')")
        assert await loader.load() == BadConfig(
            ("the process that reads the configuration ended with exit code 1: ValueError: out of order",)
        )

    run(work)


def test_its_silence_is_a_refusal_and_it_is_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"

    async def work() -> None:
        script = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
        loader = other_command(Loader("", deadline=3.0), script)
        assert await loader.load() == BadConfig(("the configuration could not be read within 3 s",))
        assert not is_alive(int(pid_file.read_text()))

    run(work)
