"""Many together, or one alone, and never both."""

import asyncio

from balancer.daemon.gate import Gate


def test_many_go_through_together_and_one_waits_for_all_of_them() -> None:
    async def work() -> None:
        gate = Gate()
        leave = asyncio.Event()
        inside = 0
        told: list[str] = []

        async def start(name: str) -> None:
            nonlocal inside
            async with gate.together():
                inside += 1
                told.append(name)
                await leave.wait()
                inside -= 1

        async def change(name: str) -> None:
            async with gate.alone():
                assert inside == 0
                told.append(name)
                await asyncio.sleep(0)
                assert inside == 0

        starts = [asyncio.ensure_future(start(name)) for name in ("a", "b")]
        await asyncio.sleep(0)
        changes = [asyncio.ensure_future(change(name)) for name in ("C", "D")]
        late = asyncio.ensure_future(start("e"))
        await asyncio.sleep(0.01)
        assert told == ["a", "b"]
        leave.set()
        await asyncio.gather(*starts, *changes, late)
        assert told == ["a", "b", "C", "D", "e"], "who asked first goes first"

    asyncio.run(work())


def test_who_gives_up_leaves_the_gate_open() -> None:
    async def work() -> None:
        gate = Gate()
        leave = asyncio.Event()

        async def start() -> None:
            async with gate.together():
                await leave.wait()

        starting = asyncio.ensure_future(start())
        await asyncio.sleep(0)

        async def change() -> None:
            async with gate.alone():
                raise AssertionError("not while another is inside")

        waiting = asyncio.ensure_future(change())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
        async with gate.together():
            pass
        starting.cancel()
        await asyncio.sleep(0)
        async with asyncio.timeout(5), gate.alone():
            pass

    asyncio.run(work())
