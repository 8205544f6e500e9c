"""The network between real members, in which any direction of any link can be cut.

Each member has a network namespace of its own with one interface; a bridge in a further namespace joins them, and the
clients' interface in the namespace of the tests. A link is cut in one direction by giving the sender a wrong hardware
address of the receiver: his packets leave and nobody takes them, as on a broken wire. Where there may be no namespaces
the reason is printed, and real_relays.py cuts instead.
"""

import contextlib
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from itertools import count, permutations
from pathlib import Path
from random import SystemRandom
from typing import Protocol

from balancer.config.model import Bind
from tests.support.programs import find_program

DESK = "desk"
"""Where the clients are."""

Link = tuple[str, str]
"""From whom to whom: a direction."""

PEER_PORT, CLIENT_PORT = 7001, 2379
_PREFIX = "balancer-test"
_NOBODY = "02:ba:1a:ff:ff:ff"
_serial = count(1)


class NoNamespacesError(Exception):
    """There can be none here. The text says why."""


class Network(Protocol):
    """What a fault needs of it. `words`: what it is made of; `cuts_clients`: links to and from DESK can be cut."""

    words: str
    cuts_clients: bool

    def address(self, name: str) -> str:
        """Where the other members find it, as host:port."""

    def peer(self, name: str) -> Bind:
        """Where it listens for them."""

    def client(self, name: str) -> Bind:
        """Where it listens for clients, who find it there."""

    def command(self, name: str) -> Sequence[str]:
        """What is put before the command of a process to have it run there."""

    async def cut(self, links: Iterable[Link]) -> None:
        """Nothing passes any more, in these directions."""

    async def mend(self, links: Iterable[Link]) -> None:
        """It passes again."""

    async def close(self) -> None:
        """Nothing of it is left."""


def links_of(name: str, others: Iterable[str], *, hears: bool, is_heard: bool) -> frozenset[Link]:
    """What has to be cut so that a member does not hear the others, or is not heard by them, or both."""
    cut = set()
    for other in others:
        if other != name:
            cut |= set() if hears else {(other, name)}
            cut |= set() if is_heard else {(name, other)}
    return frozenset(cut)


class Namespaces:
    """See the module. Raises NoNamespacesError, and then nothing is left."""

    cuts_clients = True

    def __init__(self, names: Sequence[str]) -> None:
        program = find_program("ip")
        if program is None:
            raise NoNamespacesError("no program `ip`: apt-get install iproute2")
        self._ip = str(program)
        _sweep(self._ip)
        self._mark = f"{_PREFIX}-{os.getpid()}-{next(_serial)}"
        self._desk_device = f"blt{os.getpid() % 10**7}d{next(_serial) % 1000}"
        net = _unused_net(self._ip)
        self._numbers = {name: number for number, name in enumerate((DESK, *names), 1)}
        self._addresses = {name: f"{net}.{number}" for name, number in self._numbers.items()}
        self.words = f"network namespaces on a bridge, {net}.0/24"
        try:
            self._make(net)
        except BaseException:
            self._remove()
            raise

    def address(self, name: str) -> str:
        return f"{self._addresses[name]}:{PEER_PORT}"

    def peer(self, name: str) -> Bind:
        return Bind(host=self._addresses[name], port=PEER_PORT)

    def client(self, name: str) -> Bind:
        return Bind(host=self._addresses[name], port=CLIENT_PORT)

    def command(self, name: str) -> Sequence[str]:
        return (self._ip, "netns", "exec", self._space(name))

    async def cut(self, links: Iterable[Link]) -> None:
        self._point(links, to_nobody=True)

    async def mend(self, links: Iterable[Link]) -> None:
        self._point(links, to_nobody=False)

    async def close(self) -> None:
        self._remove()

    def _space(self, name: str) -> str:
        return f"{self._mark}-{name}"

    def _make(self, net: str) -> None:
        members = [name for name in self._numbers if name != DESK]
        hub = self._space("hub")
        for name in ("hub", *members):
            self._run([f"netns add {self._space(name)}"])
        self._run(["link add hub0 type bridge", "link set hub0 up"], hub)
        for name, number in self._numbers.items():
            own, device = ("", self._desk_device) if name == DESK else (self._space(name), "eth0")
            self._run([f"link add p{number} type veth peer name q{number}"], hub)
            self._run([f"link set p{number} master hub0", f"link set p{number} up"], hub)
            self._run([f"link set q{number} netns {own or os.getpid()} name {device}"], hub)
            commands = [
                f"link set {device} address {_hardware(number)}",
                f"addr add {net}.{number}/24 dev {device}",
                f"link set {device} up",
            ]
            self._run([*commands, *(() if name == DESK else ("link set lo up",))], own)
        self._point(permutations(self._numbers, 2), to_nobody=False)

    def _point(self, links: Iterable[Link], *, to_nobody: bool) -> None:
        commands: dict[str, list[str]] = {}
        for sender, receiver in links:
            device = self._desk_device if sender == DESK else "eth0"
            hardware = _NOBODY if to_nobody else _hardware(self._numbers[receiver])
            line = f"neigh replace {self._addresses[receiver]} lladdr {hardware} dev {device} nud permanent"
            commands.setdefault("" if sender == DESK else self._space(sender), []).append(line)
        for space, lines in commands.items():
            self._run(lines, space)

    def _run(self, commands: Sequence[str], space: str = "") -> None:
        """Milliseconds, so that nothing is gained by not blocking."""
        line = [self._ip, *(("-n", space) if space else ()), "-batch", "-"]
        text = "".join(f"{command}\n" for command in commands)
        done = subprocess.run(line, input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise NoNamespacesError(f"ip {commands[0]}: {said[0] if said else done.returncode}")

    def _remove(self) -> None:
        subprocess.run([self._ip, "link", "del", self._desk_device], capture_output=True, check=False)
        for name in ("hub", *self._numbers):
            subprocess.run([self._ip, "netns", "del", self._space(name)], capture_output=True, check=False)


def _unused_net(program: str) -> str:
    """Its first three numbers: of the range for measurements (RFC 2544), which no real network uses."""
    done = subprocess.run([program, "-4", "-o", "addr"], capture_output=True, text=True, check=False)
    rng = SystemRandom()
    while True:
        net = f"198.{rng.choice((18, 19))}.{rng.randrange(256)}"
        if f" {net}." not in done.stdout:
            return net


def _hardware(number: int) -> str:
    return f"02:ba:1a:00:00:{number:02x}"


def _sweep(program: str) -> None:
    """Remove what a run that was killed has left; its processes ended with it."""
    spaces = Path("/run/netns")
    with contextlib.suppress(OSError):
        for name in os.listdir(spaces):
            found = re.fullmatch(rf"{_PREFIX}-(\d+)-\d+-\w+", name)
            if found and not Path(f"/proc/{found[1]}").exists():
                subprocess.run([program, "netns", "del", name], capture_output=True, check=False)
