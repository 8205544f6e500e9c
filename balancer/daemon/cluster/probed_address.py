"""What a probe reaches, in words that mean the same on every node."""

import os
import secrets
from pathlib import Path

from balancer.config.model import ResolvedBackend

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NETWORK = Path("/proc/self/ns/net")
_LOCAL = ("127.", "::1", "::ffff:127.", "169.254.", "fe80:")


def network() -> str:
    """A name of what loopback and link-local addresses reach here: of this network namespace of this boot.

    Where neither can be read, one that nobody else has: then such addresses are checked by each balancer itself.
    """
    try:
        return f"{_BOOT.read_text('ascii').strip()} {os.readlink(_NETWORK)}"
    except OSError:
        return secrets.token_hex(8)


def probed_address(backend: ResolvedBackend, here: str) -> str | None:
    """The address, with the name that is asked for; None for what only this balancer can mean: a Unix socket.

    `here`: what `network` gave, which tells apart what is behind the same address of two machines.
    """
    host, port, path = backend.address
    if path:
        return None
    text = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if backend.host != host:
        text = f"{backend.host} at {text}"
    return f"{text} of {here}" if host.startswith(_LOCAL) else text
