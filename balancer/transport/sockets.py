"""Listening sockets: binding them, with errors a person can act on, and emptying their queues before they close.

A TCP bind gets one SO_REUSEPORT socket per worker slot: a single shared queue starves workers. With that option any
second program of the same user could join the group and take part of the connections without an error anywhere, so
the first socket binds and listens without it: a port in use is an error, always. Linux only.
"""

import contextlib
import ctypes
import errno
import os
import socket
import stat
import struct

from balancer.config.model import Bind
from balancer.errors import BalancerError

BACKLOG = 4096  # Linux's default somaxconn; smaller ones drop connections in bursts. Passed wherever listen is called

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; the socket module does not name it
_TCP_INFO_UNACKED = 24  # offset of tcpi_unacked in struct tcp_info; of a listening socket: its accept queue
_TCP_LISTEN = 10

# Classic BPF over a TCP segment from its header on (byte 13 holds the flags): drop SYN without ACK, keep the rest.
_DROP_SYN = (
    (0x30, 0, 0, 13),  # load byte 13
    (0x45, 0, 2, 0x02),  # SYN set? else keep
    (0x45, 1, 0, 0x10),  # ACK set? then keep
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFF_FFFF),  # keep
)


class BindError(BalancerError):
    """An address cannot be listened on. The text names it, says why and what helps."""

    def __init__(self, bind: Bind, why: str, *, in_use: bool = False) -> None:
        super().__init__(f"cannot bind {bind.text}: {why}")
        self.in_use = in_use


def bind_sockets(bind: Bind, slots: int) -> list[socket.socket]:
    """Listening sockets for one bind: one per worker slot for TCP, a single one (shared by all) for a Unix path.

    Port 0: all slots get the port that the first one got. The sockets are non-blocking and not inheritable.
    Raises BindError; then nothing stays open.
    """
    if bind.path:
        return [_bind_unix(bind)]
    sockets: list[socket.socket] = []
    try:
        first = _bind_tcp(bind, bind.port, exclusive=True)
        sockets.append(first)
        if slots > 1:  # else nobody needs to join, and nobody can
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        port = first.getsockname()[1]
        sockets.extend(_bind_tcp(bind, port, exclusive=False) for _ in range(slots - 1))
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise BindError(bind, _why(bind, error), in_use=error.errno == errno.EADDRINUSE) from error
    return sockets


def bound(bind: Bind, sock: socket.socket) -> Bind:
    """`bind` with the port that the socket really has."""
    return bind if bind.path else Bind(host=bind.host, port=sock.getsockname()[1])


def url(bind: Bind, *, tls: bool = False) -> str:
    """How a client would write it: http://host:port, https://... or unix:/path."""
    return bind.text if bind.path else f"{'https' if tls else 'http'}://{bind.text}"


def file_identity(path: str) -> tuple[int, int]:
    """Device and inode of a socket's file, to know it again. Raises OSError."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def remove_unix(path: str, identity: tuple[int, int]) -> None:
    """Remove the file of a Unix socket that we bound, unless another stands there by now or it is gone."""
    with contextlib.suppress(OSError):
        if file_identity(path) == identity:
            os.unlink(path)


def refuse_new(sock: socket.socket) -> bool:
    """Let no new connection into the queue of a listening TCP socket, so that it can be emptied and then closed.

    Connections whose handshake has begun still arrive; a new SYN is dropped, and its client tries again in a second.
    The filter belongs to the socket, not to the descriptor: all processes that share it are affected. False where it
    cannot be done: a Unix socket (its queue has no handshake to wait for), or a kernel that keeps such filters on TCP
    for root (Linux since 2026); then what arrives between the last accept and the close is reset.
    """
    if sock.family == socket.AF_UNIX:
        return False
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _DROP_SYN))
    program = struct.pack("HP", len(_DROP_SYN), ctypes.addressof(code))
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    except PermissionError:
        return False
    return True


def queued(sock: socket.socket) -> int:
    """Connections that wait in the accept queue of a listening TCP socket; 0 for a Unix socket, which cannot tell."""
    if sock.family == socket.AF_UNIX:
        return 0
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_UNACKED + 4)
    if info[0] != _TCP_LISTEN:
        return 0
    (waiting,) = struct.unpack_from("I", info, _TCP_INFO_UNACKED)
    return int(waiting)


def accept_all(sock: socket.socket) -> list[socket.socket]:
    """Everything in the queue of a non-blocking listening socket, non-blocking. Without descriptors, what there was."""
    accepted = []
    with contextlib.suppress(OSError):
        while True:
            connection, _ = sock.accept()
            connection.setblocking(False)
            accepted.append(connection)
    return accepted


def _bind_tcp(bind: Bind, port: int, *, exclusive: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in bind.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not exclusive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        host, _, zone = bind.host.partition("%")
        where = (host, port, 0, socket.if_nametoindex(zone)) if zone else (host, port)
        sock.bind(where)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _bind_unix(bind: Bind) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        _clear_stale(bind)
        before = os.umask(0o777 & ~bind.mode)
        try:
            sock.bind(bind.path)
        finally:
            os.umask(before)
        os.chmod(bind.path, bind.mode)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise BindError(bind, _why(bind, error), in_use=error.errno == errno.EADDRINUSE) from error
    except BindError:
        sock.close()
        raise
    return sock


def _clear_stale(bind: Bind) -> None:
    """Remove a socket file that a dead process left behind. BindError for anything else that stands there."""
    try:
        found = os.lstat(bind.path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise BindError(bind, "a file that is not a socket stands there; remove it or choose another path")
    if _answers(bind.path):
        raise BindError(bind, "another program listens there", in_use=True)
    os.unlink(bind.path)


def _answers(path: str) -> bool:
    """True when a program listens on the Unix socket at `path`, as far as can be told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError as error:
            # EAGAIN: its queue is full. EPROTOTYPE: a datagram socket. EACCES: someone else's. All alive.
            return error.errno in (errno.EAGAIN, errno.EPROTOTYPE, errno.EACCES, errno.EPERM)
        return True


def _why(bind: Bind, error: OSError) -> str:
    number = error.errno
    if number == errno.EACCES and bind.path:
        return f"permission denied (may this user write to {os.path.dirname(bind.path) or '.'}?)"
    if number in (errno.EACCES, errno.EPERM):
        return "permission denied (needs root or CAP_NET_BIND_SERVICE)"
    if number == errno.EADDRINUSE:
        return f"address already in use (`ss -ltnp 'sport = :{bind.port}'` shows by whom)"
    if number == errno.EADDRNOTAVAIL:
        return "this machine has no such address (0.0.0.0 or [::] stand for all that it has)"
    if number == errno.EAFNOSUPPORT:
        return "this machine has no IPv6" if ":" in bind.host else "this machine has no IPv4"
    if number == errno.ENOENT and bind.path:
        return f"there is no folder {os.path.dirname(bind.path)}"
    return error.strerror or str(error)
