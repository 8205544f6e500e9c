"""A client that keeps many exchanges under way and checks that each answer belongs to its request.

`scrape` reads what the daemon counted meanwhile.

Methods, framings, sizes, pipelining, split writes, 100-continue and aborts are drawn from a seed. The answers must come
from `echo_origin`: they say which exchange, method, target and body they answer, and their bodies are slices of its
pattern. Used inside a running loop, which should be uvloop's.
"""

import asyncio
import hashlib
import urllib.request
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from tests.support.echo_origin import pattern

LARGEST = 1 << 20
_SHOWN = 20  # mismatches that are kept in words; the rest is counted
_ENOUGH = 200  # mismatches that end the load: more would say nothing new
_PATIENCE = 60.0  # seconds for one batch; what takes longer is a mismatch, not a hang
_WITH_BODY = ("POST", "PUT", "PATCH", "DELETE")
_METHODS = ("GET", "GET", "GET", "HEAD", "OPTIONS", *_WITH_BODY)


class WrongAnswerError(Exception):
    """An answer does not belong to its request, is not whole, or did not come."""


class AbortedError(Exception):
    """We broke the connection off, as drawn."""


class ClosedError(Exception):
    """The other side announced that it closes: what it did not answer is sent again on a new connection."""


@dataclass(slots=True)
class Exchange:
    """One request and what its answer must be. `abort` = where we break off: send, wait, receive, or never."""

    number: int
    method: str
    target: str
    size: int
    offset: int
    body_offset: int
    body_size: int
    chunk: int | None
    expect: bool
    abort: str | None

    @property
    def body(self) -> bytes:
        """The request's body."""
        return pattern(self.body_offset, self.body_size)

    def head(self) -> bytes:
        """The request's head."""
        lines = [f"{self.method} {self.target} HTTP/1.1", "Host: echo.example", f"X-Exchange: {self.number}"]
        if self.chunk is not None:
            lines.append("Transfer-Encoding: chunked")
        elif self.body_size or self.method in _WITH_BODY:
            lines.append(f"Content-Length: {self.body_size}")
        if self.expect:
            lines.append("Expect: 100-continue")
        return "\r\n".join([*lines, "", ""]).encode("ascii")

    def framed_body(self) -> Iterator[bytes]:
        """The body as it is sent."""
        body = self.body
        if self.chunk is None:
            yield body
            return
        for start in range(0, len(body), self.chunk):
            piece = body[start : start + self.chunk]
            yield b"%x\r\n%b\r\n" % (len(piece), piece)
        yield b"0\r\n\r\n"


@dataclass(slots=True)
class Report:
    """What came of a load."""

    completed: int = 0
    aborted: int = 0
    sent_again: int = 0
    mismatches: int = 0
    examples: list[str] = field(default_factory=list)

    def mismatch(self, what: str) -> None:
        """Count one, keep its words while there are few."""
        self.mismatches += 1
        if len(self.examples) < _SHOWN:
            self.examples.append(what)


def draw_size(rng: Random) -> int:
    """0 B to 1 MiB: a tenth is empty, most are small, every size class is met."""
    if rng.random() < 0.1:
        return 0
    return min(LARGEST, int(2 ** rng.triangular(0, 20.01, 4)))


