"""`balancer cluster kv`: keys and values from a shell."""

import asyncio
import os
import sys
from contextlib import suppress
from typing import BinaryIO

import click

from balancer.cli.cluster_client import as_json, shown, with_client
from balancer.cli.cluster_command import KEY_VARIABLE, TOKEN_VARIABLE
from balancer.consensus.client import Coordination
from balancer.consensus.client_kv import Operation, created_at, delete, delete_prefix, prefix_range
from balancer.consensus.client_kv import put as put_request
from balancer.coordination.requests import Compare, RangeRequest
from balancer.coordination.responses import Event, EventType, KeyValue, TxnResponse

_json_option = click.option(
    "--json", "json", is_flag=True, help="One JSON object per line; bytes that are no text in base64."
)
_guarded_option = click.option(
    "--guarded",
    is_flag=True,
    help="Only while the lock or leadership is held that this runs under (see `lock`, `elect`); exit status 4 if not.",
)


class _NotHeldError(click.ClickException):
    exit_code = 4


@click.group("kv")
def kv() -> None:
    """Read, write and watch keys."""


@kv.command("get")
@click.argument("key")
@click.option("--prefix", is_flag=True, help="All keys that begin with KEY, a line each: key, tab, value.")
@click.option("--keys-only", is_flag=True, help="Keys without their values.")
@click.option("--revision", type=click.IntRange(min=0), default=0, help="As it was at this revision.")
@click.option("--serializable", is_flag=True, help="What the asked member knows: may be old, needs no quorum.")
@_json_option
@with_client
async def get(
    client: Coordination, key: str, prefix: bool, keys_only: bool, revision: int, serializable: bool, json: bool
) -> int:
    """Print the value of KEY as it is, and a newline. Exit status 1: there is no such key."""
    first, end = prefix_range(key) if prefix else (key.encode(), b"")
    answer = await client.range(
        RangeRequest(first, end, revision=revision, serializable=serializable, keys_only=keys_only)
    )
    if not answer.kvs and not prefix:
        raise click.ClickException(f"there is no key {key!r}")
    out = sys.stdout.buffer
    for found in answer.kvs:
        _print(out, found, json=json, with_key=prefix or keys_only, with_value=not keys_only)
    return 0


@kv.command("put")
@click.argument("key")
@click.argument("value", required=False)
@click.option("--lease", metavar="ID", help="Deleted when this lease ends; decimal, or hexadecimal with 0x.")
@_guarded_option
@with_client
async def put(client: Coordination, key: str, value: str | None, lease: str | None, guarded: bool) -> int:
    """Write VALUE to KEY, or standard input where there is no VALUE. Prints the revision."""
    data = sys.stdin.buffer.read() if value is None else os.fsencode(value)
    request = put_request(key, data, lease=_lease_id(lease))
    if guarded:
        revision = (await _guarded(client, request)).header.revision
    else:
        revision = (await client.put(key, data, lease=_lease_id(lease))).header.revision
    click.echo(f"revision {revision}")
    return 0


@kv.command("del")
@click.argument("key")
@click.option("--prefix", is_flag=True, help="All keys that begin with KEY.")
@_guarded_option
@with_client
async def remove(client: Coordination, key: str, prefix: bool, guarded: bool) -> int:
    """Delete KEY. Prints how many keys were deleted."""
    if guarded:
        answer = await _guarded(client, delete_prefix(key) if prefix else delete(key))
        deleted = sum(part.response_delete_range.deleted for part in answer.responses if part.response_delete_range)
    else:
        deleted = (await (client.delete_prefix(key) if prefix else client.delete(key))).deleted
    click.echo(f"deleted {deleted}")
    return 0


@kv.command("watch")
@click.argument("key")
@click.option("--prefix", is_flag=True, help="All keys that begin with KEY.")
@click.option("--from", "start", type=click.IntRange(min=1), help="From this revision on. [default: from now on]")
@_json_option
@with_client
async def watch(client: Coordination, key: str, prefix: bool, start: int | None, json: bool) -> int:
    """Print each change of KEY as it happens, until Ctrl-C: PUT or DELETE, key, value, with tabs between.

    It goes on over lost connections, without a gap.
    """
    with suppress(asyncio.CancelledError):  # Ctrl-C
        async with client.watch(key, prefix=prefix, start_revision=start or 0) as changes:
            async for event in changes:
                sys.stdout.buffer.write(_line(event, json=json))
                sys.stdout.buffer.flush()
    return 0


def _line(event: Event, *, json: bool) -> bytes:
    if json:
        return as_json(event.kv, event=event.type.name) + b"\n"
    value = [event.kv.value] if event.type is EventType.PUT else []
    return b"\t".join([event.type.name.encode(), event.kv.key, *value]) + b"\n"


def _print(out: BinaryIO, found: KeyValue, *, json: bool, with_key: bool, with_value: bool) -> None:
    if json:
        out.write(as_json(found) + b"\n")
        return
    parts = ([found.key] if with_key else []) + ([found.value] if with_value else [])
    out.write(b"\t".join(parts) + b"\n")


def _lease_id(text: str | None) -> int:
    if text is None:
        return 0
    try:
        return int(text, 0)
    except ValueError:
        raise click.UsageError(f"--lease {text!r} is no number; write it in decimal, or as 0x1f") from None


async def _guarded(client: Coordination, request: Operation) -> TxnResponse:
    """Do it while the lock is held under which this process runs."""
    guard = _guard()
    answer = await client.txn([guard], then=[request])
    if not answer.succeeded:
        raise _NotHeldError(f"{shown(guard.key)} is not held any more: nothing was changed")
    return answer


def _guard() -> Compare:
    try:
        return created_at(os.environb[KEY_VARIABLE.encode()], int(os.environ[TOKEN_VARIABLE]))
    except (KeyError, ValueError):
        raise click.UsageError(
            f"--guarded needs {KEY_VARIABLE} and {TOKEN_VARIABLE}: run it by `balancer cluster lock NAME -- CMD`"
        ) from None
