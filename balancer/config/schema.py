"""The schema of the configuration file: what may stand in it, its defaults, and the reason for each default.

Pydantic models, used while a file is checked and for the JSON Schema; `validate` turns them into the plain
structures of `model`. Defaults are written as a user would write them.
"""

from typing import Annotated, Any

from balancer.config import addresses
from balancer.config.fields import (
    Boolean,
    FilePath,
    Host,
    Kind,
    Name,
    choice,
    duration,
    integer,
    integer_or_off,
    of,
)
from balancer.config.schema_base import Base, key
from balancer.config.schema_coordination import Coordination
from balancer.config.schema_pools import LATER_STRATEGIES, Pool
from balancer.config.schema_traffic import BindForm, Listener, Route

_WORKERS = integer(1, 256)
_WORKERS_SCHEMA = {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 256}, {"type": "string"}]}


def _workers(text: str) -> int | str:
    return "auto" if text == "auto" else _WORKERS.parse(text)


def _access(text: str) -> str:
    if text in ("stdout", "off") or "/" in text or "." in text:
        return text
    raise ValueError(f"`{text}` is not possible; write stdout, off, or the path of a file such as ./access.log")


def _via(text: str) -> str | None:
    return None if text == "off" else addresses.header_name(text)


class Log(Base):
    """What is logged, and how."""

    level: Annotated[str, choice("debug", "info", "warning", "error")] = key(
        "info",
        description="The least important events that are logged. info: changes of state, never one line per request.",
    )
    format: Annotated[str, choice("json", "console", "auto")] = key(
        "auto",
        description="How events are written. auto: console on a terminal, JSON elsewhere, so that both are read.",
    )
    access: Annotated[str, of("stdout, off or a path", _access)] = key(
        "stdout",
        description="Where the access log goes, one line per exchange. stdout: what a service manager collects; "
        "off costs nothing per request.",
    )


class Admin(Base):
    """The address of the admin API: metrics, readiness, state."""

    bind: BindForm = key(
        "127.0.0.1:9901",
        description="Address to listen on: host:port, [v6]:port, unix:/path, or {path, mode}. 127.0.0.1:9901: "
        "metrics and controls are nobody's business off this machine. A Unix socket gets mode 0600.",
    )
    token_file: FilePath | None = key(
        None,
        description="File with the bearer token that every request must carry. Unset on loopback, where other users "
        "of the machine are trusted; required on any other address.",
    )
    hosts: list[Host] = key(
        list,
        description="Names accepted in Host beside IP addresses and localhost. Empty: it keeps foreign web pages "
        "from reaching the API through DNS rebinding.",
    )


class File(Base):
    """The keys of the whole configuration."""

    workers: Annotated[int | str, Kind("1 to 256, or auto", _workers, _WORKERS_SCHEMA)] = key(
        1,
        description="Processes that carry traffic; auto = one per core. 1: enough for thousands of requests per "
        "second, and the least memory.",
    )
    user: Annotated[str, of("account", addresses.account)] | None = key(
        None, description="Account to change to after binding. Unset: stay who started it; root earns a warning."
    )
    group: Annotated[str, of("account", addresses.account)] | None = key(
        None, description="Group to change to after binding. Unset: the primary group of `user`."
    )
    runtime_dir: FilePath | None = key(
        None,
        description="Folder of the control socket, the lock and saved state. Unset: a private folder below the "
        "user's runtime folder, so that nothing must be prepared.",
    )
    via: Annotated[str | None, of("pseudonym, auto or off", _via)] = key(
        "auto",
        description="Name in the Via field of requests sent upstream, or off. auto: a pseudonym derived from this "
        "machine, because RFC 9110 requires Via and loops are detected by it.",
    )
    max_connections: Annotated[int | None, integer_or_off(1, 10_000_000)] = key(
        "off",
        description="Client connections of all workers together; above it a 503 is answered. off: the limit that "
        "follows from the number of descriptors, which always holds.",
    )
    log: Log = key(Log, description="Event and access log.")
    admin: Admin = key(Admin, description="The admin API.")
    watch: Boolean = key(
        False,
        description="Reload when the file has changed and then stayed the same for half a second, whether it was "
        "written in place, replaced, or reached by a link that now leads elsewhere. false: a half-done edit is "
        "nobody's wish; SIGHUP says when.",
    )
    shutdown_delay: Annotated[float, duration("0s", "1h")] = key(
        "5s",
        description="At a stop, time during which connections are still accepted while readiness says 503. 5s: what "
        "a load balancer in front needs to notice; ends early after 2 s without a new connection.",
    )
    shutdown_grace: Annotated[float, duration("1ms", "24h")] = key(
        "30s", description="Time that exchanges have to finish at a stop. 30s: longer than all but rare requests take."
    )
    tunnel_grace: Annotated[float, duration("1ms", "24h")] = key(
        "60s",
        description="Time that tunnels (WebSocket) have to end at a stop. 60s: they may live for hours, so waiting "
        "longer would only delay the cut.",
    )
    coordination: Coordination | None = key(
        None,
        description="Locks, leader election, leases and a replicated store for several balancers and other programs. "
        "Unset: a single balancer on its own.",
    )
    listeners: dict[Name, Listener] = key(
        description="Addresses to listen on, by name.", example='{web: {bind: "0.0.0.0:8080"}}'
    )
    routes: list[Route] = key(
        description="What happens to which request. The first route that matches wins, in the order written; a "
        "request that none matches gets 404.",
        example="[{name: everything, pool: web}]",
    )
    pools: dict[Name, Pool] = key(
        dict,
        description="Groups of backends, by name. Empty: enough for routes that only redirect or respond.",
    )


# Keys that later versions will take: (path pattern, "*" = any step).
LATER: frozenset[tuple[str, ...]] = frozenset({("pools", "*", "backends_from", "dns")})


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the file, for editors."""
    made = _without_noise(File.model_json_schema())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "balancer configuration",
        **made,
    }


def _without_noise(part: Any) -> Any:
    """`part` of a JSON Schema without what only Python means: null (no key takes it) and made-up titles."""
    if isinstance(part, list):
        return [_without_noise(item) for item in part if item != {"type": "null"}]
    if not isinstance(part, dict):
        return part
    kept = {
        name: value if name in ("default", "enum", "const", "examples") else _without_noise(value)
        for name, value in part.items()
        if not (name == "title" and isinstance(value, str)) and not (name == "default" and value is None)
    }
    choices = kept.get("anyOf")
    if isinstance(choices, list) and len(choices) == 1:
        del kept["anyOf"]
        kept = {**choices[0], **kept}
    return kept


__all__ = ["LATER", "LATER_STRATEGIES", "File", "json_schema"]
