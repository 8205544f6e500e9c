"""What an access log line costs: on the loop thread (the goal: at most 1.5 us), and in all with its writer.

    python loadtest/micro/access_log.py [LINES]

The two are measured apart. Loop thread: CPU time of this thread for formatting and appending, without the writer's.
In all: CPU time of the process until the last line is written, to a file and to a pipe that somebody reads.
"""

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from balancer.telemetry.access_log import ENDINGS, AccessLog, escape, format_line, head_of

HEAD = head_of("web", "everything", "web")
BACKEND = escape("127.0.0.1:9001")
ENDING = ENDINGS["ok"]
PACE = 50e-6  # seconds between two lines: 20,000 requests a second
ROUNDS = 5  # the best counts: the others tell of the machine's other work
TARGET = b"/api/v1/orders/12345?user=77&sort=asc"
REQUEST_ID = b"0f8fad5bd9cb469fa16570867728950e"


# The common exchange, over a reused upstream connection: every argument of `format_line` but the time.
FIELDS = (
    REQUEST_ID, b"192.0.2.17", HEAD, BACKEND, 1, b"GET", TARGET, 200, ENDING, 412, 318, -1.0, 0.00123, 0.00131,
)  # fmt: skip


def thread_microseconds(work: Callable[[], None], count: int) -> float:
    """CPU microseconds of this thread per line."""
    start = time.thread_time()
    work()
    return (time.thread_time() - start) / count * 1e6


def log_lines(log: AccessLog, count: int) -> None:
    """Lines at a pace that the queue can hold: the writer gets its turn every thousand."""
    now = time.time()
    for start in range(0, count, 1000):
        for index in range(start, min(start + 1000, count)):
            log.append(format_line(now + index * PACE, *FIELDS))
        time.sleep(0.005)


def process_microseconds(path: str, count: int) -> tuple[float, float, int]:
    """(of the loop thread, of the whole process) CPU microseconds per line, and lines dropped."""
    dropped: list[int] = []
    before = time.process_time()
    log = AccessLog(path, dropped.append)
    loop_thread = thread_microseconds(lambda: log_lines(log, count), count)
    log.close(10.0)
    return loop_thread, (time.process_time() - before) / count * 1e6, sum(dropped)


def to_a_pipe(count: int) -> tuple[float, float, int]:
    """The same through standard output, read by a child so that the reader's work is not ours."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        while os.read(reader, 65536):
            pass
        os._exit(0)
    os.close(reader)
    saved = os.dup(1)
    os.dup2(writer, 1)
    os.close(writer)
    try:
        return process_microseconds("stdout", count)
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.waitpid(child, 0)


def main() -> None:
    """Print one row per measurement."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    now = time.time()

    def format_only() -> None:
        for index in range(count):
            format_line(now + index * PACE, *FIELDS)

    print(
        f"line: {len(format_line(now, *FIELDS))} bytes, {count} lines, {threading.active_count()} thread at the start"
    )
    alone = min(thread_microseconds(format_only, count) for _ in range(ROUNDS))
    print(f"format_line alone {alone:6.2f} us/line")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "access.log")
        rows = {
            "file": min(process_microseconds(path, count) for _ in range(ROUNDS)),
            "pipe": min(to_a_pipe(count) for _ in range(ROUNDS)),
        }
    for name, (loop_thread, whole, dropped) in rows.items():
        print(f"{name}: loop thread {loop_thread:6.2f} us/line, whole process {whole:6.2f} us/line, dropped {dropped}")


if __name__ == "__main__":
    main()
