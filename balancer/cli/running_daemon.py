"""The daemon that is already running: where its admin address is, and how a command asks it something."""

import asyncio
import functools
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import click
import msgspec

from balancer.daemon.runtime_dir import ADMIN_URL
from balancer.errors import BalancerError
from balancer.transport.http_client import HttpClientError, Response, request

REFUSED = click.ClickException.exit_code
NOT_REACHED = 2
_TIMEOUT = 10.0


class NoDaemonError(BalancerError):
    """No daemon was found or reached, or more than one was found."""


class RefusedError(BalancerError):
    """The daemon answered, and will not do it."""


class _NotReachedError(click.ClickException):
    exit_code = NOT_REACHED


class _Error(msgspec.Struct):
    message: str


class _ErrorBody(msgspec.Struct):
    error: _Error


class _Changed(msgspec.Struct):
    notes: list[str] = []


class RunningDaemon:
    """The admin address at `url`, as given by a person or a runtime folder. Raises NoDaemonError when it is none."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = _normal(url)
        self._token = token

    def ask(
        self,
        path: str,
        method: str = "GET",
        change: object = None,
        *,
        good: Collection[int] = (200, 201),
        timeout: float = _TIMEOUT,
    ) -> Response:
        """The answer to one request; `change` is sent as JSON. Raises NoDaemonError, and RefusedError when not `good`.

        `timeout` is seconds for the whole of it.
        """
        headers = [] if method == "GET" else [("content-type", "application/json")]
        if self._token:
            headers.append(("authorization", f"Bearer {self._token}"))
        body = b"" if change is None else msgspec.json.encode(change)
        try:
            answer = asyncio.run(request(self.url, method, path, headers=headers, body=body, timeout=timeout))
        except HttpClientError as error:
            raise NoDaemonError(f"{error}; is the daemon running, and is this its admin address?") from None
        if answer.status == 401:
            raise RefusedError(f"{self.url} asks for a token; say --token-file FILE")
        if answer.status not in good:
            raise RefusedError(_refusal(self.url, answer))
        return answer

    def change_backend(
        self, pool: str, backend: str, change: Mapping[str, object], *, everywhere: bool = False
    ) -> list[str]:
        """Change a weight or a state, here or in the whole cluster; gives notes in words. Raises as `ask` does."""
        answer = self.ask(backend_path(pool, backend), "PATCH", {**change, "cluster": True} if everywhere else change)
        try:
            return msgspec.json.decode(answer.body, type=_Changed).notes
        except (msgspec.DecodeError, UnicodeDecodeError):  # done it is
            return []


def backend_path(pool: str, backend: str) -> str:
    """Where the API has a backend."""
    names = (quote(name, safe="", errors="surrogateescape") for name in (pool, backend))
    return "/api/v1/pools/{}/backends/{}".format(*names)


def print_notes(notes: Iterable[str]) -> None:
    """What a person should know beside the result."""
    for note in notes:
        click.echo(f"note: {note}", err=True)


everywhere_option = click.option(
    "--cluster",
    "everywhere",
    is_flag=True,
    help="At every balancer of the cluster, also those that start later; answered once the cluster has it.",
)


def with_daemon(function: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options that say where the daemon is, and the daemon as its first argument.

    Its errors are told in words; exit status 1: the daemon refused, 2: it was not reached.
    """

    @click.option(
        "--admin",
        "url",
        metavar="URL",
        envvar="BALANCER_ADMIN",
        help="Admin address: http://HOST:PORT or unix:/PATH. Default: $BALANCER_ADMIN, else the daemon that runs here.",
    )
    @click.option(
        "--token-file",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="BALANCER_ADMIN_TOKEN_FILE",
        help="File with the admin token, where the daemon asks for one.",
    )
    @functools.wraps(function)
    def found(url: str | None, token_file: Path | None, **rest: Any) -> None:
        try:
            address = url or find_admin(os.environ, os.geteuid(), _bases())
            function(RunningDaemon(address, _token_of(token_file)), **rest)
        except NoDaemonError as error:
            raise _NotReachedError(str(error)) from None
        except RefusedError as error:
            raise click.ClickException(str(error)) from None

    return found


def find_admin(environ: Mapping[str, str], uid: int, bases: Iterable[str]) -> str:
    """The admin address of the one daemon of this user that runs here. Raises NoDaemonError.

    A daemon writes it into its runtime folder, in XDG_RUNTIME_DIR or one of `bases`. A folder of another user is
    believed only where nobody but this user or root can make one: a daemon that root started as another user.
    """
    urls = {}
    for base in dict.fromkeys(base for base in (environ.get("XDG_RUNTIME_DIR", ""), *bases) if base):
        for file in sorted(Path(base).glob(f"balancer*/{ADMIN_URL}")):
            try:
                if _own(Path(base), uid) or {file.stat().st_uid, file.parent.lstat().st_uid} <= {uid, 0}:
                    urls[file] = file.read_text().strip()
            except OSError:  # gone, or not ours to read: then it is not the daemon that is meant
                continue
    if not urls:
        raise NoDaemonError("no running balancer found; start one with `balancer run CONFIG`, or say --admin URL")
    if len(set(urls.values())) > 1:
        listed = "\n".join(f"  --admin {url}  ({file.parent})" for file, url in urls.items())
        raise NoDaemonError(f"several balancers run here; choose one:\n{listed}")
    return next(iter(urls.values()))


def _own(folder: Path, uid: int) -> bool:
    found = folder.stat()
    return found.st_uid in (uid, 0) and not found.st_mode & 0o022


def _bases() -> tuple[str, ...]:
    """Where `daemon.runtime_dir.default_path` puts its folders, and /run, where files of a system say so."""
    return (f"/run/user/{os.geteuid()}", tempfile.gettempdir(), "/run")


def _token_of(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NoDaemonError(f"cannot read the token file {file}: {error}") from None


def _normal(url: str) -> str:
    """`url` as the client takes it. HOST:PORT is meant as the file's `admin.bind` writes it."""
    text = url.strip()
    if text.startswith("unix:"):
        return text
    whole = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(whole)
        usable = parts.scheme == "http" and parts.hostname and parts.path in ("", "/") and not parts.query
        usable = usable and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or not whole.isascii() or not whole.isprintable() or " " in whole:
        raise NoDaemonError(f"{url!r} is no admin address; write http://HOST:PORT or unix:/PATH")
    return whole.removesuffix("/")


def _refusal(url: str, answer: Response) -> str:
    try:
        return msgspec.json.decode(answer.body, type=_ErrorBody).error.message
    except (msgspec.DecodeError, UnicodeDecodeError):
        return f"{url} answers {answer.status}: {answer.body[:300].decode('utf-8', 'replace').strip()}"
