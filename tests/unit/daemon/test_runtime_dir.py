"""The runtime folder: private, one daemon at a time, and it tells an orderly end from a crash."""

import os
import stat
from pathlib import Path

import pytest

from balancer.daemon.runtime_dir import ADMIN_URL, RuntimeDir, RuntimeDirError, default_path


def test_the_folder_is_made_private_and_so_are_its_files(tmp_path: Path) -> None:
    runtime = RuntimeDir.take(tmp_path / "deep" / "run")
    runtime.write(ADMIN_URL, "http://127.0.0.1:1\n")
    assert stat.S_IMODE(runtime.path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in runtime.path.iterdir()} == {0o600}
    assert (runtime.path / ADMIN_URL).read_text() == "http://127.0.0.1:1\n"
    runtime.close()


def test_a_second_daemon_is_told_who_has_it(tmp_path: Path) -> None:
    first = RuntimeDir.take(tmp_path / "run")
    with pytest.raises(RuntimeDirError, match=rf"another balancer uses it \(process {os.getpid()}\)"):
        RuntimeDir.take(tmp_path / "run")
    first.close()
    RuntimeDir.take(tmp_path / "run").close()


def test_an_orderly_end_leaves_only_the_lock_file(tmp_path: Path) -> None:
    runtime = RuntimeDir.take(tmp_path / "run")
    runtime.write(ADMIN_URL, "x")
    runtime.close()
    assert os.listdir(tmp_path / "run") == ["lock"]
    again = RuntimeDir.take(tmp_path / "run")
    assert not again.after_crash
    again.close()


def test_a_daemon_that_was_killed_is_noticed(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        RuntimeDir.take(tmp_path / "run")
        os._exit(0)  # the kernel drops the lock, nothing else is tidied up
    os.waitpid(pid, 0)
    runtime = RuntimeDir.take(tmp_path / "run")
    assert runtime.after_crash
    runtime.close()


def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(RuntimeDirError, match=r"others may write to it \(mode 777\); chmod 700 it"):
        RuntimeDir.take(folder)


def test_a_file_or_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeDirError, match="a file stands there"):
        RuntimeDir.take(tmp_path / "file")
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(RuntimeDirError, match="a link is not followed"):
        RuntimeDir.take(tmp_path / "link")
    (tmp_path / "real" / "lock").symlink_to(tmp_path / "file")
    with pytest.raises(RuntimeDirError):
        RuntimeDir.take(tmp_path / "real")


def test_the_default_depends_on_the_user_and_the_file_and_nothing_else(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    path = default_path("a.yaml", environ, 7)
    assert path.parent == tmp_path
    assert path == default_path(os.path.abspath("a.yaml"), environ, 7)
    assert path != default_path("b.yaml", environ, 7)
    assert path != default_path("a.yaml", environ, 8)


def test_without_a_runtime_folder_of_the_user_it_is_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert default_path("a.yaml", {"XDG_RUNTIME_DIR": str(tmp_path / "gone")}, 987_654).parent == tmp_path
