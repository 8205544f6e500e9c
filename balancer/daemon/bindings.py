"""The listening sockets of a configuration: opened by the supervisor and kept, whatever happens to workers.

Law: a socket is closed here only when workers are about to empty its queue, because the kernel resets what is in the
queue of a socket that nobody holds any more. A socket that serves on, for whichever listener, is never closed.
"""

import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from balancer.clock import monotonic
from balancer.config.model import Bind, Config
from balancer.transport.sockets import BACKLOG, BindError, bind_sockets, bound, file_identity, remove_unix, url

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


@dataclass(slots=True)
class _Address:
    """One bind of one listener, with its sockets by slot."""

    listener: str
    tls: bool
    written: Bind
    sockets: dict[int, ListeningSocket] = field(default_factory=dict)

    @property
    def first(self) -> ListeningSocket:
        return next(iter(self.sockets.values()))

    @property
    def place(self) -> tuple[str, int, str]:
        """Where it is, whoever listens there."""
        real = self.first.bind
        return real.host, real.port, real.path


@dataclass(slots=True)
class Rebinding:
    """What another configuration listens on, bound beside what is in use: `Bindings.apply` or `undo` it.

    `added` and `removed` are sockets as workers know them; one that goes on under another listener is in both.
    `closing` are those of `removed` that nothing uses afterwards.
    """

    added: list[ListeningSocket] = field(default_factory=list)
    removed: list[ListeningSocket] = field(default_factory=list)
    closing: list[ListeningSocket] = field(default_factory=list)
    _addresses: list[_Address] = field(default_factory=list)
    _opened: list[socket.socket] = field(default_factory=list)
    _files: dict[str, tuple[int, int]] = field(default_factory=dict)