def draw(rng: Random, number: int, abort_share: float) -> Exchange:
    """The exchange `number` of a load."""
    method = rng.choice(_METHODS)
    size, offset = draw_size(rng), rng.randrange(LARGEST)
    framing = rng.choices(("length", "chunked", "close"), (6, 3, 1))[0]
    body_size = draw_size(rng) if method in _WITH_BODY else 0
    chunk = max(1, rng.randrange(1 + body_size), body_size // 50) if body_size and rng.random() < 0.4 else None
    return Exchange(
        number=number,
        method=method,
        target=f"/echo/{number}?size={size}&offset={offset}&as={framing}",
        size=size,
        offset=offset,
        body_offset=rng.randrange(LARGEST),
        body_size=body_size,
        chunk=chunk,
        expect=body_size > 0 and rng.random() < 0.05,
        abort=rng.choice(("send", "wait", "receive")) if rng.random() < abort_share else None,
    )


class LoadClient:
    """Runs `count` exchanges over `connections` connections at a time, spread over `ports` of 127.0.0.1."""

    def __init__(self, ports: list[int], *, count: int, connections: int, seed: int, abort_share: float = 0.02) -> None:
        self.ports = ports
        self.connections = connections
        self.rng = Random(seed)
        self.report = Report()
        self._waiting = deque(draw(self.rng, number, abort_share) for number in range(count))

    async def run(self) -> Report:
        """All exchanges; returns when each was answered, aborted, or found wrong."""
        async with asyncio.TaskGroup() as group:
            for number in range(self.connections):
                group.create_task(self._keep_going(self.ports[number % len(self.ports)]))
        return self.report

    async def _keep_going(self, port: int) -> None:
        while self._waiting and self.report.mismatches < _ENOUGH:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2 * LARGEST)
            try:
                while self._waiting:
                    await self._one_batch(reader, writer)
            except (ClosedError, AbortedError):
                continue
            except (WrongAnswerError, OSError, asyncio.IncompleteReadError, TimeoutError) as why:
                self.report.mismatch(f"{type(why).__name__}: {why}")
            finally:
                writer.transport.abort()

    def _next_batch(self) -> list[Exchange]:
        """One to four exchanges to pipeline; one that expects 100-continue goes alone."""
        batch = [self._waiting.popleft()]
        for _ in range(self.rng.choice((0, 0, 1, 2, 3))):
            if not self._waiting or batch[-1].expect or self._waiting[0].expect:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _one_batch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        batch = self._next_batch()
        answered = 0
        may_send_body = asyncio.Event()
        sending = asyncio.create_task(self._send(writer, batch, may_send_body))
        closes = False
        try:
            async with asyncio.timeout(_PATIENCE):
                while answered < len(batch) and not closes:
                    closes = await self._answer_of(batch[answered], reader, may_send_body)
                    self.report.completed += 1
                    answered += 1
                if not closes:
                    await sending
        except TimeoutError:
            raise  # an OSError too, but never our abort's doing
        except (AbortedError, asyncio.IncompleteReadError, OSError):
            # Our own abort ends the reading too; only without one is the end the other side's fault.
            if not any(exchange.abort for exchange in batch[answered:]):
                raise
            self._broken_off(batch[answered:])
            raise AbortedError from None
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        if closes:
            self._again(batch[answered:])
            raise ClosedError

    def _again(self, exchanges: list[Exchange]) -> None:
        self.report.sent_again += len(exchanges)
        self._waiting.extendleft(reversed(exchanges))

    def _broken_off(self, exchanges: list[Exchange]) -> None:
        """Those up to the abort are aborted; what was pipelined behind it is sent again."""
        at = next(index for index, exchange in enumerate(exchanges) if exchange.abort)
        self.report.aborted += at + 1
        self._again(exchanges[at + 1 :])

    async def _send(self, writer: asyncio.StreamWriter, batch: list[Exchange], may_send_body: asyncio.Event) -> None:
        for exchange in batch:
            head = exchange.head()
            cut = self.rng.randrange(1, len(head)) if self.rng.random() < 0.1 else len(head)
            for piece in (head[:cut], head[cut:]):
                writer.write(piece)
                await writer.drain()
            if exchange.expect:
                await may_send_body.wait()
            for piece in exchange.framed_body():
                if exchange.abort == "send":
                    writer.write(piece[: len(piece) // 2])
                    await writer.drain()
                    writer.transport.abort()
                    return
                writer.write(piece)
                await writer.drain()
            if exchange.abort == "wait":
                writer.transport.abort()
                return

    async def _answer_of(self, exchange: Exchange, reader: asyncio.StreamReader, may_send_body: asyncio.Event) -> bool:
        """Reads and checks one answer; True when the connection closes after it."""
        status, fields = await self._read_head(exchange, reader, may_send_body)
        due = {
            "x-echo-exchange": str(exchange.number),
            "x-echo-method": exchange.method,
            "x-echo-target": exchange.target,
            "x-echo-digest": hashlib.sha256(exchange.body).hexdigest(),
            "x-echo-bytes": str(exchange.body_size),
        }
        got = {name: fields.get(name, "") for name in due}
        if status != 200 or got != due:
            raise WrongAnswerError(f"exchange {exchange.number}: status {status}, due {due}, got {got}")
        if exchange.abort == "receive":
            if exchange.size and exchange.method != "HEAD":
                await reader.read(1)
            raise AbortedError
        body = b"" if exchange.method == "HEAD" else await _read_body(reader, fields)
        if exchange.method != "HEAD" and body != pattern(exchange.offset, exchange.size):
            raise WrongAnswerError(f"exchange {exchange.number}: body of {len(body)} bytes is not the one asked for")
        return fields.get("connection", "").lower() == "close" or not _is_framed(exchange, fields)

    async def _read_head(
        self, exchange: Exchange, reader: asyncio.StreamReader, may_send_body: asyncio.Event
    ) -> tuple[int, dict[str, str]]:
        while True:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
            status = int(lines[0].split(" ")[1])
            may_send_body.set()
            if status == 100 and not exchange.expect:
                raise WrongAnswerError(f"exchange {exchange.number}: 100 without an expectation")
            if status >= 200:
                break
        pairs = (line.partition(":") for line in lines[1:])
        return status, {name.lower(): value.strip() for name, _, value in pairs}


def _is_framed(exchange: Exchange, fields: dict[str, str]) -> bool:
    return exchange.method == "HEAD" or "content-length" in fields or "transfer-encoding" in fields


def scrape(admin: str, family: str, **labels: str) -> float:
    """The sum of a metric's samples that carry `labels`, from the admin URL's /metrics; 0 when there is none."""
    total = 0.0
    with urllib.request.urlopen(f"{admin}/metrics", timeout=10) as answer:
        for line in answer.read().decode("utf-8").splitlines():
            name, _, value = line.rpartition(" ")
            if name.partition("{")[0] == family and all(f'{label}="{text}"' in name for label, text in labels.items()):
                total += float(value)
    return total


async def _read_body(reader: asyncio.StreamReader, fields: dict[str, str]) -> bytes:
    if fields.get("transfer-encoding", "").lower() == "chunked":
        body = bytearray()
        while size := int((await reader.readuntil(b"\r\n"))[:-2].partition(b";")[0], 16):
            body += await reader.readexactly(size)
            if await reader.readexactly(2) != b"\r\n":
                raise WrongAnswerError("a chunk does not end where its size says")
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass  # trailers
        return bytes(body)
    if "content-length" in fields:
        return await reader.readexactly(int(fields["content-length"]))
    return await reader.read(-1)
