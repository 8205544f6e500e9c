"""The daemon's private folder: one daemon at a time, and where the commands find its admin address."""

import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from balancer.errors import BalancerError

LOCK = "lock"
ADMIN_URL = "admin.url"
RUNNING = "running"  # there while a daemon runs; found at a start, the last one did not end by itself


class RuntimeDirError(BalancerError):
    """The folder cannot be used, or another daemon uses it."""


def default_path(config_path: str, environ: Mapping[str, str], uid: int) -> Path:
    """A folder of this user for this configuration file, so that two daemons with two files get along.

    In XDG_RUNTIME_DIR, else /run/user/UID, else the folder for temporary files.
    """
    of_file = hashlib.sha256(os.path.realpath(config_path).encode()).hexdigest()[:12]
    name = f"balancer-{uid}-{of_file}"
    for base in (environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{uid}"):
        if base and os.path.isdir(base) and os.access(base, os.W_OK):
            return Path(base) / name
    return Path(tempfile.gettempdir()) / name


class RuntimeDir:
    """The folder, locked. The lock ends with this process, however it ends: children do not inherit it."""

    def __init__(self, path: Path, lock: int, after_crash: bool) -> None:
        self.path = path
        self._lock = lock
        self.after_crash = after_crash  # the last daemon here was killed: its workers may still be finishing

    @classmethod
    def take(cls, path: Path, owners: Collection[int] = ()) -> "RuntimeDir":
        """Make the folder (0700) if it is not there, check that nobody else can write to it, and lock it.

        It must belong to root, to us, or to one of `owners`, whom we may become.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = os.lstat(path)
            _check(path, found, {0, os.geteuid(), *owners})
            lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileExistsError:
            raise RuntimeDirError(f"runtime_dir {path}: a file stands there; choose another path") from None
        except OSError as error:
            raise RuntimeDirError(f"runtime_dir {path}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
            os.close(lock)
            who = f" (process {holder})" if holder.isdigit() else ""
            raise RuntimeDirError(
                f"runtime_dir {path}: another balancer uses it{who}; stop that one or give this one another runtime_dir"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        after_crash = (path / RUNNING).exists()
        runtime = cls(path, lock, after_crash)
        runtime.write(RUNNING, f"{os.getpid()}\n")
        return runtime

    def write(self, name: str, text: str) -> None:
        """Write a small file (0600), whole or not at all."""
        partial = self.path / f".{name}.new"
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(text)
        os.replace(partial, self.path / name)

    def give_to(self, uid: int, gid: int) -> None:
        """Make another user the owner of the folder and of what lies in it (before privileges are dropped)."""
        for path in (self.path, *self.path.iterdir()):
            os.chown(path, uid, gid, follow_symlinks=False)

    def close(self) -> None:
        """An orderly end: remove our files and unlock. The folder and the lock file stay, as both may be wanted."""
        for name in (ADMIN_URL, RUNNING):
            (self.path / name).unlink(missing_ok=True)
        os.close(self._lock)


def _check(path: Path, found: os.stat_result, owners: Collection[int]) -> None:
    if not stat.S_ISDIR(found.st_mode):
        raise RuntimeDirError(f"runtime_dir {path}: not a folder (a link is not followed)")
    if found.st_uid not in owners:
        raise RuntimeDirError(f"runtime_dir {path}: it belongs to another user")
    if found.st_mode & 0o022:
        mode = stat.S_IMODE(found.st_mode)
        raise RuntimeDirError(f"runtime_dir {path}: others may write to it (mode {mode:o}); chmod 700 it")
