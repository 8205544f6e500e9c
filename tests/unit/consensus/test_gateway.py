"""Routes, errors and streams as an etcd 3.5.1 answers them, with a service that says what it is told to say."""

import asyncio
import socket
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest

from balancer.consensus.gateway import BODY_MAX, REQUEST_MAX, Gateway
from balancer.consensus.gateway_errors import HTTP_STATUSES
from balancer.coordination import requests, responses
from balancer.coordination.command import RegisterSessionResponse
from balancer.coordination.errors import Code, CoordinationError
from balancer.coordination.responses import ResponseHeader, WatchResponse
from balancer.transport.http_server import BodyStream, Request, Response

DEADLINE = 10.0
HEADER = ResponseHeader(1, 2, 3, 4)
H = b'{"cluster_id":"1","member_id":"2","revision":"3","raft_term":"4"}'


class ScriptedWatches:
    """A stream of answers that the test puts there; what was asked stands in `asked`."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.answers: asyncio.Queue[WatchResponse | CoordinationError] = asyncio.Queue()
        self.closed = asyncio.Event()
        self.told = asyncio.Event()

    def _ask(self, what: object) -> None:
        self.asked.append(what)
        self.told.set()

    async def create(self, request: requests.WatchCreateRequest) -> None:
        self._ask(request)

    async def cancel(self, watch_id: int) -> None:
        self._ask(watch_id)

    async def request_progress(self) -> None:
        self._ask("progress")

    def __aiter__(self) -> AsyncIterator[WatchResponse]:
        return self

    async def __anext__(self) -> WatchResponse:
        answer = await self.answers.get()
        if isinstance(answer, CoordinationError):
            raise answer
        return answer

    async def close(self) -> None:
        self.closed.set()

    async def heard(self, count: int) -> None:
        """Wait until so many requests have come."""
        while len(self.asked) < count:
            self.told.clear()
            await self.told.wait()


class ScriptedService:
    """Remembers each call and gives the next answer; `leaders` are what observe tells."""

    def __init__(self, *answers: msgspec.Struct | CoordinationError) -> None:
        self.calls: list[tuple[str, object]] = []
        self.answers = deque(answers)
        self.watches = ScriptedWatches()
        self.observed_to_end = False
        self.waiting = asyncio.Event()
        self.withdrawn = asyncio.Event()

    def __getattr__(self, name: str) -> Callable[..., Awaitable[object]]:
        async def call(*args: object, **options: object) -> object:
            self.calls.append((name, args[0] if args else options or None))
            if not self.answers:
                self.waiting.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    self.withdrawn.set()
            answer = self.answers.popleft()
            if isinstance(answer, CoordinationError):
                raise answer
            return answer

        return call

    def watch(self) -> ScriptedWatches:
        return self.watches

    async def observe(self, request: requests.LeaderRequest) -> AsyncGenerator[responses.LeaderResponse, None]:
        self.calls.append(("observe", request))
        try:
            while self.answers:
                answer = self.answers.popleft()
                if isinstance(answer, CoordinationError):
                    raise answer
                assert isinstance(answer, responses.LeaderResponse)
                yield answer
            await asyncio.Event().wait()
        finally:
            self.observed_to_end = True


def run(
    service: ScriptedService, talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any], **options: Any
) -> Any:
    """Serve on loopback and talk over one connection."""

    async def scenario() -> Any:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        server = Gateway(service, **options).server()  # type: ignore[arg-type]
        await server.start(sock)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4 * BODY_MAX)
        try:
            async with asyncio.timeout(DEADLINE):
                return await talk(reader, writer)
        finally:
            writer.close()
            await server.close()

    return asyncio.run(scenario())


def post(path: str, body: bytes, host: str = "127.0.0.1", more: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Status, fields and body of an answer with a length."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    fields = dict(line.split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), fields, await reader.readexactly(int(fields["content-length"]))


def ask(service: ScriptedService, data: bytes, **options: Any) -> tuple[int, dict[str, str], bytes]:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, dict[str, str], bytes]:
        writer.write(data)
        return await answer_of(reader)

    found: tuple[int, dict[str, str], bytes] = run(service, talk, **options)
    return found


async def chunk_of(reader: asyncio.StreamReader) -> bytes:
    size = int(await reader.readline(), 16)
    return (await reader.readexactly(size + 2))[:-2]


# ---- methods

METHODS: list[tuple[str, bytes, str, object, msgspec.Struct, bytes]] = [
    ("kv/range", b'{"key":"Zm9v"}', "range", requests.RangeRequest(b"foo"), responses.RangeResponse(HEADER), b""),
    (
        "kv/put",
        b'{"key":"Zm9v","prevKv":true}',
        "put",
        requests.PutRequest(b"foo", prev_kv=True),
        responses.PutResponse(HEADER, responses.KeyValue(b"foo", version=1)),
        b',"prev_kv":{"key":"Zm9v","version":"1"}',
    ),
    (
        "kv/deleterange",
        b'{"key":"Zm9v"}',
        "delete_range",
        requests.DeleteRangeRequest(b"foo"),
        responses.DeleteRangeResponse(HEADER, 2),
        b',"deleted":"2"',
    ),
    ("kv/txn", b"{}", "txn", requests.TxnRequest(), responses.TxnResponse(HEADER, True), b',"succeeded":true'),
    (
        "kv/compaction",
        b'{"revision":5}',
        "compact",
        requests.CompactionRequest(5),
        responses.CompactionResponse(HEADER),
        b"",
    ),
    (
        "lease/grant",
        b'{"TTL":"60","ID":0}',
        "lease_grant",
        requests.LeaseGrantRequest(60),
        responses.LeaseGrantResponse(HEADER, 7, 60),
        b',"ID":"7","TTL":"60"',
    ),
    *[
        (
            f"{folder}lease/revoke",
            b'{"ID":7}',
            "lease_revoke",
            requests.LeaseRevokeRequest(7),
            responses.LeaseRevokeResponse(HEADER),
            b"",
        )
        for folder in ("", "kv/")
    ],
    *[
        (
            f"{folder}lease/timetolive",
            b'{"ID":7,"keys":true}',
            "lease_time_to_live",
            requests.LeaseTimeToLiveRequest(7, True),
            responses.LeaseTimeToLiveResponse(HEADER, 7, -1),
            b',"ID":"7","TTL":"-1"',
        )
        for folder in ("", "kv/")
    ],
    *[
        (
            f"{folder}lease/leases",
            b"",
            "leases",
            None,
            responses.LeaseLeasesResponse(HEADER, (responses.LeaseStatus(7),)),
            b',"leases":[{"ID":"7"}]',
        )
        for folder in ("", "kv/")
    ],
    (
        "lock/lock",
        b'{"name":"bXlsb2Nr","lease":7}',
        "lock",
        requests.LockRequest(b"mylock", 7),
        responses.LockResponse(HEADER, b"mylock/7"),
        b',"key":"bXlsb2NrLzc="',
    ),
    ("lock/unlock", b'{"key":"Zm9v"}', "unlock", requests.UnlockRequest(b"foo"), responses.UnlockResponse(HEADER), b""),
    (
        "election/campaign",
        b'{"name":"ZQ==","lease":7,"value":"dg=="}',
        "campaign",
        requests.CampaignRequest(b"e", 7, b"v"),
        responses.CampaignResponse(HEADER, requests.LeaderKey(b"e", b"e/7", 3, 7)),
        b',"leader":{"name":"ZQ==","key":"ZS83","rev":"3","lease":"7"}',
    ),
    (
        "election/proclaim",
        b'{"leader":{"key":"ZS83","rev":3},"value":"dg=="}',
        "proclaim",
        requests.ProclaimRequest(requests.LeaderKey(key=b"e/7", rev=3), b"v"),
        responses.ProclaimResponse(HEADER),
        b"",
    ),
    (
        "election/leader",
        b'{"name":"ZQ=="}',
        "leader",
        requests.LeaderRequest(b"e"),
        responses.LeaderResponse(HEADER, responses.KeyValue(b"e/7")),
        b',"kv":{"key":"ZS83"}',
    ),
    ("election/resign", b"{}", "resign", requests.ResignRequest(), responses.ResignResponse(HEADER), b""),
    ("balancer/session", b"", "open_session", None, RegisterSessionResponse(HEADER, 7), b',"session":"7"'),
    (
        "maintenance/status",
        b"{}",
        "status",
        None,
        responses.StatusResponse(HEADER, "3.5.1", leader=2),
        b',"version":"3.5.1","leader":"2"',
    ),
    (
        "cluster/member/list",
        b'{"linearizable":true}',
        "member_list",
        {"linearizable": True},
        responses.MemberListResponse(HEADER, (responses.Member(2, "n1"),)),
        b',"members":[{"ID":"2","name":"n1"}]',
    ),
]


@pytest.mark.parametrize(
    ("path", "body", "name", "request_", "answer", "text"), METHODS, ids=[row[0] for row in METHODS]
)
def test_a_method_reaches_the_service_and_its_answer_the_client(
    path: str, body: bytes, name: str, request_: object, answer: msgspec.Struct, text: bytes
) -> None:
    for prefix in ("/v3/", "/v3beta/"):
        service = ScriptedService(answer)
        status, fields, told = ask(service, post(prefix + path, body))
        assert (status, fields["content-type"]) == (200, "application/json")
        assert told == b'{"header":%b%b}' % (H, text)
        assert service.calls == [(name, request_)]


def test_a_path_may_be_percent_encoded_and_have_a_query() -> None:
    assert ask(ScriptedService(responses.RangeResponse()), post("/v3/kv/%72ange?a=b", b"{}"))[0] == 200


# ---- errors


@pytest.mark.parametrize("code", Code)
def test_a_refusal_is_told_in_the_shape_of_35_with_the_details_of_36(code: Code) -> None:
    status, fields, body = ask(ScriptedService(CoordinationError(code, "why")), post("/v3/kv/put", b"{}"))
    assert status == HTTP_STATUSES[code][0]
    assert fields["content-type"] == "application/json"
    assert body == b'{"error":"why","code":%d,"message":"why","details":[]}' % code


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (Code.NOT_FOUND, Code.UNKNOWN),
        (Code.INVALID_ARGUMENT, Code.UNKNOWN),
        (Code.UNKNOWN, Code.UNKNOWN),
        (Code.FAILED_PRECONDITION, Code.UNKNOWN),
        (Code.UNAVAILABLE, Code.UNAVAILABLE),
        (Code.DEADLINE_EXCEEDED, Code.DEADLINE_EXCEEDED),
    ],
)
@pytest.mark.parametrize("path", ["lock/lock", "lock/unlock", "election/campaign", "election/leader"])
def test_locks_and_elections_tell_errors_as_unknown_but_for_those_that_mean_try_again(
    path: str, code: Code, told: Code
) -> None:
    status, _, body = ask(ScriptedService(CoordinationError(code, "why")), post(f"/v3/{path}", b"{}"))
    assert (status, msgspec.json.decode(body)["code"]) == (HTTP_STATUSES[told][0], told)


def test_a_body_that_is_no_message_is_400_and_does_not_reach_the_service() -> None:
    service = ScriptedService()
    status, _, body = ask(service, post("/v3/kv/put", b'{"key":5}'))
    assert status == 400
    assert msgspec.json.decode(body)["code"] == 3
    assert not service.calls


def test_an_address_that_no_frame_between_members_takes_does_not_reach_the_service() -> None:
    for size, status in ((300, 200), (301, 400)):
        service = ScriptedService(responses.MemberAddResponse())
        found, _, _ = ask(service, post("/v3/cluster/member/add", b'{"peerURLs":["%b"]}' % (b"h" * size)))
        assert (found, len(service.calls)) == (status, status == 200)


@pytest.mark.parametrize(
    ("data", "status", "text"),
    [
        (b"GET /v3/kv/range HTTP/1.1\r\nHost: [::1]:2379\r\n\r\n", 405, b"Method Not Allowed\n"),
        (b"GET /v3/watch HTTP/1.1\r\nHost: [::1]:2379\r\n\r\n", 405, b"Method Not Allowed\n"),
        (b"GET /v3/maintenance/alarm HTTP/1.1\r\nHost: [::1]:2379\r\n\r\n", 405, b"Method Not Allowed\n"),
        (post("/version", b""), 405, b"Method Not Allowed\n"),
        (post("/health", b""), 405, b"Method Not Allowed\n"),
        (post("/v3/nothing", b"{}"), 404, b"Not Found\n"),
        (post("/v3/kv/range/", b"{}"), 404, b"Not Found\n"),
        (post("/v3/kv/lease/grant", b"{}"), 404, b"Not Found\n"),
        (post("/v3alpha/kv/range", b"{}"), 404, b"404 page not found\n"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 404, b"404 page not found\n"),
        (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 404, b"404 page not found\n"),
        (b"GET /v2/keys HTTP/1.1\r\nHost: localhost\r\n\r\n", 404, b"404 page not found\n"),
    ],
)
def test_unknown_paths_and_methods_are_told_in_plain_text(data: bytes, status: int, text: bytes) -> None:
    found, fields, body = ask(ScriptedService(), data)
    assert (found, body, fields["content-type"]) == (status, text, "text/plain; charset=utf-8")
    assert ("allow" in fields) == (status == 405)


@pytest.mark.parametrize("path", ["auth/enable", "cluster/member/update", "maintenance/snapshot", "auth/role/grant"])
def test_what_etcd_has_and_we_do_not_is_unimplemented(path: str) -> None:
    status, _, body = ask(ScriptedService(), post(f"/v3/{path}", b"{}"))
    assert (status, msgspec.json.decode(body)["code"]) == (501, 12)


@pytest.mark.parametrize(
    ("host", "more"),
    [("evil.example", ""), ("127.0.0.1:2379", "Origin: http://evil.example\r\n"), ("127.0.0.1", "Origin: null\r\n")],
)
def test_a_web_page_cannot_make_a_browser_ask(host: str, more: str) -> None:
    service = ScriptedService()
    status, _, body = ask(service, post("/v3/kv/put", b"{}", host, more))
    assert (status, msgspec.json.decode(body)["code"]) == (403, 7)
    assert not service.calls


def test_configured_names_are_accepted_as_host() -> None:
    service = ScriptedService(responses.PutResponse())
    data = post("/v3/kv/put", b"{}", "kv.internal:2379", "Origin: http://kv.internal:2379\r\n")
    assert ask(service, data, hosts=frozenset(["kv.internal"]))[0] == 200


@pytest.mark.parametrize(
    ("size", "status"), [(REQUEST_MAX - 1000, 200), (REQUEST_MAX + 1, 400), (REQUEST_MAX * 2, 400)]
)
def test_a_request_may_have_as_many_bytes_as_etcd_allows(size: int, status: int) -> None:
    value = msgspec.json.encode({"key": "Zm9v", "value": b"x" * size})
    service = ScriptedService(responses.PutResponse())
    found, _, body = ask(service, post("/v3/kv/put", value))
    assert found == status
    assert len(service.calls) == (status == 200)
    if status == 400:
        assert msgspec.json.decode(body)["message"] == "etcdserver: request is too large"


def test_what_is_no_request_is_refused_in_the_shape_of_the_api() -> None:
    status, _, body = ask(ScriptedService(), b"POST /v3/kv/put HTTP/1.1\r\n\r\n")
    assert status == 400
    assert msgspec.json.decode(body) == {"error": "no Host field", "code": 3, "message": "no Host field", "details": []}


def test_a_fault_of_ours_is_500_without_its_reason() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, Any, bytes]:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        writer.write(post("/v3/kv/put", b"{}"))
        return await answer_of(reader)

    class Broken(ScriptedService):
        async def put(self, request: object) -> None:
            raise RuntimeError("secret")

    status, _, body = run(Broken(), talk)
    assert (status, msgspec.json.decode(body)["code"]) == (500, 13)
    assert b"secret" not in body


# ---- pages


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def test_the_version_has_three_plain_numbers() -> None:
    status, fields, body = ask(ScriptedService(), get("/version"))
    told = msgspec.json.decode(body)
    assert (status, fields["content-type"]) == (200, "application/json")
    assert [int(part) for part in told["etcdserver"].split(".")][:2] == [3, 5]  # etcd3gw reads it so
    assert told["etcdcluster"] == "3.5.0"


@pytest.mark.parametrize(
    ("query", "answers", "status", "text"),
    [
        ("", [responses.StatusResponse(leader=2), responses.RangeResponse()], 200, b'{"health":"true","reason":""}'),
        ("", [responses.StatusResponse()], 503, b'{"health":"false","reason":"RAFT NO LEADER"}'),
        (
            "?serializable=true",
            [responses.StatusResponse(), responses.RangeResponse()],
            200,
            b'{"health":"true","reason":""}',
        ),
        (
            "",
            [responses.StatusResponse(leader=2), CoordinationError(Code.UNAVAILABLE, "late")],
            503,
            b'{"health":"false","reason":"RANGE ERROR:late"}',
        ),
    ],
)
def test_health_is_whether_a_read_can_be_answered(query: str, answers: list[Any], status: int, text: bytes) -> None:
    service = ScriptedService(*answers)
    found, fields, body = ask(service, get(f"/health{query}"))
    assert (found, body, fields["content-type"]) == (status, text, "text/plain; charset=utf-8")
    for name, request in service.calls:
        assert name == "status" or request.serializable == bool(query)  # type: ignore[attr-defined]


def test_metrics_are_somebody_elses() -> None:
    async def metrics(request: Request) -> Response:
        return Response(200, request.query.encode())

    assert ask(ScriptedService(), get("/metrics?x=1"), metrics=metrics)[2] == b"x=1"


# ---- streams


def test_watches_are_answered_object_by_object_each_in_a_chunk_of_its_own() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        watches = service.watches
        writer.write(post("/v3/watch", b'{"create_request":{"key":"Zm9v","start_revision":"5"}}'))
        await watches.heard(1)
        await watches.answers.put(WatchResponse(HEADER, created=True))
        await watches.answers.put(WatchResponse(HEADER, events=(responses.Event(kv=responses.KeyValue(b"foo")),)))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"content-type: application/json\r\n" in head
        assert await chunk_of(reader) == b'{"result":{"header":%b,"created":true}}\n' % H
        assert await chunk_of(reader) == b'{"result":{"header":%b,"events":[{"kv":{"key":"Zm9v"}}]}}\n' % H
        assert watches.asked == [requests.WatchCreateRequest(b"foo", start_revision=5)]
        writer.close()
        await watches.closed.wait()

    service = ScriptedService()
    run(service, talk)


def test_more_can_be_asked_on_the_stream_of_a_watch_and_a_fault_there_ends_only_the_asking() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        watches = service.watches
        writer.write(b"POST /v3/watch HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number, text in enumerate(
            [b'{"create_request":{}}', b'{"cancel_request":{"watchId":7}}{"progress_request":{}}']
        ):
            writer.write(b"%x\r\n%b\r\n" % (len(text), text))
            await watches.heard(number + 1)
        await watches.heard(3)
        writer.write(b'3\r\n{"c\r\n0\r\n\r\n')
        await watches.answers.put(WatchResponse(HEADER, watch_id=-1))
        await reader.readuntil(b"\r\n\r\n")
        assert await chunk_of(reader) == b'{"result":{"header":%b,"watch_id":"-1"}}\n' % H
        await watches.answers.put(WatchResponse(HEADER))
        assert await chunk_of(reader) == b'{"result":{"header":%b}}\n' % H
        assert watches.asked == [requests.WatchCreateRequest(), 7, "progress"]

    service = ScriptedService()
    run(service, talk)


def test_many_requests_in_one_piece_of_a_stream_leave_turns_to_others() -> None:
    async def scenario() -> None:
        stream = BodyStream(lambda: None)
        stream.feed(b'{"create_request":{}}' + b"{}" * 300 + b'{"progress_request":{}}')
        service = ScriptedService()
        request = Request("POST", "/v3/watch", "1.1", {"host": "localhost"}, b"", stream)
        task = asyncio.ensure_future(Gateway(service)(request))  # type: ignore[arg-type]
        turns = 0
        while len(service.watches.asked) < 2:
            turns += 1
            assert turns < 10_000
            await asyncio.sleep(0)
        assert turns > 15
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/v3/watch", "/v3/lease/keepalive"])
@pytest.mark.parametrize("body", [b"[]", b'{"ID":"x","create_request":{"key":5}}', b'{"ID":7'])
def test_a_stream_whose_first_request_is_none_is_500_as_in_etcd(path: str, body: bytes) -> None:
    service = ScriptedService()
    status, _, told = ask(service, post(path, body))
    assert (status, msgspec.json.decode(told)["code"]) == (500, 2)
    assert service.watches.closed.is_set() == (path == "/v3/watch")


def test_an_error_before_the_first_response_of_a_stream_has_its_status() -> None:
    service = ScriptedService()
    service.watches.answers.put_nowait(CoordinationError(Code.UNAVAILABLE, "etcdserver: no leader"))
    status, _, body = ask(service, post("/v3/watch", b'{"create_request":{}}'))
    assert status == 503
    assert body == (
        b'{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader",'
        b'"http_status":"Service Unavailable"}}'
    )
    assert service.watches.closed.is_set()


def test_an_error_inside_a_stream_is_its_last_chunk() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(post("/v3/watch", b'{"create_request":{}}', more="Connection: close\r\n"))
        await service.watches.answers.put(WatchResponse(HEADER, created=True))
        await service.watches.answers.put(CoordinationError(Code.UNAVAILABLE, "etcdserver: no leader"))
        await reader.readuntil(b"\r\n\r\n")
        await chunk_of(reader)
        assert (await chunk_of(reader)).startswith(b'{"error":{"grpc_code":14,"http_code":503,')
        assert await reader.read() == b"0\r\n\r\n"
        assert service.watches.closed.is_set()

    service = ScriptedService()
    run(service, talk)


def test_leases_are_kept_alive_one_answer_for_each_request_of_the_body() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(post("/v3/lease/keepalive", b'{"ID":77}{"ID":99} [1]', more="Connection: close\r\n"))
        await reader.readuntil(b"\r\n\r\n")
        assert await chunk_of(reader) == b'{"result":{"header":%b,"ID":"77","TTL":"60"}}\n' % H
        assert await chunk_of(reader) == b'{"result":{"header":%b,"ID":"99"}}\n' % H
        assert await reader.read() == b"0\r\n\r\n"

    service = ScriptedService(
        responses.LeaseKeepAliveResponse(HEADER, 77, 60), responses.LeaseKeepAliveResponse(HEADER, 99)
    )
    run(service, talk)
    assert service.calls == [("lease_keep_alive", 77), ("lease_keep_alive", 99)]


def test_a_keepalive_without_a_request_ends_without_an_answer() -> None:
    status, _, body = ask(ScriptedService(), post("/v3/lease/keepalive", b""))
    assert (status, body) == (200, b"")


def test_a_client_may_keep_a_lease_alive_over_one_long_request() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST /v3/lease/keepalive HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b'9\r\n{"ID":77}\r\n')
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(3):
            assert await chunk_of(reader) == b'{"result":{"header":{},"ID":"77","TTL":"60"}}\n'
            service.answers.append(responses.LeaseKeepAliveResponse(ID=77, TTL=60))
            writer.write(b'9\r\n{"ID":77}\r\n')

    service = ScriptedService(responses.LeaseKeepAliveResponse(ID=77, TTL=60))
    run(service, talk)


def test_leaders_are_observed_until_the_client_leaves() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(post("/v3/election/observe", b'{"name":"ZQ=="}'))
        await reader.readuntil(b"\r\n\r\n")
        assert await chunk_of(reader) == b'{"result":{"header":%b,"kv":{"key":"ZS83"}}}\n' % H
        writer.close()
        while not service.observed_to_end:
            await asyncio.sleep(0.001)

    service = ScriptedService(responses.LeaderResponse(HEADER, responses.KeyValue(b"e/7")))
    run(service, talk)


def test_a_client_that_leaves_while_it_waits_for_a_lock_is_withdrawn() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(post("/v3/lock/lock", b'{"name":"bXlsb2Nr","lease":7}'))
        await service.waiting.wait()
        writer.close()
        await service.withdrawn.wait()

    service = ScriptedService()
    run(service, talk)


def test_a_client_is_seen_to_leave_also_when_what_it_asks_is_not_read_any_more() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST /v3/watch HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        for text in (b'{"create_request":{}}', b"[]", *[b" " * 50_000] * 20):
            writer.write(b"%x\r\n%b\r\n" % (len(text), text))
        await service.watches.heard(1)
        await writer.drain()
        writer.close()
        await service.watches.closed.wait()

    service = ScriptedService()
    run(service, talk)


@pytest.mark.parametrize("path", ["/v3/watch", "/v3/election/observe", "/v3/lease/keepalive"])
def test_a_client_that_leaves_before_the_first_response_of_a_stream_leaves_nothing(path: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(post(path, b'{"create_request":{},"ID":7}'))
        while not (service.calls or service.watches.asked):
            await asyncio.sleep(0.001)
        writer.close()
        while not (service.withdrawn.is_set() or service.watches.closed.is_set() or service.observed_to_end):
            await asyncio.sleep(0.001)

    service = ScriptedService()
    run(service, talk)
