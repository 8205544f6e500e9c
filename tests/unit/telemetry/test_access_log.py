import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from balancer.errors import OUTCOMES
from balancer.telemetry import access_log, events
from balancer.telemetry.access_log import ENDINGS, PIPE_BYTES, AccessLog, escape, format_line, head_of

HEAD = head_of("web", "everything", "api")
NAMES = [
    "v", "time", "id", "client", "listener", "route", "pool", "backend", "attempts", "method", "target", "status",
    "ended_by", "phase", "reason", "bytes_in", "bytes_out", "connect_ms", "first_byte_ms", "total_ms",
]  # fmt: skip


def line_of(
    *,
    now: float = 1795262400.25,
    request_id: bytes = b"id-1",
    method: bytes = b"GET",
    target: bytes = b"/a?b=c",
    times: tuple[float, float, float] = (0.0012, 0.0123, 1.5),
    sizes: tuple[int, int] = (100, 20_000),
    status: int = 200,
    reason: str = "ok",
) -> bytes:
    return format_line(
        now, request_id, b"192.0.2.1", HEAD, escape("b1"), 1, method, target, status, ENDINGS[reason], *sizes, *times
    )


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for another thread, with a deadline."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "did not happen within 10 s"
        threading.Event().wait(0.005)


def test_a_line_is_one_json_object_with_the_fields_in_their_order() -> None:
    line = line_of()
    assert line.endswith(b"}\n")
    fields = json.loads(line)
    assert list(fields) == NAMES
    assert fields == {
        "v": 1,
        "time": datetime.fromtimestamp(1795262400.25, UTC).strftime("%Y-%m-%dT%H:%M:%S.250Z"),
        "id": "id-1",
        "client": "192.0.2.1",
        "listener": "web",
        "route": "everything",
        "pool": "api",
        "backend": "b1",
        "attempts": 1,
        "method": "GET",
        "target": "/a?b=c",
        "status": 200,
        "ended_by": "-",
        "phase": "done",
        "reason": "ok",
        "bytes_in": 100,
        "bytes_out": 20_000,
        "connect_ms": 1.2,
        "first_byte_ms": 12.3,
        "total_ms": 1500.0,
    }


@pytest.mark.parametrize("reason", sorted(OUTCOMES))
def test_every_outcome_has_its_words(reason: str) -> None:
    fields = json.loads(line_of(reason=reason))
    outcome = OUTCOMES[reason]
    assert (fields["ended_by"], fields["phase"], fields["reason"]) == (outcome.source, outcome.phase, reason)


def test_what_did_not_happen_is_null() -> None:
    fields = json.loads(line_of(times=(-1.0, -1.0, 0.0)))
    assert (fields["connect_ms"], fields["first_byte_ms"], fields["total_ms"]) == (None, None, 0)


@given(st.floats(0, 4000), st.floats(0, 4000), st.integers(0, 2**45), st.integers(0, 999))
@example(0.04094, 0.04095, 4095, 0)
@example(0.04096, 0.041, 4096, 999)
def test_numbers_are_right_whether_kept_ready_or_formatted(
    first_byte: float, total: float, size: int, status: int
) -> None:
    fields = json.loads(line_of(times=(first_byte, first_byte, total), sizes=(size, size), status=status))
    assert (fields["bytes_in"], fields["bytes_out"], fields["status"]) == (size, size, status)
    assert fields["connect_ms"] == pytest.approx(first_byte * 1000, abs=0.0101)
    assert fields["first_byte_ms"] == pytest.approx(first_byte * 1000, abs=0.0101)
    assert fields["total_ms"] == pytest.approx(total * 1000, abs=0.0101)


