"""`balancer demo`, the parts that need no daemon: its configuration, its ports, reading a child's lines."""

import os
import socket
import time
from pathlib import Path

import pytest

from balancer.cli import demo
from balancer.config.load import load


@pytest.mark.parametrize("folder", ["plain", "with space", 'with "quotes" # and: more'])
def test_the_configuration_is_good_wherever_temporary_files_are(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    path = demo._write_configuration(tmp_path / folder, 8080, 0, {"red": 40001, "green": 40002})
    loaded = load(path.read_bytes(), "demo.yaml", {})
    assert loaded.warnings == []
    assert loaded.config.runtime_dir == str(tmp_path / folder / "run")
    assert [(backend.name, backend.port) for backend in loaded.config.pools[0].backends] == [
        ("red", 40001),
        ("green", 40002),
    ]


def test_a_free_port_is_taken_as_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert demo._choose_port(port, 1, "--port") == port


def test_a_taken_port_is_refused_when_asked_for_and_replaced_when_not(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(demo.DemoError, match=f"port {port} .* --port"):
            demo._choose_port(port, 1, "--port")
        assert demo._choose_port(None, port, "--port") == 0
    assert f"port {port} is taken" in capsys.readouterr().out


def test_lines_are_found_however_they_arrive_and_end_with_the_writer() -> None:
    reader, writer = os.pipe()
    output = demo.Output(reader)
    os.write(writer, b"one\ntw")
    assert output.line() == "one"
    with pytest.raises(TimeoutError):
        output.line(time.monotonic() + 0.01)
    os.write(writer, b"o\n\xff\n")
    os.close(writer)
    assert [output.line(), output.line(), output.line()] == ["two", "�", None]
    os.close(reader)


def test_a_deadline_that_has_passed_still_gives_a_line_that_is_there() -> None:
    reader, writer = os.pipe()
    output = demo.Output(reader)
    os.write(writer, b"one\ntwo\n")
    assert [output.line(), output.line(until=0.0)] == ["one", "two"]
    os.close(reader)
    os.close(writer)
