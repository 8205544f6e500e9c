"""The admin API: metrics, liveness, readiness, the state of pools, and changes, over `transport.http_server`.

Who may ask: a request's Host must be an IP address, `localhost` or a configured name, because a web page can make
a browser send requests here under a name of its own (DNS rebinding); with a token set, everything but the two
probes needs it. Answers say what is wrong with a request and nothing about our inside.
"""

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol
from urllib.parse import parse_qsl, unquote

import msgspec

from balancer.admin.change_requests import BadRequestError, ChangeRequests, check_change
from balancer.admin.changes import (
    OutOfReachError,
    RefusedChangeError,
    SupervisorChanges,
    UncertainChangeError,
    UnknownBackendError,
)
from balancer.admin.status import PoolStatus
from balancer.telemetry.aggregate import Aggregate
from balancer.telemetry.exposition import CONTENT_TYPE, render
from balancer.transport.host_check import HostCheck
from balancer.transport.http_server import Request, Response, error_response

READ = ("GET", "HEAD")
_BACKENDS = "/api/v1/pools/{pool}/backends"
_BACKEND = "/api/v1/pools/{pool}/backends/{name}"

_Handler = Callable[..., Awaitable[Response]]  # a request, and the names in its path
_Methods = dict[str, _Handler]


class SupervisorView(Protocol):
    """What the API may know of the supervisor."""

    def readiness(self) -> str | None:
        """None when ready, else why not, in words for a person."""

    async def aggregate(self) -> Aggregate:
        """The sum of all workers, pulled now, with the supervisor's own values set."""

    async def pools(self) -> list[PoolStatus]:
        """Every pool as it is now, in the order of the file, counts pulled now (`admin.status.pool_statuses`)."""

    def generation(self) -> int:
        """Number of the configuration in use."""


class AdminApi:
    """The handler for `HttpServer`. `hosts`: further Host values to accept, without port.

    Without `changes` it is read-only: the addresses that need them are not there.
    """

    def __init__(
        self,
        view: SupervisorView,
        token: str | None,
        hosts: frozenset[str],
        changes: SupervisorChanges | None = None,
    ) -> None:
        self._view = view
        self._token = token
        self._hosts = HostCheck(hosts)
        self._addresses: dict[str, _Methods] = {
            "/metrics": _read(self._metrics),
            "/livez": _read(self._livez),
            "/readyz": _read(self._readyz),
            "/api/v1/pools": _read(self._pools),
        }
        if changes is not None:
            self._changes = changes
            requests = ChangeRequests(changes)
            self._addresses |= {
                "/api/v1/config": _read(self._config),
                "/api/v1/reload": {"POST": requests.reload},
                _BACKENDS: {"POST": requests.post_backend},
                _BACKEND: {"PATCH": requests.patch_backend, "DELETE": requests.delete_backend},
            }

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        if not self._hosts.accepts(request.headers.get("host", "")):
            return error_response(
                403, "host_refused", "the Host must be an IP address, localhost, or a name in admin.hosts"
            )
        if request.path not in ("/livez", "/readyz") and not self._authorized(request.headers.get("authorization", "")):
            return error_response(
                401, "token_required", "send Authorization: Bearer TOKEN", (("www-authenticate", "Bearer"),)
            )
        address, names = _pattern_of(request.path)
        methods = self._addresses.get(address)
        if methods is None:
            return error_response(404, "not_found", f"there is nothing here; known: {', '.join(self._addresses)}")
        handler = methods.get(request.method)
        if handler is None:
            allow = (("allow", ", ".join(methods)),)
            return error_response(405, "method_not_allowed", f"use {' or '.join(methods)}", allow)
        try:
            if request.method not in READ:
                check_change(request, with_token=self._token is not None)
            return await handler(request, *names)
        except BadRequestError as error:
            return error_response(error.status, error.code, str(error))
        except UnknownBackendError as error:
            return error_response(404, error.code, str(error))
        except RefusedChangeError as error:
            return error_response(409, "refused", str(error))
        except OutOfReachError as error:
            return error_response(503, "out_of_reach", str(error))
        except UncertainChangeError as error:
            return error_response(504, "outcome_unknown", str(error))

    def _authorized(self, authorization: str) -> bool:
        if self._token is None:
            return True
        scheme, _, token = authorization.partition(" ")
        given, wanted = token.strip().encode(), self._token.encode()
        return hmac.compare_digest(given, wanted) and scheme.lower() == "bearer"

    async def _metrics(self, request: Request) -> Response:
        query = dict(parse_qsl(request.query, keep_blank_values=True))
        durations = query.get("durations")
        if durations not in (None, "all"):
            return error_response(400, "bad_query", "durations can be all")
        aggregate = await self._view.aggregate()
        pool = query.get("pool")
        if pool is not None and pool not in aggregate.pools():
            return error_response(404, "unknown_pool", "no pool of this name has any metrics")
        return Response(200, _in_turns(aggregate, pool, durations == "all"), CONTENT_TYPE)

    async def _livez(self, request: Request) -> Response:
        return Response(200, b"live\n")

    async def _readyz(self, request: Request) -> Response:
        reason = self._view.readiness()
        return Response(200, b"ready\n") if reason is None else error_response(503, "not_ready", reason)

    async def _pools(self, request: Request) -> Response:
        known = {"pools": await self._view.pools(), "generation": self._view.generation()}
        return Response(200, msgspec.json.encode(known) + b"\n", "application/json")

    async def _config(self, request: Request) -> Response:
        known = {"differs": await self._changes.differs(), "generation": self._view.generation()}
        return Response(200, msgspec.json.encode(known) + b"\n", "application/json")


def _read(handler: _Handler) -> _Methods:
    return dict.fromkeys(READ, handler)


def _pattern_of(path: str) -> tuple[str, tuple[str, ...]]:
    """Which address a path is: itself, or the pattern that it fits and the names in it, decoded."""
    match path.split("/"):
        case ["", "api", "v1", "pools", pool, "backends"]:
            pattern, encoded = _BACKENDS, [pool]
        case ["", "api", "v1", "pools", pool, "backends", backend]:
            pattern, encoded = _BACKEND, [pool, backend]
        case _:
            return path, ()
    try:
        return pattern, tuple(unquote(name, errors="strict") for name in encoded)
    except UnicodeDecodeError:  # no name is like that
        return path, ()


async def _in_turns(aggregate: Aggregate, pool: str | None, all_durations: bool) -> AsyncIterator[bytes]:
    """The metrics text with a turn for the loop after each piece."""
    for piece in render(aggregate, pool, all_durations=all_durations):
        yield piece
        await asyncio.sleep(0)
