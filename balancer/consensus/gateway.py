"""The HTTP face of the coordination service: etcd's v3 JSON API, as the gateway of etcd 3.5 speaks it.

Every method is a POST of one JSON object to its own path; watch, keepalive and observe answer with a stream of
objects. Codec, streams and errors have modules of their own; here stand the routes and who may ask.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, unquote

import msgspec

from balancer import __version__
from balancer.consensus.gateway_errors import JSON, PERMISSION_DENIED, TOO_LARGE, error_answer, opaque, refusal
from balancer.consensus.gateway_json import Decoder, Encoder, json_value
from balancer.consensus.gateway_streams import GatewayStreams
from balancer.consensus.peer_frames import ADDRESS_MAX
from balancer.consensus.service_face import Service
from balancer.coordination import requests, responses
from balancer.coordination.command import RegisterSessionResponse, Ticket
from balancer.coordination.errors import Code, CoordinationError
from balancer.coordination.refusals import NO_TICKET
from balancer.coordination.sessions import CLIENTS_FROM
from balancer.transport.host_check import HostCheck
from balancer.transport.http_server import HttpServer, Request, Response

API_VERSION: Final = "3.5.1"  # of the etcd that answers were compared with
REQUEST_MAX: Final = 1536 * 1024  # bytes of keys and values in one request, as in etcd
BODY_MAX: Final = REQUEST_MAX * 4 // 3 + 512 * 1024  # the same in base64, and the JSON around it
CONNECTIONS_MAX: Final = 4096  # each watch and each waiting lock request has one

_TEXT: Final = "text/plain; charset=utf-8"
_STREAMS: Final = frozenset(["/v3/watch", "/v3/lease/keepalive"])  # whose requests are streams, too
_UNSERVED: Final = frozenset(
    f"/v3/{folder}/{name}"
    for folder, names in {
        "cluster/member": ("update",),
        "maintenance": ("alarm", "defragment", "hash", "snapshot", "downgrade"),
        "auth": ("enable", "disable", "status", "authenticate"),
        "auth/user": ("add", "get", "list", "delete", "changepw", "grant", "revoke"),
        "auth/role": ("add", "get", "list", "delete", "grant", "revoke"),
    }.items()
    for name in names
)
"""Methods that etcd 3.5 has and we do not."""

Route = Callable[[Request], Awaitable[Response]]
Q = TypeVar("Q", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)


class MemberListRequest(msgspec.Struct, frozen=True):
    linearizable: bool = False


class EmptyRequest(msgspec.Struct, frozen=True):
    pass


class _Numbers(msgspec.Struct, frozen=True):
    """What a change has beside its own fields when a client numbered it. etcd has no such fields, and ignores them."""

    session: int = 0
    seq: int = 0
    answered_below: int = 0


_numbers = Decoder(_Numbers)


class Gateway:
    """The handler for `HttpServer`. `hosts`: further Host values to accept, without port.

    `metrics` answers /metrics; without it there is no such page.
    """

    def __init__(self, service: Service, *, metrics: Route | None = None, hosts: frozenset[str] = frozenset()) -> None:
        self._service = service
        self._hosts = HostCheck(hosts)
        streams = GatewayStreams(service)
        self._methods: dict[str, Route] = {
            **_key_routes(service),
            **_lease_routes(service),
            **_lock_routes(service),
            **_member_routes(service),
            "/v3/watch": streams.watch,
            "/v3/lease/keepalive": streams.keep_alive,
            "/v3/election/observe": streams.observe,
        }
        self._pages: dict[str, Route] = {"/version": self._version, "/health": self._health}
        if metrics is not None:
            self._pages["/metrics"] = metrics

    def server(self, *, connections_max: int = CONNECTIONS_MAX) -> HttpServer:
        """An HTTP server that fits: requests as streams, clients that leave, large bodies, refusals in etcd's shape."""
        return HttpServer(
            self,
            connections_max=connections_max,
            body_max=BODY_MAX,
            streamed=_is_streamed,
            cancel_when_gone=True,
            refusal=refusal,
        )

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        if not self._hosts.accepts(host) or (origin is not None and not self._hosts.same_origin(origin, host)):
            return error_answer(
                PERMISSION_DENIED, "the Host must be an IP address, localhost or a configured name; no foreign Origin"
            )
        path = _path_of(request)
        method = self._methods.get(path)
        if method is not None:
            return await method(request) if request.method == "POST" else _not_allowed("POST")
        page = self._pages.get(path)
        if page is not None:
            allowed = ("GET", "HEAD") if path == "/metrics" else ("GET",)
            return await page(request) if request.method in allowed else _not_allowed(", ".join(allowed))
        if path in _UNSERVED:
            if request.method != "POST":
                return _not_allowed("POST")
            return error_answer(Code.UNIMPLEMENTED, f"{path} is not served by this balancer")
        return Response(404, b"Not Found\n" if path.startswith("/v3/") else b"404 page not found\n", _TEXT)

    async def _version(self, request: Request) -> Response:
        minor = API_VERSION.rpartition(".")[0]
        told = {"etcdserver": API_VERSION, "etcdcluster": f"{minor}.0", "balancer": __version__}
        return Response(200, msgspec.json.encode(told), JSON)

    async def _health(self, request: Request) -> Response:
        """Whether this member can answer a linearizable read; with ?serializable=true, whether it can answer at all."""
        serializable = dict(parse_qsl(request.query)).get("serializable") == "true"
        reason = ""
        try:
            status = await self._service.status()
            if not status.leader and not serializable:
                reason = "RAFT NO LEADER"
            else:
                await self._service.range(
                    requests.RangeRequest(key=b"\0", limit=1, keys_only=True, serializable=serializable)
                )
        except CoordinationError as error:
            reason = f"RANGE ERROR:{error.message}"
        told = {"health": "false" if reason else "true", "reason": reason}
        return Response(503 if reason else 200, msgspec.json.encode(told), _TEXT)


