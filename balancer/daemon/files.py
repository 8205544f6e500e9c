"""The TLS files that a configuration names, read by the supervisor while it may, and shipped to workers as bytes."""

from collections.abc import Iterator
from pathlib import Path

from balancer.config.model import Config
from balancer.errors import BalancerError


class FilesError(BalancerError):
    """Files that the configuration names cannot be read: one line per file."""


def named_files(config: Config) -> Iterator[str]:
    """Every certificate, key and authority file that `config` names."""
    for listener in config.listeners:
        if listener.tls is not None:
            for certificate in listener.tls.certificates:
                yield certificate.cert
                yield certificate.key
            if listener.tls.client_ca is not None:
                yield listener.tls.client_ca
    for pool in config.pools:
        if pool.tls is not None:
            yield from (path for path in (pool.tls.ca, pool.tls.cert, pool.tls.key) if path is not None)


def read_files(config: Config) -> dict[str, bytes]:
    """The content of these files by their path in the configuration. Raises FilesError naming all that fail."""
    files: dict[str, bytes] = {}
    failures: list[str] = []
    for path in dict.fromkeys(named_files(config)):
        try:
            files[path] = Path(path).read_bytes()
        except OSError as error:
            failures.append(f"{path}: {error.strerror or error}")
    if failures:
        raise FilesError("\n".join(failures))
    return files
