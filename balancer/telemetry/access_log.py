"""The access log: one JSON object per exchange, formatted once on the loop thread and written by another.

Law: the loop thread never waits for a log. `append` puts a line into a list and wakes the writer at most once
per batch; what does not fit into 4 MiB is dropped and counted. No lock is needed: each number below has one
thread that writes it, and appending to, slicing and cutting a list are atomic.

Lines are whole in every write. A pipe (or whatever is no regular file) gets at most PIPE_BUF bytes per write,
which the kernel keeps in one piece among several workers (pipe(7)); a regular file is opened with O_APPEND.
"""

import json
import os
import select
import stat
import threading
from collections.abc import Callable
from time import gmtime, strftime

import structlog

from balancer.clock import monotonic
from balancer.errors import OUTCOMES, Outcome
from balancer.telemetry import events

# Lines waiting for the writer: seconds of a busy worker's log, and no more memory than one large request.
QUEUE_BYTES = 4 * 1024 * 1024
PIPE_BYTES = select.PIPE_BUF
FILE_BYTES = 256 * 1024
# How long lines gather before they are written: 50 wake-ups a second at most, and nobody watches faster.
GATHER = 0.02
# The writer looks at the deadline of a stop at least this often, and gets a little longer to count its losses.
_POLL = 0.1
_JOIN_MARGIN = 0.25
# Client text is cut here so that a whole line fits into PIPE_BUF with room for the names of a configuration.
TARGET_BYTES = 2048
ID_BYTES = 200
METHOD_BYTES = 40

_SAFE = bytes(byte for byte in range(0x20, 0x7F) if byte not in b'"\\')
_LINE = (
    b'{"v":1,"time":"%b","id":"%b","client":"%b",%b"backend":"%b","attempts":%b,"method":"%b","target":"%b",'
    b'"status":%b,%b"bytes_in":%b,"bytes_out":%b,"connect_ms":%b,"first_byte_ms":%b,"total_ms":%b}\n'
)
# Formatting a number into bytes costs more than 0.1 us, a float twice that; looking one up a third. The common
# ones are kept ready: 150 KiB each. Durations are told in steps of 0.01 ms.
_READY = 4096
_NUMBERS = tuple(b"%d" % number for number in range(_READY))
_DURATIONS = tuple(b"%.2f" % (number / 100) for number in range(_READY))
_STEPS = 1e5  # per second
_READY_SECONDS = (_READY - 1) / _STEPS
_log = structlog.get_logger()


def escape(text: str | bytes, limit: int = TARGET_BYTES) -> bytes:
    """`text` as the inside of a JSON string, printable ASCII only, cut to `limit` bytes (then it ends in "...").

    Bytes that are not UTF-8 appear as \\xNN. O(length); for constants and for text that needs it.
    """
    if isinstance(text, bytes):
        text = text[:limit].decode("utf-8", "backslashreplace") + ("..." if len(text) > limit else "")
    escaped = json.dumps(text)[1:-1].replace("\x7f", "\\u007f").encode("ascii")
    if len(escaped) <= limit:
        return escaped
    # A cut must not fall into an escape, nor between the two halves of a surrogate pair.
    kept = bytearray()
    for character in text:
        piece = json.dumps(character)[1:-1].replace("\x7f", "\\u007f").encode("ascii")
        if len(kept) + len(piece) > limit - 3:
            break
        kept += piece
    return bytes(kept) + b"..."


def head_of(listener: str, route: str, pool: str) -> bytes:
    """The constant part of a line for one (listener, route, pool); "-" = none. Make it once per snapshot."""
    return b'"listener":"%b","route":"%b","pool":"%b",' % (escape(listener), escape(route), escape(pool))


def _ending_of(outcome: Outcome) -> bytes:
    return b'"ended_by":"%b","phase":"%b","reason":"%b",' % (
        escape(outcome.source.value),
        escape(outcome.phase.value),
        escape(outcome.reason),
    )


# By Outcome.reason: the constant part of a line that says how the exchange ended.
ENDINGS: dict[str, bytes] = {reason: _ending_of(outcome) for reason, outcome in OUTCOMES.items()}

_stamp: tuple[int, bytes] = (-1, b"")  # the last millisecond and its text: a busy worker logs many in one