@given(st.floats(0, 4e9))
def test_the_time_is_utc_to_the_millisecond_whatever_was_logged_before(now: float) -> None:
    text = json.loads(line_of(now=now))["time"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    assert datetime.fromisoformat(text).timestamp() == pytest.approx(now, abs=0.0011)


@given(st.binary(max_size=60), st.binary(max_size=30), st.binary(max_size=6))
@example(b'a"b', b"c\\d", b"\x7f")
@example(b"\n", b"\r\n", b"\x00")
def test_client_text_cannot_leave_its_field_nor_its_line(target: bytes, request_id: bytes, method: bytes) -> None:
    line = line_of(target=target, request_id=request_id, method=method)
    assert re.fullmatch(rb"[ -~]+\n", line)
    fields = json.loads(line)
    assert list(fields) == NAMES
    assert fields["target"] == target.decode("utf-8", "backslashreplace")
    assert fields["id"] == request_id.decode("utf-8", "backslashreplace")
    assert fields["method"] == method.decode("utf-8", "backslashreplace")


@pytest.mark.parametrize("target", [b"/" + b"a" * 60_000, b"\x00" * 60_000, "/é🙂".encode() * 20_000])
def test_a_line_fits_into_one_write_to_a_pipe_however_long_client_text_is(target: bytes) -> None:
    line = line_of(target=target, request_id=target, method=target)
    assert len(line) <= PIPE_BYTES
    fields = json.loads(line)
    assert fields["target"].endswith("...")
    assert fields["id"].endswith("...")


@given(st.text(max_size=40), st.integers(6, 100))
def test_escaped_text_is_the_inside_of_a_json_string_within_its_limit(text: str, limit: int) -> None:
    escaped = escape(text, limit)
    assert len(escaped) <= limit
    read_back = json.loads(b'"' + escaped + b'"')
    assert read_back == text or text.startswith(read_back.removesuffix("..."))


def test_lines_arrive_whole_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    lines = [line_of(request_id=b"%d" % number) for number in range(5000)]
    log = AccessLog(str(path), lambda count: pytest.fail(f"dropped {count}"))
    for line in lines:
        log.append(line)
    log.close(10)
    assert path.read_bytes() == b"".join(lines)
    assert log.dropped == 0


def test_a_line_is_written_without_any_further_line(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(str(path), lambda count: None)
    for number in range(3):
        log.append(b"%d\n" % number)
        eventually(lambda number=number: path.read_bytes().endswith(b"%d\n" % number))
    log.close()


def test_reopen_goes_on_in_a_new_file_and_loses_nothing(tmp_path: Path) -> None:
    path, rotated = tmp_path / "access.log", tmp_path / "access.log.1"
    log = AccessLog(str(path), lambda count: None)
    log.append(b"one\n")
    eventually(lambda: path.read_bytes() == b"one\n")
    path.rename(rotated)
    log.append(b"two\n")
    with capture_logs() as logged:
        log.reopen()
        eventually(path.exists)
        log.append(b"three\n")
        log.close(10)
    assert rotated.read_bytes() + path.read_bytes() == b"one\ntwo\nthree\n"
    assert path.read_bytes().endswith(b"three\n")
    assert [entry["event"] for entry in logged] == [events.ACCESS_LOG_REOPENED]


def test_a_reopen_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    log = AccessLog(str(folder / "access.log"), lambda count: None)
    moved = tmp_path / "moved"
    folder.rename(moved)
    with capture_logs() as logged:
        log.reopen()
        eventually(lambda: bool(logged))
    log.append(b"still here\n")
    log.close(10)
    assert logged[0]["event"] == events.ACCESS_LOG_REOPEN_FAILED
    assert (moved / "access.log").read_bytes() == b"still here\n"


def test_a_path_that_cannot_be_opened_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        AccessLog(str(tmp_path / "missing" / "access.log"), lambda count: None)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """(path of a FIFO, descriptor of its reading end)."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield str(path), reader
    os.close(reader)


def read_all(reader: int) -> bytes:
    """What the pipe holds now."""
    data = b""
    while True:
        try:
            part = os.read(reader, 65536)
        except BlockingIOError:
            return data
        if not part:
            return data
        data += part


def test_writes_to_a_pipe_are_whole_lines_and_at_most_pipe_buf(
    pipe: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, reader = pipe
    written: list[bytes] = []
    write = os.write

    def recording(fd: int, data: bytes) -> int:
        written.append(bytes(data))
        return write(fd, data)

    monkeypatch.setattr(access_log.os, "write", recording)
    log = AccessLog(path, lambda count: None)
    lines = [line_of(request_id=b"%d" % number) for number in range(100)]
    for line in lines:
        log.append(line)
    log.close(10)
    assert read_all(reader) == b"".join(lines)
    assert len(written) < 20
    assert all(len(chunk) <= PIPE_BYTES and chunk.endswith(b"\n") for chunk in written)


def test_a_reader_that_stalls_costs_lines_and_never_the_caller(pipe: tuple[str, int]) -> None:
    path, reader = pipe
    dropped: list[int] = []
    log = AccessLog(path, dropped.append, queue_bytes=100_000)
    line = b"x" * 999 + b"\n"
    for _ in range(1000):
        log.append(line)
    assert sum(dropped) == log.dropped > 700
    log.close(0.2)
    kept = read_all(reader)
    assert set(kept.split(b"\n")) <= {line[:-1], b""}
    assert kept.count(b"\n") + sum(dropped) == 1000 == kept.count(b"\n") + log.dropped


def test_a_reader_that_is_gone_is_said_once_and_counted(pipe: tuple[str, int]) -> None:
    path, reader = pipe
    dropped: list[int] = []
    with capture_logs() as logged:
        log = AccessLog(path, dropped.append)
        gone = os.dup(reader)
        os.dup2(os.open(os.devnull, os.O_RDONLY), reader)
        os.close(gone)
        for expected in range(1, 4):
            log.append(b"lost\n")
            eventually(lambda expected=expected: log.dropped == expected)
        log.close(10)
    assert sum(dropped) == 3
    assert [entry["event"] for entry in logged] == [events.ACCESS_LOG_WRITE_FAILED]


def test_after_a_full_disk_the_log_goes_on_with_a_line_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "access.log"
    write = os.write
    full = True

    def half_full(fd: int, data: bytes) -> int:
        if full and len(data) > 3:
            return write(fd, data[:3])
        if full:
            raise OSError(28, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(access_log.os, "write", half_full)
    with capture_logs() as logged:
        log = AccessLog(str(path), lambda count: None)
        log.append(b"first\n")
        eventually(lambda: log.dropped == 1)
        full = False
        log.append(b"second\n")
        log.close(10)
    assert path.read_bytes() == b"fir\nsecond\n"
    assert [entry["event"] for entry in logged] == [
        events.ACCESS_LOG_WRITE_FAILED,
        events.ACCESS_LOG_WRITE_RECOVERED,
    ]


def test_standard_output_is_written_to_and_left_open(capfd: pytest.CaptureFixture[str]) -> None:
    log = AccessLog("stdout", lambda count: None)
    log.append(b"to stdout\n")
    log.reopen()
    log.close(10)
    os.write(1, b"still open\n")
    assert capfd.readouterr().out == "to stdout\nstill open\n"
