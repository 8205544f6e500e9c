"""The listening sockets of a configuration: opened once by the supervisor and kept, whatever happens to workers."""

import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from balancer.clock import monotonic
from balancer.config.model import Bind, Config
from balancer.transport.sockets import BindError, bind_sockets, bound, file_identity, remove_unix, url

_RETRY = 0.05


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """One socket of one worker slot. `key` names it towards workers; a Unix socket is the same one in every slot."""

    key: int
    slot: int
    listener: str
    bind: Bind  # with its real port
    sock: socket.socket

    @property
    def shared(self) -> bool:
        """All workers accept from this one."""
        return bool(self.bind.path)


class Bindings:
    """All listening sockets by worker slot. `open` raises BindError and then leaves nothing behind."""

    def __init__(self) -> None:
        self._by_slot: dict[int, list[ListeningSocket]] = {}
        self._announced: list[tuple[str, str]] = []
        self._files: dict[str, tuple[int, int]] = {}
        self._next_key = 1

    @classmethod
    def open(cls, config: Config, *, patience: float = 0.0) -> "Bindings":
        """Bind everything that `config` listens on. An address in use is tried again for `patience` seconds.

        Blocks; called before the loop runs and before privileges are dropped.
        """
        bindings = cls()
        until = monotonic() + patience
        try:
            for listener in config.listeners:
                for bind in listener.bind:
                    sockets = _patiently(bind, config.workers, until)
                    bindings._add(listener.name, bind, sockets, config.workers)
                    real = bound(bind, sockets[0])
                    bindings._announced.append((listener.name, url(real, tls=listener.tls is not None)))
        except BindError:
            bindings.close()
            bindings.remove_files()
            raise
        return bindings

    @property
    def announced(self) -> Sequence[tuple[str, str]]:
        """(listener, URL) of every bind, in the order of the file."""
        return self._announced

    def of_slot(self, slot: int) -> list[ListeningSocket]:
        """What the worker of this slot listens on."""
        return self._by_slot.get(slot, [])

    def own_of_slot(self, slot: int) -> list[ListeningSocket]:
        """What only the worker of this slot listens on: nobody empties these queues while it is away."""
        return [each for each in self.of_slot(slot) if not each.shared]

    def all(self) -> Iterator[ListeningSocket]:
        """Every socket; a shared one once per slot."""
        for sockets in self._by_slot.values():
            yield from sockets

    def give_files_to(self, uid: int, gid: int) -> None:
        """Make another user the owner of Unix sockets' files, so that it can remove them at the end."""
        for path in self._files:
            os.chown(path, uid, gid, follow_symlinks=False)

    def close(self) -> None:
        """Close our copies; workers keep theirs. The queue of a socket that nobody else holds is reset."""
        for each in self.all():
            each.sock.close()
        self._by_slot.clear()

    def remove_files(self) -> None:
        """Remove the files of Unix sockets."""
        for path, identity in self._files.items():
            remove_unix(path, identity)
        self._files.clear()

    def _add(self, listener: str, bind: Bind, sockets: Sequence[socket.socket], slots: int) -> None:
        if bind.path:
            self._files[bind.path] = file_identity(bind.path)
        for slot in range(slots):
            sock = sockets[0 if bind.path else slot]
            each = ListeningSocket(self._next_key, slot, listener, bound(bind, sock), sock)
            self._next_key += 1
            self._by_slot.setdefault(slot, []).append(each)


def _patiently(bind: Bind, slots: int, until: float) -> list[socket.socket]:
    while True:
        try:
            return bind_sockets(bind, slots)
        except BindError as error:
            if not error.in_use or monotonic() >= until:
                raise
        time.sleep(_RETRY)