def _stamp_of(millisecond: int) -> tuple[int, bytes]:
    second, rest = divmod(millisecond, 1000)
    return millisecond, strftime(f"%Y-%m-%dT%H:%M:%S.{rest:03d}Z", gmtime(second)).encode("ascii")


def format_line(
    now: float,
    request_id: bytes,
    client: bytes,
    head: bytes,
    backend: bytes,
    attempts: int,
    method: bytes,
    target: bytes,
    status: int,
    ending: bytes,
    bytes_in: int,
    bytes_out: int,
    connect: float,
    first_byte: float,
    total: float,
) -> bytes:
    """One line with its line end, in the order of docs/logs.md.

    `now` is wall-clock seconds; `head` comes from `head_of`, `ending` from ENDINGS, `backend` from `escape`
    (b"-" = none); `client` is an address as text. `connect`, `first_byte` and `total` are seconds, < 0 = did not
    happen (null). `request_id`, `method` and `target` may hold any bytes: they are escaped when they must be.
    Positional only by intent: once per exchange, and keywords would cost a tenth of it.
    """
    global _stamp
    millisecond = int(now * 1000)
    stamp = _stamp
    if stamp[0] != millisecond:
        stamp = _stamp = _stamp_of(millisecond)
    text = request_id + method + target
    if len(text) > TARGET_BYTES or text.translate(None, _SAFE):
        request_id, method = escape(request_id, ID_BYTES), escape(method, METHOD_BYTES)
        target = escape(target)
    return _LINE % (
        stamp[1],
        request_id,
        client,
        head,
        backend,
        _NUMBERS[attempts],
        method,
        target,
        _NUMBERS[status],
        ending,
        _NUMBERS[bytes_in] if bytes_in < _READY else b"%d" % bytes_in,
        _NUMBERS[bytes_out] if bytes_out < _READY else b"%d" % bytes_out,
        b"null" if connect < 0 else b"%.2f" % (connect * 1000),
        _DURATIONS[int(first_byte * _STEPS)] if 0 <= first_byte < _READY_SECONDS else _duration(first_byte),
        _DURATIONS[int(total * _STEPS)] if 0 <= total < _READY_SECONDS else _duration(total),
    )


def _duration(seconds: float) -> bytes:
    return b"null" if seconds < 0 else b"%.2f" % (seconds * 1000)


