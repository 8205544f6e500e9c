import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from balancer.telemetry import events, logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_is_one_object_per_line_with_time_level_and_event_first() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream, process="worker", worker=2)
    structlog.get_logger().info(events.WORKER_READY, pid=7)
    (line,) = stream.getvalue().splitlines()
    fields = json.loads(line)
    assert list(fields)[:3] == ["time", "level", "event"]
    assert fields["time"].endswith("Z")
    del fields["time"]
    assert fields == {"level": "info", "event": "worker.became_ready", "process": "worker", "worker": 2, "pid": 7}


@pytest.mark.parametrize(("stream", "is_json"), [(Terminal(), False), (io.StringIO(), True)])
def test_auto_is_console_on_a_terminal_else_json(stream: io.StringIO, is_json: bool) -> None:
    logs.configure("info", "auto", stream)
    structlog.get_logger().info(events.WORKER_READY)
    assert stream.getvalue().startswith("{") is is_json
    assert ("\x1b[" in stream.getvalue()) is not is_json


def test_the_level_changes_while_a_logger_is_in_use() -> None:
    stream = io.StringIO()
    logs.configure("warning", "json", stream)
    log = structlog.get_logger()
    log.info(events.WORKER_READY)
    assert stream.getvalue() == ""
    logs.set_level("debug")
    log.debug(events.WORKER_READY)
    log.error(events.WORKER_ENDED)
    assert [json.loads(line)["level"] for line in stream.getvalue().splitlines()] == ["debug", "error"]


def test_an_unknown_level_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="debug, info, warning, error"):
        logs.set_level("loud")


def test_an_exception_is_told_with_its_traceback_and_without_local_variables() -> None:
    for fmt in ("json", "console"):
        stream = io.StringIO()
        logs.configure("info", fmt, stream)
        secret = "hunter" + "2"
        try:
            int(secret[:6])
        except ValueError:
            structlog.get_logger().exception(events.WORKER_ENDED)
        assert "ValueError: invalid literal" in stream.getvalue()
        assert "hunter2" not in stream.getvalue()


def test_messages_of_libraries_become_events() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    logging.getLogger("asyncio").error("it %s", "broke")
    fields = json.loads(stream.getvalue())
    assert (fields["event"], fields["logger"], fields["message"]) == (events.LIBRARY_LOGGED, "asyncio", "it broke")


def test_a_stream_that_fails_does_not_fail_the_caller() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    stream.close()
    structlog.get_logger().info(events.WORKER_READY)
