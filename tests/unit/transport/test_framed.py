"""The channel: every message arrives whole and in order, with its descriptors, and a broken peer ends it cleanly."""

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import uvloop

from balancer.transport.framed import (
    FRAME_MAX,
    QUEUE_MAX,
    Channel,
    ChannelError,
    Received,
    RequestTimeoutError,
    pair,
)


class Text(msgspec.Struct, frozen=True, tag=True):
    """A message."""

    text: str


class Blob(msgspec.Struct, frozen=True, tag=True):
    """Another one."""

    data: bytes


Any_ = Text | Blob
DEADLINE = 10.0


class End:
    """A channel that records what happens to it."""

    def __init__(self, sock: socket.socket, answer: Callable[[Received[Any_]], None] | None = None) -> None:
        self.messages: list[Received[Any_]] = []
        self.lost: list[str] = []
        self._answer = answer
        self._news = asyncio.Event()
        self.channel: Channel[Any_] = Channel(sock, Any_, received=self._received, lost=self._lost)

    def _received(self, received: Received[Any_]) -> None:
        self.messages.append(received)
        self._news.set()
        if self._answer is not None:
            self._answer(received)

    def _lost(self, reason: str) -> None:
        self.lost.append(reason)
        self._news.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                self._news.clear()
                await self._news.wait()


def run(test: Callable[[], Awaitable[Any]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


def open_descriptors() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd")}


def frame(body: bytes, *, request: int = 0, kind: int = 0, descriptors: int = 0, length: int | None = None) -> bytes:
    return struct.pack("<IIBB", len(body) if length is None else length, request, kind, descriptors) + body


def test_messages_of_every_size_arrive_whole_and_in_order() -> None:
    async def test() -> None:
        a, b = pair()
        sender, receiver = End(a), End(b)
        sizes = [0, 1, 100, 70_000, 3_000_000, 5]
        for size in sizes:
            sender.channel.send(Blob(bytes([size % 251]) * size))
        assert sender.channel.queued, "the kernel cannot hold all of it: the queue is what is tested"
        await receiver.until(lambda: len(receiver.messages) == len(sizes))
        assert [message.message for message in receiver.messages] == [Blob(bytes([n % 251]) * n) for n in sizes]
        await sender.channel.flushed(DEADLINE)
        assert sender.channel.queued == 0

    run(test)


def test_a_frame_may_come_byte_by_byte() -> None:
    async def test() -> None:
        a, b = pair()
        receiver = End(b)
        data = frame(msgspec.msgpack.encode(Text("hello"))) * 2
        a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        for index in range(len(data)):
            a.send(data[index : index + 1])
            await asyncio.sleep(0)
        await receiver.until(lambda: len(receiver.messages) == 2)
        assert [received.message for received in receiver.messages] == [Text("hello")] * 2
        a.close()

    run(test)


def test_descriptors_travel_with_their_own_message() -> None:
    async def test() -> None:
        a, b = pair()
        sender, receiver = End(a), End(b)
        for index in range(20):
            memory = os.memfd_create("test")
            os.pwrite(memory, b"%d" % index, 0)
            # A large message before: its frame is sent in pieces, and the descriptors must not slip to another one.
            sender.channel.send(Blob(bytes(150_000)))
            sender.channel.send(Text(str(index)), [memory, memory])
            os.close(memory)
        await receiver.until(lambda: len(receiver.messages) == 40)
        for received in receiver.messages:
            if isinstance(received.message, Text):
                assert len(received.descriptors) == 2
                assert os.pread(received.descriptors[0], 10, 0).decode() == received.message.text
                assert not os.get_inheritable(received.descriptors[1])
                received.close_descriptors()
            else:
                assert received.descriptors == []

    run(test)


def test_a_request_gets_the_reply_to_itself() -> None:
    async def test() -> None:
        a, b = pair()
        waiting: list[Received[Any_]] = []
        asking, answering = End(a), End(b, waiting.append)
        questions = [asyncio.ensure_future(asking.channel.request(Text(str(n)), timeout=DEADLINE)) for n in range(5)]
        await answering.until(lambda: len(waiting) == 5)
        for received in reversed(waiting):  # answered in another order than asked
            assert isinstance(received.message, Text)
            received.reply(Text(f"re {received.message.text}"))
        assert await asyncio.gather(*questions) == [Text(f"re {n}") for n in range(5)]
        assert asking.messages == []

    run(test)


def test_a_request_without_an_answer_times_out_and_a_late_answer_is_dropped() -> None:
    async def test() -> None:
        a, b = pair()
        asking, answering = End(a), End(b)
        with pytest.raises(RequestTimeoutError, match=r"no answer to Text within 0\.05 s"):
            await asking.channel.request(Text("?"), timeout=0.05)
        await answering.until(lambda: answering.messages)
        answering.messages[0].reply(Text("late"))
        answering.channel.send(Text("next"))
        await asking.until(lambda: asking.messages)
        assert [received.message for received in asking.messages] == [Text("next")]

    run(test)


def test_the_end_of_the_peer_is_told_once_and_ends_requests() -> None:
    async def test() -> None:
        a, b = pair()
        asking, answering = End(a), End(b)
        question = asyncio.ensure_future(asking.channel.request(Text("?"), timeout=DEADLINE))
        await answering.until(lambda: answering.messages)
        answering.channel.send(Text("last words"))
        answering.channel.close()
        with pytest.raises(ChannelError, match="closed before the answer"):
            await question
        assert asking.lost == [""]
        assert [received.message for received in asking.messages] == [Text("last words")]
        with pytest.raises(ChannelError, match="closed"):
            asking.channel.send(Text("?"))
        answering.messages[0].reply(Text("too late"))  # after close: nothing happens
        assert answering.lost == [], "who closes is not told of it"

    run(test)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (frame(b"", length=FRAME_MAX + 1), "broken frame"),
        (frame(b"x", kind=3), "broken frame"),
        (frame(b"\xc1"), "not understood"),
        (frame(msgspec.msgpack.encode({"type": "Unknown"})), "not understood"),
        (frame(msgspec.msgpack.encode(Text("x")), descriptors=1), "without its descriptors"),
        (frame(b"xyz", length=10), "within a message"),
    ],
)
def test_a_peer_that_breaks_the_protocol_ends_the_channel(data: bytes, reason: str) -> None:
    async def test() -> None:
        a, b = pair()
        receiver = End(b)
        a.sendall(data)
        a.close()
        await receiver.until(lambda: receiver.lost)
        assert len(receiver.lost) == 1
        assert reason in receiver.lost[0]
        assert receiver.channel.closed
        assert receiver.messages == []

    run(test)