class Bindings:
    """All listening sockets by worker slot. `open` and `rebind` raise BindError and then leave nothing behind."""

    def __init__(self) -> None:
        self._addresses: list[_Address] = []
        self._files: dict[str, tuple[int, int]] = {}
        self._next_key = 1

    @classmethod
    def open(cls, config: Config, *, patience: float = 0.0) -> "Bindings":
        """Bind everything that `config` listens on. An address in use is tried again for `patience` seconds.

        Blocks; called before the loop runs and before privileges are dropped.
        """
        bindings = cls()
        until = monotonic() + patience
        while True:
            try:
                bindings.apply(bindings.rebind(config, range(config.workers)))
            except BindError as error:
                if not error.in_use or monotonic() >= until:
                    raise
            else:
                return bindings
            time.sleep(_RETRY)

    @property
    def announced(self) -> Sequence[tuple[str, str]]:
        """(listener, URL) of every bind, in the order of the file."""
        return [(each.listener, url(each.first.bind, tls=each.tls)) for each in self._addresses]

    def of_slot(self, slot: int) -> list[ListeningSocket]:
        """What the worker of this slot listens on."""
        return [each.sockets[slot] for each in self._addresses if slot in each.sockets]

    def own_of_slot(self, slot: int) -> list[ListeningSocket]:
        """What only the worker of this slot listens on: nobody empties these queues while it is away."""
        return [each for each in self.of_slot(slot) if not each.shared]

    def all(self) -> Iterator[ListeningSocket]:
        """Every socket; a shared one once per slot."""
        for each in self._addresses:
            yield from each.sockets.values()

    def give_files_to(self, uid: int, gid: int) -> None:
        """Make another user the owner of Unix sockets' files, so that it can remove them at the end."""
        for path in self._files:
            os.chown(path, uid, gid, follow_symlinks=False)

    def close(self) -> None:
        """Close our copies; workers keep theirs. The queue of a socket that nobody else holds is reset."""
        for each in self.all():
            each.sock.close()
        self._addresses.clear()

    def remove_files(self) -> None:
        """Remove the files of Unix sockets."""
        for path, identity in self._files.items():
            remove_unix(path, identity)
        self._files.clear()

    # ---- another configuration

    def rebind(self, config: Config, slots: Iterable[int]) -> Rebinding:
        """Bind what `config` listens on and we do not, for these worker slots. Nothing in use changes.

        What stays keeps the sockets of all slots that it ever had: a slot without worker is served by others. An
        address that another listener of ours has, or that is part of one, is taken over without a gap.
        """
        slots = list(slots)
        change = Rebinding()
        left = list(self._addresses)
        wanted = [(one.name, one.tls is not None, bind) for one in config.listeners for bind in one.bind]
        found: dict[int, _Address] = {}
        for place, (listener, tls, bind) in enumerate(wanted):
            same = [each for each in left if _is_the_same(each, listener, tls, bind)]
            if same:
                left.remove(same[0])
                found[place] = same[0] if same[0].written == bind else _Address(listener, tls, bind, same[0].sockets)
        try:
            for place, (listener, tls, bind) in enumerate(wanted):
                address = found.get(place)
                if address is None:
                    address = self._moved(change, left, listener, tls, bind)
                if address is None:
                    address = self._bound(change, listener, tls, bind, slots)
                change._addresses.append(self._with_slots(change, address, slots))
        except BindError:
            self.undo(change)
            raise
        change.closing += [each for address in left for each in address.sockets.values()]
        change.removed += change.closing
        return change

    def apply(self, change: Rebinding) -> None:
        """From now on this is what is listened on. What is to be closed stays open; see `close_removed`."""
        self._addresses = change._addresses
        self._files |= change._files
        for address in self._addresses:
            bind = address.written
            if bind.path and bind.mode != address.first.bind.mode:
                os.chmod(bind.path, bind.mode)

    def close_removed(self, change: Rebinding) -> None:
        """Close our copies of what is not listened on any more; workers then empty the queues and close theirs."""
        for each in change.closing:
            each.sock.close()
            identity = self._files.pop(each.bind.path, None)
            if identity is not None:
                remove_unix(each.bind.path, identity)

    def undo(self, change: Rebinding) -> None:
        """Close what was bound for a change that is not made."""
        for sock in change._opened:
            sock.close()
        for path, identity in change._files.items():
            remove_unix(path, identity)

    def _moved(self, change: Rebinding, left: list[_Address], listener: str, tls: bool, bind: Bind) -> _Address | None:
        """The address under another listener, or with or without TLS: the sockets stay, workers learn new keys."""
        if not bind.path and not bind.port:
            return None
        old = next((each for each in left if each.place == (bind.host, bind.port, bind.path)), None)
        if old is None:
            return None
        left.remove(old)
        change.removed += old.sockets.values()
        address = _Address(listener, tls, bind)
        for slot, each in old.sockets.items():
            self._add(change, address, slot, each.sock)
        return address

    def _bound(self, change: Rebinding, listener: str, tls: bool, bind: Bind, slots: Sequence[int]) -> _Address:
        """A new address, with a socket for each slot."""
        try:
            sockets = bind_sockets(bind, len(slots))
        except BindError as error:
            ours = [each for each in self.all() if each.bind.port == bind.port != 0]
            if not error.in_use or not ours:
                raise
            sockets = [_beside_ours(bind, ours)]
        change._opened += sockets
        if bind.path:
            change._files[bind.path] = file_identity(bind.path)
        address = _Address(listener, tls, bind)
        for slot, sock in zip(slots, sockets, strict=False):
            self._add(change, address, slot, sock)
        return address

    def _with_slots(self, change: Rebinding, address: _Address, slots: Sequence[int]) -> _Address:
        """The address with sockets for these slots, too; a copy where any is missing."""
        missing = [slot for slot in slots if slot not in address.sockets]
        if not missing:
            return address
        address = _Address(address.listener, address.tls, address.written, dict(address.sockets))
        for slot in missing:
            sock = address.first.sock
            if not address.first.shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                sock = _another(sock.family, sock.getsockname(), address.written)
                change._opened.append(sock)
            self._add(change, address, slot, sock)
        return address

    def _add(self, change: Rebinding, address: _Address, slot: int, sock: socket.socket) -> None:
        each = ListeningSocket(self._next_key, slot, address.listener, bound(address.written, sock), sock)
        self._next_key += 1
        address.sockets[slot] = each
        change.added.append(each)


def _is_the_same(address: _Address, listener: str, tls: bool, bind: Bind) -> bool:
    """Nothing changes for this bind but perhaps the mode of its file."""
    written = address.written
    return (address.listener, address.tls, written.host, written.port, written.path) == (
        listener,
        tls,
        bind.host,
        bind.port,
        bind.path,
    )


def _beside_ours(bind: Bind, ours: Iterable[ListeningSocket]) -> socket.socket:
    """Bind an address that shares its port with one of ours, such as 127.0.0.1:80 beside 0.0.0.0:80."""
    for each in ours:
        each.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    family = socket.AF_INET6 if ":" in bind.host else socket.AF_INET
    return _another(family, (bind.host, bind.port), bind)


def _another(family: int, where: tuple[object, ...], bind: Bind) -> socket.socket:
    """A listening socket at an address at which we have one that lets others join."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise BindError(bind, error.strerror or str(error)) from error
    return sock
