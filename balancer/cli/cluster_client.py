"""What the commands of `balancer cluster` share: where the cluster is, a client for it, and errors in words."""

import asyncio
import functools
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import click
import msgspec

from balancer.consensus.client import Coordination
from balancer.consensus.client_errors import NotReachedError, OutcomeUnknownError
from balancer.coordination.errors import CoordinationError
from balancer.coordination.responses import KeyValue

ENVIRONMENT = "BALANCER_ENDPOINTS"
DEFAULT = "http://127.0.0.1:2379"

REFUSED = click.ClickException.exit_code
NOT_REACHED = 2
OUTCOME_UNKNOWN = 3

endpoints_option = click.option(
    "--endpoints",
    metavar="URL,...",
    help=f"Members to ask: http://HOST:PORT or unix:/PATH, commas between. Default: ${ENVIRONMENT}, else {DEFAULT}.",
)


class _NotReachedError(click.ClickException):
    exit_code = NOT_REACHED


class _OutcomeUnknownError(click.ClickException):
    exit_code = OUTCOME_UNKNOWN


def endpoints_of(context: click.Context, environ: Mapping[str, str]) -> list[str]:
    """What --endpoints says, here or at a group above, else the environment, else the default."""
    given: str | None = None
    current: click.Context | None = context
    while current is not None and not given:
        given = current.params.get("endpoints")
        current = current.parent
    text = given or environ.get(ENVIRONMENT) or DEFAULT
    return [normal(url) for url in text.split(",") if url.strip()]


def normal(url: str) -> str:
    """`url` as the client takes it; HOST:PORT is meant as http://HOST:PORT."""
    text = url.strip()
    return text if "://" in text or text.startswith("unix:") else f"http://{text}"


def with_client(function: Callable[..., Awaitable[int | None]]) -> Callable[..., None]:
    """Gives a command --endpoints, and its coroutine a client as its first argument; it returns the exit status."""

    @endpoints_option
    @click.pass_context
    @functools.wraps(function)
    def command(context: click.Context, /, *args: Any, **options: Any) -> None:
        options.pop("endpoints")

        async def run() -> int | None:
            # A person repeats a command; what repeats changes by itself is for programs.
            async with Coordination(endpoints_of(context, os.environ), exactly_once=False) as client:
                return await function(client, *args, **options)

        try:
            code = asyncio.run(run())
        except CoordinationError as error:
            raise in_words(error) from None
        context.exit(code or 0)

    return command


def in_words(error: CoordinationError) -> click.ClickException:
    """The error of a command, with what would be right."""
    if isinstance(error, OutcomeUnknownError):
        return _OutcomeUnknownError(f"{error}\nRead before you repeat it.")
    if isinstance(error, NotReachedError):
        return _NotReachedError(f"{error}\nSay where the cluster is: --endpoints URL,... or {ENVIRONMENT}.")
    return click.ClickException(str(error))


def shown(text: bytes) -> str:
    """Bytes for a person's eyes: text as it is, without what would change the terminal."""
    return "".join(char if char.isprintable() else "?" for char in text.decode("utf-8", "replace"))


def as_json(kv: KeyValue, **more: object) -> bytes:
    """A key as one line of JSON. Bytes that are no UTF-8 stand in base64 under `key_base64` and `value_base64`."""
    found: dict[str, object] = dict(more)
    for name, data in (("key", kv.key), ("value", kv.value)):
        try:
            found[name] = data.decode()
        except UnicodeDecodeError:
            found[f"{name}_base64"] = data
    for name in ("create_revision", "mod_revision", "version", "lease"):
        found[name] = getattr(kv, name)
    return msgspec.json.encode(found)