def _is_streamed(request: Request) -> bool:
    return request.method == "POST" and _path_of(request) in _STREAMS


def _path_of(request: Request) -> str:
    """The path, decoded; /v3beta/ is an old name of /v3/."""
    path = request.path
    if "%" in path:
        path = unquote(path)
    return f"/v3/{path.removeprefix('/v3beta/')}" if path.startswith("/v3beta/") else path


def _not_allowed(allowed: str) -> Response:
    return Response(405, b"Method Not Allowed\n", _TEXT, (("allow", allowed),))


def _unary(kind: type[Q], call: Callable[[Q], Awaitable[R]], answer_kind: type[R]) -> Route:
    """The route of a method that takes one message and answers with one."""
    return _route(kind, lambda asked, _: call(asked), answer_kind)


def _change(kind: type[Q], call: Callable[[Q, Ticket | None], Awaitable[R]], answer_kind: type[R]) -> Route:
    """The same of a change that a client may have numbered."""
    return _route(kind, lambda asked, value: call(asked, _ticket(value)), answer_kind)


def _ticket(value: dict[str, Any]) -> Ticket | None:
    """How the client numbered its change. Raises CoordinationError."""
    if "session" not in value:
        return None
    numbers = _numbers.convert(value)
    if not numbers.session:
        return None
    if numbers.session < CLIENTS_FROM or numbers.seq < 1 or not 0 <= numbers.answered_below <= numbers.seq:
        raise NO_TICKET.error()
    return Ticket(numbers.session, numbers.seq, numbers.answered_below)


def _route(kind: type[Q], call: Callable[[Q, dict[str, Any]], Awaitable[R]], answer_kind: type[R]) -> Route:
    """`call` gets the message, and the JSON object that it was."""
    decode = Decoder(kind, frozenset([requests.RequestOp])).convert
    encode = Encoder(answer_kind).encode

    async def answer(request: Request) -> Response:
        try:
            value = json_value(request.body)
            asked = decode(value)
            if len(request.body) > REQUEST_MAX and len(msgspec.msgpack.encode(asked)) > REQUEST_MAX:
                return error_answer(Code.INVALID_ARGUMENT, TOO_LARGE)
            told = await call(asked, value)
        except CoordinationError as error:
            return error_answer(error.code, error.message)
        return Response(200, encode(told), JSON)

    return answer


