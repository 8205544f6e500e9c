"""Checks the files that a configuration names: that they are there, can be read, and hold what they should."""

import os
import ssl
from collections.abc import Iterator

from balancer.config.load import Loaded
from balancer.config.source import Path
from balancer.consensus.peer_hello import check_secret
from balancer.errors import Problem


def check_named_files(loaded: Loaded) -> list[Problem]:
    """A problem, with its place, for every certificate, key, authority, token or log file that cannot be used."""
    return [loaded.source.problem(path, message) for path, message in _failures(loaded)]


def _failures(loaded: Loaded) -> Iterator[tuple[Path, str]]:
    config = loaded.config
    for listener in config.listeners:
        if listener.tls is None:
            continue
        place: Path = ("listeners", listener.name, "tls")
        for index, pair in enumerate(listener.tls.certificates):
            yield from _pair((*place, "certificates", index), pair.cert, pair.key)
        yield from _authorities((*place, "client_ca"), listener.tls.client_ca)
    for pool in config.pools:
        if pool.tls is None:
            continue
        place = ("pools", pool.name, "tls")
        yield from _authorities((*place, "ca"), pool.tls.ca)
        if pool.tls.cert is not None and pool.tls.key is not None:
            yield from _pair(place, pool.tls.cert, pool.tls.key)
    if config.admin.token_file is not None:
        unreadable = _unreadable(config.admin.token_file)
        if unreadable:
            yield ("admin", "token_file"), unreadable
        elif not _first_bytes(config.admin.token_file).strip():
            yield ("admin", "token_file"), f"{config.admin.token_file} is empty; write the token into it"
    embedded = config.coordination.embedded if config.coordination is not None else None
    if embedded is not None and embedded.peer_secret_file is not None:
        unfit = _unreadable(embedded.peer_secret_file) or _no_secret(embedded.peer_secret_file)
        if unfit:
            yield ("coordination", "embedded", "peer_secret_file"), unfit
    if config.log.access not in ("stdout", "off"):
        impossible = _no_log_file(config.log.access)
        if impossible:
            yield ("log", "access"), impossible


def _no_secret(path: str) -> str:
    """Why the file at `path` holds no secret for members; "" when it does."""
    try:
        check_secret(_first_bytes(path))
    except ValueError as error:
        return f"{path}: {error}"
    return ""


def _no_log_file(path: str) -> str:
    """Why no log file can be at `path`; "" when one can. Who may write there is not asked: `user` may be another."""
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        return f"there is no folder {folder}; make it, or write stdout or the path of another file"
    if os.path.isdir(path):
        return f"{path} is a folder; give the path of a file in it"
    return ""


def _first_bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(4096)


def _unreadable(path: str) -> str:
    """Why the file at `path` cannot be read; "" when it can."""
    try:
        _first_bytes(path)
    except FileNotFoundError:
        return f"{path} does not exist; relative paths start from the folder of the configuration file"
    except (OSError, ValueError) as error:
        return f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
    return ""


def _pair(place: Path, cert: str, key: str) -> Iterator[tuple[Path, str]]:
    bad = False
    for name, path in (("cert", cert), ("key", key)):
        unreadable = _unreadable(path)
        if unreadable:
            bad = True
            yield (*place, name), unreadable
    if bad:
        return
    asked: list[bool] = []

    def no_password() -> bytes:
        asked.append(True)
        return b""

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, no_password)
    except ssl.SSLError as error:
        if asked:
            yield (*place, "key"), f"{key} is encrypted; the daemon has no password, so decrypt it"
        elif error.reason == "KEY_VALUES_MISMATCH":
            yield (*place, "key"), f"{key} is not the key of the certificate in {cert}"
        else:
            reason = (error.reason or "not a PEM file of a certificate, or of its key").lower().replace("_", " ")
            yield (*place, "cert"), f"{cert} and {key} are not a PEM certificate and its key: {reason}"


def _authorities(place: Path, path: str | None) -> Iterator[tuple[Path, str]]:
    if path is None:
        return
    unreadable = _unreadable(path)
    if unreadable:
        yield place, unreadable
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        yield place, f"{path} holds no PEM certificate"
