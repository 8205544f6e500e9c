"""A raw connection for tests: sends bytes exactly as told, in pieces that the other side reads one by one.

Between two pieces it does not sleep: it asks the kernel whether the peer's program has taken the first from its
socket (loopback only: unsent bytes here and unread bytes there, by SIOCOUTQ and NETLINK_SOCK_DIAG), so that two
pieces never arrive in one read.
"""

import asyncio
import fcntl
import functools
import socket
import ssl
import struct
import termios
from collections.abc import Callable, Iterable

PIECE_PATIENCE = 0.5
"""Seconds to wait for a peer that does not read on; then the next piece follows all the same."""

_SOCK_DIAG_BY_FAMILY = 20
_NETLINK_SOCK_DIAG = 4
_NLMSG_ERROR = 2


class Pulse:
    """Wakes every waiter when anything happens; waiters look for themselves whether it was theirs."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def beat(self) -> None:
        """Something happened."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def until(self, holds: Callable[[], bool], patience: float) -> bool:
        """Wait until `holds()`, at most `patience` seconds; whether it does."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while not holds():
            remaining = deadline - loop.time()
            if remaining <= 0:
                return False
            waiter = loop.create_future()
            self._waiters.add(waiter)
            alarm = loop.call_later(remaining, _wake, waiter)
            try:
                await waiter
            finally:
                alarm.cancel()
                self._waiters.discard(waiter)
        return True


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)


@functools.cache
def _diagnosis_socket() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)


def unread_at_peer(sock: socket.socket) -> int:
    """Bytes that arrived in the IPv4 socket at the other end and were not read there; 0 when it is gone."""
    here, there = sock.getsockname(), sock.getpeername()
    identity = struct.pack("!HH", there[1], here[1]) + socket.inet_aton(there[0]) + bytes(12)
    identity += socket.inet_aton(here[0]) + bytes(12) + struct.pack("=I", 0) + b"\xff" * 8
    question = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF) + identity
    netlink = _diagnosis_socket()
    netlink.send(struct.pack("=IHHII", 16 + len(question), _SOCK_DIAG_BY_FAMILY, 1, 1, 0) + question)
    answer = netlink.recv(4096)
    if struct.unpack_from("=H", answer, 4)[0] == _NLMSG_ERROR:
        return 0
    return int(struct.unpack_from("=I", answer, 16 + 4 + 48 + 4)[0])


def unsent(sock: socket.socket) -> int:
    """Bytes in our send queue that the other kernel has not acknowledged."""
    return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0])


class Wire:
    """One connection, plain or TLS, whose every received byte is kept in `received`.

    `ended` tells how the peer's direction ended: "" not yet, "clean" (FIN; in TLS close_notify), "cut" (TLS
    without close_notify), "reset", or "here" when we closed first.
    """

    def __init__(self, sock: socket.socket, pulse: Pulse, tls: ssl.SSLContext | None = None, name: str = "a") -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.pulse = pulse
        self.received = bytearray()
        self.ended = ""
        self.sent = 0
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._inward = ssl.MemoryBIO()
        self._outward = ssl.MemoryBIO()
        self._tls = tls.wrap_bio(self._inward, self._outward, server_hostname=name) if tls else None

    @classmethod
    async def connect(cls, address: tuple[str, int], pulse: Pulse, tls: ssl.SSLContext | None = None) -> "Wire":
        """A connection to `address`, the TLS handshake done."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, address)
            wire = cls(sock, pulse, tls)
            await wire.start()
        except BaseException:
            sock.close()
            raise
        return wire

    async def start(self) -> None:
        """Shake hands where TLS is due, then read whatever comes from now on."""
        if self._tls is not None:
            await self._handshake(self._tls)
        self._loop.add_reader(self.sock, self._readable)
        self._take(b"")  # what came behind the handshake

    async def _handshake(self, tls: ssl.SSLObject) -> None:
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                data = await self._loop.sock_recv(self.sock, 65536)
                if not data:
                    raise ConnectionResetError("the peer ended during the TLS handshake") from None
                self._inward.write(data)
            else:
                await self._flush()
                return

    async def _flush(self) -> None:
        data = self._outward.read()
        if data:
            await self._loop.sock_sendall(self.sock, data)

    def _readable(self) -> None:
        try:
            data = self.sock.recv(262144)
        except BlockingIOError:
            return
        except ConnectionError:
            self._end("reset")
            return
        if data:
            self._take(data)
        elif self._tls is None:
            self._end("clean")
        else:
            self._inward.write_eof()
            self._take(b"")
            self._end("cut")
        self.pulse.beat()

    def _take(self, data: bytes) -> None:
        if self._tls is None:
            self.received += data
            return
        if data:
            self._inward.write(data)
        while not self.ended:
            try:
                plain = self._tls.read(262144)
            except ssl.SSLWantReadError:
                return
            except ssl.SSLError as error:  # SSLZeroReturnError is close_notify; SSLEOFError its absence
                self._end("clean" if isinstance(error, ssl.SSLZeroReturnError) else "cut")
                return
            if not plain:
                self._end("clean")
                return
            self.received += plain

    def _end(self, how: str) -> None:
        if not self.ended:
            self.ended = how
            if not self._closed:
                self._loop.remove_reader(self.sock)
        self.pulse.beat()

    async def send(self, data: bytes, cuts: Iterable[int] = ()) -> bool:
        """Send `data`, in pieces that end at the offsets `cuts`; False when the peer was gone before all of it."""
        start = 0
        for cut in (*cuts, len(data)):
            if not await self._write(data[start:cut]):
                return False
            start = cut
            if cut < len(data):
                await self.consumed()
                if self.ended:
                    return False
        return True

    async def _write(self, data: bytes) -> bool:
        if self._closed:
            return False
        try:
            if self._tls is None:
                await self._loop.sock_sendall(self.sock, data)
            else:
                self._tls.write(data)
                await self._flush()
        except (ConnectionError, ssl.SSLError):
            return False
        self.sent += len(data)
        return True

    async def consumed(self, patience: float = PIECE_PATIENCE) -> bool:
        """Wait until the peer has read all that was sent, or is gone, or `patience` seconds passed."""
        deadline = self._loop.time() + patience
        while not self.ended:
            try:
                if unsent(self.sock) == 0 and unread_at_peer(self.sock) == 0:
                    return True
            except OSError:  # not connected any more: nobody reads on
                return False
            if self._loop.time() > deadline:
                return False
            await asyncio.sleep(0)
        return False

    def finish(self) -> None:
        """Say that nothing more comes: FIN (in TLS close_notify first); the other direction stays open."""
        if self._closed or self.ended == "reset":
            return
        try:
            if self._tls is not None:
                try:
                    self._tls.unwrap()
                except ssl.SSLWantReadError:
                    self.sock.send(self._outward.read())
            self.sock.shutdown(socket.SHUT_WR)
        except (OSError, ssl.SSLError):
            self._end("reset")

    def reset(self) -> None:
        """Close with RST."""
        if not self._closed:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Close the socket at once."""
        if self._closed:
            return
        self._closed = True
        if not self.ended:
            self._loop.remove_reader(self.sock)
            self.ended = "here"
        self.sock.close()
        self.pulse.beat()
