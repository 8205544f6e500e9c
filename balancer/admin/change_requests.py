"""The requests that change something: from HTTP to a call of `SupervisorChanges`, and its result back.

A request that changes something is JSON. Without a token that is a rule, because a web page can make a browser send
a form here, but not this content type without asking us first (WHATWG Fetch, CORS-safelisted request headers).
"""

from typing import Literal, TypeVar
from urllib.parse import parse_qsl, quote

import msgspec

from balancer.admin.changes import LiveWeight, NewBackend, SupervisorChanges
from balancer.config.scalars import shown
from balancer.errors import BalancerError
from balancer.transport.http_server import Request, Response

BODY_MAX = 64 * 1024  # a change is a hundred bytes
_MESSAGE_MAX = 300
_FLAGS = {"1": True, "0": False}

_CHANGE_LIKE = '{"weight": 3, "state": "drain"}'
_BACKEND_LIKE = '{"address": "10.0.0.7:80", "name": "c", "weight": 3}'

T = TypeVar("T")


class BadRequestError(BalancerError):
    """The request is not one of ours; answered with `status`."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class _Change(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a PATCH."""

    weight: LiveWeight | msgspec.UnsetType = msgspec.UNSET
    state: Literal["active", "drain"] | msgspec.UnsetType = msgspec.UNSET
    everywhere: bool = msgspec.field(default=False, name="cluster")


class ChangeRequests:
    """Handlers of the requests that change something. They raise BadRequestError and what `SupervisorChanges` does."""

    def __init__(self, changes: SupervisorChanges) -> None:
        self._changes = changes

    async def patch_backend(self, request: Request, pool: str, name: str) -> Response:
        """PATCH of a backend: its live weight, or begin or end a drain; here, or in the whole cluster."""
        change = _decoded(request, _Change, _CHANGE_LIKE)
        weight = None if change.weight is msgspec.UNSET else change.weight
        drained = None if change.state is msgspec.UNSET else change.state == "drain"
        if weight is None and drained is None:
            raise BadRequestError(400, "bad_body", f"nothing to change; write weight, state or both, as {_CHANGE_LIKE}")
        notes = await self._changes.change(pool, name, weight=weight, drained=drained, everywhere=change.everywhere)
        return _json(200, {"pool": pool, "backend": name} | ({"notes": notes} if notes else {}))

    async def post_backend(self, request: Request, pool: str) -> Response:
        """POST of a new backend."""
        spec = _decoded(request, NewBackend, _BACKEND_LIKE)
        try:
            entry = spec.entry()
        except ValueError as error:
            raise BadRequestError(400, "bad_body", str(error)) from None
        await self._changes.add(pool, spec)
        location = f"/api/v1/pools/{quote(pool, safe='')}/backends/{quote(entry.name, safe='')}"
        return _json(201, {"pool": pool, "backend": entry.name}, (("location", location),))

    async def delete_backend(self, request: Request, pool: str, name: str) -> Response:
        """DELETE of a backend that was added by a POST."""
        _no_body(request, "the path says which backend is meant")
        await self._changes.delete(pool, name)
        return _json(200, {"pool": pool, "backend": name})

    async def reload(self, request: Request) -> Response:
        """POST /api/v1/reload. Refused: 422, with what is wrong as `problems` and as an error."""
        flags = _flags(request, ("dry_run", "discard_live"))
        _no_body(request, "dry_run=1 and discard_live=1 stand in the query")
        result = await self._changes.reload(**flags)
        told = msgspec.to_builtins(result)
        if result.ok:
            return _json(200, told)
        message = "\n".join(result.problems) or "the configuration was refused"
        return _json(422, {"error": {"code": "reload_refused", "message": message}, **told})


def check_change(request: Request, *, with_token: bool) -> None:
    """What holds for every request that changes something. Raises BadRequestError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not with_token:
        raise BadRequestError(
            415, "json_required", "a request that changes something has Content-Type: application/json"
        )
    if len(request.body) > BODY_MAX:
        raise BadRequestError(413, "body_too_large", f"a body may have {BODY_MAX:,} bytes here")


def _decoded(request: Request, kind: type[T], like: str) -> T:
    try:
        return msgspec.json.decode(request.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequestError(400, "bad_body", f"{str(error)[:_MESSAGE_MAX]}; a body looks like {like}") from None


def _no_body(request: Request, instead: str) -> None:
    """A body that nobody reads may hold what its sender relies on."""
    if request.body.strip() not in (b"", b"{}"):
        raise BadRequestError(400, "bad_body", f"this request has no body: {instead}")


def _flags(request: Request, known: tuple[str, ...]) -> dict[str, bool]:
    """The query as flags. An unknown one is refused: a mistyped dry_run must not reload."""
    flags = dict.fromkeys(known, False)
    for key, value in parse_qsl(request.query, keep_blank_values=True):
        if key not in flags or value not in _FLAGS:
            raise BadRequestError(
                400,
                "bad_query",
                f"{shown(f'{key}={value}')} is not known here; the query may have "
                f"{' and '.join(f'{flag}=1' for flag in known)}",
            )
        flags[key] = _FLAGS[value]
    return flags


def _json(status: int, told: object, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response(status, msgspec.json.encode(told) + b"\n", "application/json", headers)