def _key_routes(service: Service) -> Mapping[str, Route]:
    async def open_session(request: EmptyRequest) -> RegisterSessionResponse:
        return await service.open_session()

    return {
        "/v3/balancer/session": _unary(EmptyRequest, open_session, RegisterSessionResponse),
        "/v3/kv/range": _unary(requests.RangeRequest, service.range, responses.RangeResponse),
        "/v3/kv/put": _change(requests.PutRequest, service.put, responses.PutResponse),
        "/v3/kv/deleterange": _change(requests.DeleteRangeRequest, service.delete_range, responses.DeleteRangeResponse),
        "/v3/kv/txn": _change(requests.TxnRequest, service.txn, responses.TxnResponse),
        "/v3/kv/compaction": _change(requests.CompactionRequest, service.compact, responses.CompactionResponse),
    }


def _lease_routes(service: Service) -> Mapping[str, Route]:
    async def all_leases(request: EmptyRequest) -> responses.LeaseLeasesResponse:
        return await service.leases()

    revoke = _change(requests.LeaseRevokeRequest, service.lease_revoke, responses.LeaseRevokeResponse)
    time_to_live = _unary(
        requests.LeaseTimeToLiveRequest, service.lease_time_to_live, responses.LeaseTimeToLiveResponse
    )
    leases = _unary(EmptyRequest, all_leases, responses.LeaseLeasesResponse)
    return {
        "/v3/lease/grant": _change(requests.LeaseGrantRequest, service.lease_grant, responses.LeaseGrantResponse),
        "/v3/lease/revoke": revoke,
        "/v3/kv/lease/revoke": revoke,
        "/v3/lease/timetolive": time_to_live,
        "/v3/kv/lease/timetolive": time_to_live,
        "/v3/lease/leases": leases,
        "/v3/kv/lease/leases": leases,
    }


def _lock_routes(service: Service) -> Mapping[str, Route]:
    """Locks and elections; observe is a stream."""
    return {
        "/v3/lock/lock": _unary(requests.LockRequest, _opaque(service.lock), responses.LockResponse),
        "/v3/lock/unlock": _unary(requests.UnlockRequest, _opaque(service.unlock), responses.UnlockResponse),
        "/v3/election/campaign": _unary(
            requests.CampaignRequest, _opaque(service.campaign), responses.CampaignResponse
        ),
        "/v3/election/proclaim": _unary(
            requests.ProclaimRequest, _opaque(service.proclaim), responses.ProclaimResponse
        ),
        "/v3/election/leader": _unary(requests.LeaderRequest, _opaque(service.leader), responses.LeaderResponse),
        "/v3/election/resign": _unary(requests.ResignRequest, _opaque(service.resign), responses.ResignResponse),
    }


def _member_routes(service: Service) -> Mapping[str, Route]:
    async def status(request: EmptyRequest) -> responses.StatusResponse:
        return await service.status()

    async def member_list(request: MemberListRequest) -> responses.MemberListResponse:
        return await service.member_list(linearizable=request.linearizable)

    async def member_add(request: requests.MemberAddRequest) -> responses.MemberAddResponse:
        if any(len(url) > ADDRESS_MAX for url in request.peerURLs):  # no frame would bring it to the leader
            raise CoordinationError(Code.INVALID_ARGUMENT, f"a peer URL may have {ADDRESS_MAX} characters")
        return await service.member_add(request)

    return {
        "/v3/maintenance/status": _unary(EmptyRequest, status, responses.StatusResponse),
        "/v3/cluster/member/list": _unary(MemberListRequest, member_list, responses.MemberListResponse),
        "/v3/cluster/member/add": _unary(requests.MemberAddRequest, member_add, responses.MemberAddResponse),
        "/v3/cluster/member/remove": _unary(
            requests.MemberChangeRequest, service.member_remove, responses.MembersResponse
        ),
        "/v3/cluster/member/promote": _unary(
            requests.MemberChangeRequest, service.member_promote, responses.MembersResponse
        ),
        "/v3/maintenance/transfer-leadership": _unary(
            requests.MoveLeaderRequest, service.move_leader, responses.MoveLeaderResponse
        ),
    }


def _opaque(call: Callable[[Q], Awaitable[R]]) -> Callable[[Q], Awaitable[R]]:
    """A call whose errors are told as etcd's lock and election services do."""

    async def told(request: Any) -> R:
        try:
            return await call(request)
        except CoordinationError as error:
            raise opaque(error) from None

    return told