class AccessLog:
    """Where lines go: `path` is "stdout" or a file's path. One writer thread; all methods belong to the loop thread.

    `on_drop(lines)` is called on the loop thread with lines that were lost: at once when the queue is full,
    with the next batch when writing failed. Raises OSError when the file cannot be opened.
    """

    def __init__(self, path: str, on_drop: Callable[[int], None], *, queue_bytes: int = QUEUE_BYTES) -> None:
        self._path = path
        self._on_drop = on_drop
        self._room = queue_bytes
        self._lines: list[bytes] = []
        self._idle = False  # the writer sleeps and wants to be woken: set by it, cleared by whoever wakes it
        self._wake = threading.Event()
        self._reopen = False
        self._stop = threading.Event()
        self._give_up_at = float("inf")
        # Loop thread's: bytes put in, lines refused, lost lines told. Writer's: bytes taken out, lines lost.
        self._added = 0
        self._refused = 0
        self._told = 0
        self._taken = 0
        self._lost = 0
        self._output = _Output(path)
        self._thread = threading.Thread(target=self._write_until_stopped, name="access-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines lost so far, told or not."""
        return self._refused + self._lost

    def append(self, line: bytes) -> None:
        """Take one whole line. Never waits and never raises; a full queue drops the line."""
        added = self._added + len(line)
        if added - self._taken > self._room:
            self._refused += 1
            self._on_drop(1)
            return
        self._added = added
        self._lines.append(line)
        if self._idle:
            self._wake_writer()

    def reopen(self) -> None:
        """Close the file and open its path again, after what is queued by now (log rotation). Not for stdout."""
        self._reopen = True
        self._wake_writer()

    def close(self, deadline: float = 2.0) -> None:
        """Write what is queued, for at most `deadline` seconds, and end the writer. Blocks; the last call."""
        self._give_up_at = monotonic() + deadline
        self._stop.set()
        self._wake_writer()
        self._thread.join(deadline + _JOIN_MARGIN)
        if self._thread.is_alive():  # stuck in a write that nobody reads: the lines behind it are lost
            stuck = len(self._lines) + self._output.unwritten
            self._refused += stuck
            self._on_drop(stuck)
        else:
            self._output.close()
        self._tell_losses()

    def _wake_writer(self) -> None:
        self._idle = False
        self._wake.set()
        self._tell_losses()

    def _tell_losses(self) -> None:
        losses = self._lost - self._told
        if losses:
            self._told += losses
            self._on_drop(losses)

    def _write_until_stopped(self) -> None:
        while True:
            if not self._lines and not self._stop.is_set():
                self._idle = True
                # A line that came before `_idle` was seen is found here; one that came after wakes us.
                if not self._lines and not self._reopen:
                    self._wake.wait()
                self._wake.clear()
                self._idle = False
                self._stop.wait(GATHER)
            if self._lines:
                self._write_batch()
                if self._lines and not self._stop.is_set():
                    self._stop.wait(GATHER)
            if self._reopen:
                self._reopen = False
                self._output.reopen()
            if self._stop.is_set() and (not self._lines or monotonic() > self._give_up_at):
                self._lost += len(self._lines)
                return

    def _write_batch(self) -> None:
        lines = self._lines
        count = len(lines)
        batch = lines[:count]
        del lines[:count]
        data = b"".join(batch)
        self._lost += self._output.write(data, count, lambda: self._give_up_at)
        self._taken += len(data)


class _Output:
    """The writer thread's descriptor."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._failing = False
        self._torn = False  # the last write stopped inside a line
        self.unwritten = 0  # lines of the current batch
        self._fd = self._open()
        self._chunk = FILE_BYTES if stat.S_ISREG(os.fstat(self._fd).st_mode) else PIPE_BYTES

    def _open(self) -> int:
        if self._path == "stdout":
            return os.dup(1)
        # O_NONBLOCK: opening a FIFO without a reader fails at once instead of hanging the start.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        return os.open(self._path, flags, 0o640)

    def reopen(self) -> None:
        """Open the path anew; when that fails, go on with the old file and say so."""
        if self._path == "stdout":
            return
        try:
            fd = self._open()
        except OSError as error:
            _log.error(events.ACCESS_LOG_REOPEN_FAILED, path=self._path, error=str(error))
            return
        os.close(self._fd)
        self._fd = fd
        self._chunk = FILE_BYTES if stat.S_ISREG(os.fstat(fd).st_mode) else PIPE_BYTES
        self._torn = False
        _log.info(events.ACCESS_LOG_REOPENED, path=self._path)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)

    def write(self, data: bytes, lines: int, give_up_at: Callable[[], float]) -> int:
        """Write `lines` whole lines in chunks; the number of those lost. A failure is logged when it begins."""
        self.unwritten = lines
        start = 0
        try:
            if self._torn:
                self._write_all(b"\n", give_up_at)
                self._torn = False
            while start < len(data):
                end = len(data)
                if end - start > self._chunk:
                    # Whole lines up to the chunk's size; a longer line goes alone.
                    end = data.rfind(b"\n", start, start + self._chunk) + 1 or data.find(b"\n", start) + 1
                self._write_all(data[start:end], give_up_at)
                self.unwritten -= data.count(b"\n", start, end)
                start = end
        except OSError as error:
            if not self._failing:
                self._failing = True
                _log.error(events.ACCESS_LOG_WRITE_FAILED, path=self._path, error=str(error))
            lost, self.unwritten = self.unwritten, 0
            return lost
        if self._failing:
            self._failing = False
            _log.info(events.ACCESS_LOG_WRITE_RECOVERED, path=self._path)
        return 0

    def _write_all(self, chunk: bytes, give_up_at: Callable[[], float]) -> None:
        """Write `chunk` whole. Raises OSError, TimeoutError when a stop cannot wait any longer."""
        written = 0
        try:
            while written < len(chunk):
                try:
                    written += os.write(self._fd, chunk[written:] if written else chunk)
                except BlockingIOError:
                    # Somebody made the descriptor non-blocking. Wait for room, but look at the deadline.
                    remaining = give_up_at() - monotonic()
                    if remaining <= 0:
                        raise TimeoutError("nobody reads the access log") from None
                    poll = select.poll()
                    poll.register(self._fd, select.POLLOUT)
                    poll.poll(min(remaining, _POLL) * 1000)
        except OSError:
            self._torn = bool(written)
            raise