def test_a_handler_that_fails_ends_the_channel_and_the_error_is_not_hidden() -> None:
    async def test() -> None:
        a, b = pair()
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

        def fail(received: Received[Any_]) -> None:
            raise ValueError("of the handler")

        sender, receiver = End(a), End(b, fail)
        memory = os.memfd_create("test")
        sender.channel.send(Text("x"), [memory])
        os.close(memory)
        await receiver.until(lambda: receiver.lost)
        assert receiver.lost == ["handling Text failed"]
        await asyncio.sleep(0)
        assert [str(context["exception"]) for context in told] == ["of the handler"]
        assert receiver.messages[0].descriptors == [], "closed, not leaked"

    run(test)


def test_what_a_peer_does_not_read_is_bounded() -> None:
    async def test() -> None:
        a, b = pair()
        sender = End(a)
        largest = Blob(bytes(FRAME_MAX - 100))
        sender.channel.send(largest)
        sender.channel.send(largest)
        with pytest.raises(ChannelError, match="wait unread"):
            sender.channel.send(largest)
        assert sender.channel.queued <= QUEUE_MAX
        with pytest.raises(ChannelError, match="at most"):
            sender.channel.send(Blob(bytes(FRAME_MAX + 1)))
        sender.channel.close()
        b.close()

    run(test)


def test_no_descriptor_is_left_whatever_the_end() -> None:
    async def test() -> None:
        before = open_descriptors()
        a, b = pair()
        sender, receiver = End(a), End(b)
        memory = os.memfd_create("test")
        sender.channel.send(Blob(bytes(1_000_000)), [memory])
        for _ in range(5):
            sender.channel.send(Text("queued"), [memory, memory])
        os.close(memory)
        await receiver.until(lambda: receiver.messages)
        sender.channel.close()  # with descriptors queued
        await receiver.until(lambda: receiver.lost)
        for received in receiver.messages:
            received.close_descriptors()
        assert open_descriptors() == before

    run(test)
