"""The coordination API under fuzz: a short campaign on every run, the long one on request; and that both can fail."""

import asyncio
import binascii
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest

from balancer.consensus import gateway, gateway_errors, gateway_json
from balancer.consensus.gateway import Gateway
from balancer.consensus.gateway_json import Decoder, Encoder
from balancer.consensus.gateway_objects import JsonObjects
from balancer.consensus.gateway_streams import GatewayStreams
from balancer.consensus.service import Watches
from balancer.consensus.service_turns import Turns
from balancer.coordination import transactions
from balancer.coordination.key_space import KeySpace
from balancer.coordination.refusals import LEASE_EXISTS
from balancer.coordination.requests import LeaseGrantRequest, PutRequest, RangeRequest
from balancer.coordination.responses import LeaseGrantResponse, PutResponse, RangeResponse
from balancer.coordination.state_machine import StateMachine
from balancer.transport.host_check import HostCheck
from balancer.transport.http_server import BodyStream, Request, Response
from tests.fuzz.findings import FindingError
from tests.fuzz.gateway_campaign import ACCEPTED_SHARE, Tally, input_of, run
from tests.fuzz.gateway_messages import METHODS, STREAMS
from tests.fuzz.gateway_world import World
from tests.support.virtual_loop import run_virtually

SEED = 20261121
NOT_WITHOUT_MEMBERS = {"member_add", "member_remove", "member_promote", "move_leader"}
DAMAGES = {
    *("none", "json", "flipped", "replaced", "cut_short", "taken_out", "put_in", "repeated"),
    *("deep", "nothing", "junk", "endless", "trailing", "wrong method's"),
    *("other_spelling", "other_path", "other_method", "other_host", "other_fields"),
}


def check_variety(tally: Tally, count: int) -> None:
    """Every method is accepted somewhere, every damage occurs, and every kind of answer."""
    assert tally.inputs == count
    assert tally.accepted_share >= ACCEPTED_SHARE
    assert set(tally.damages) >= DAMAGES
    answers = dict.fromkeys(tally.labels)
    for path, method in (METHODS | STREAMS).items():
        assert f"{501 if method.call in NOT_WITHOUT_MEMBERS else 200}, {path}" in answers
        assert f"{500 if path in ('/v3/watch', '/v3/lease/keepalive') else 400}, {path}" in answers
    found = {label.partition(",")[0] for label in answers}
    assert found >= {"200", "400", "403", "404", "405", "500", "501", "waits", "left early"}
    for waiting in ("/v3/lock/lock", "/v3/election/campaign", "/v3/election/observe", "/v3/watch"):
        assert f"waits, {waiting}" in answers


def test_a_short_campaign_finds_nothing() -> None:
    check_variety(run(SEED, 4_000), 4_000)


@pytest.mark.full
@pytest.mark.timeout(0)
def test_a_long_campaign_finds_nothing() -> None:
    check_variety(run(SEED + 1, 500_000, jobs=2), 500_000)


def test_a_number_names_an_input_for_good() -> None:
    inputs = [input_of(5, number) for number in range(100)]
    assert inputs == [input_of(5, number) for number in range(100)]
    assert inputs != [input_of(6, number) for number in range(100)]
    assert run(5, 200) == run(5, 200)


# ---- bodies made to cost as much as they can

N = 2_600_000  # bytes that a body may have, about
DEAR = {
    "compares": ("/v3/kv/txn", b'{"compare":[' + b"{}," * (N // 3) + b"{}]}"),
    "transactions": ("/v3/kv/txn", b'{"success":[' + b'{"request_txn":{"compare":[{},{}]}},' * (N // 36) + b"{}]}"),
    "addresses": ("/v3/cluster/member/add", b'{"peerURLs":[' + b'"",' * (N // 3) + b'""]}'),
    "a fault behind much": ("/v3/kv/put", b'{"x":[' + b"[]," * (N // 3) + b"x]}"),
    "more behind much": ("/v3/kv/put", b'{"x":[' + b"[]," * (N // 3) + b"[]]} x"),
    "much behind it": ("/v3/kv/put", b'{"key":"Zm9v"}' + b'{"a":' * (N // 5)),
    "quotes": ("/v3/kv/put", b'{"key":"' + b'\\"' * (N // 2) + b'"} x'),
    "names": ("/v3/kv/put", b"{" + b",".join(b'"%d":1' % number for number in range(N // 10)) + b"}"),
    "a watch of brackets": ("/v3/watch", b'{"x":[' + b"[]," * 40_000),
    "a watch of filters": ("/v3/watch", b'{"create_request":{"filters":[' + b"0," * 30_000 + b"0]}}"),
}


@pytest.mark.parametrize("name", DEAR)
def test_no_body_keeps_a_member_from_its_other_work(name: str) -> None:
    """Counted in calls between two turns of the loop: a member that stalls longer than an election loses its office."""
    path, body = DEAR[name]
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    async def ask() -> None:
        world = World()
        request = Request("POST", path, "1.1", {"host": "localhost"}, body)
        if path == "/v3/watch":
            request = Request("POST", path, "1.1", {"host": "localhost"}, b"", stream := BodyStream(lambda: None))
            stream.feed(body)
            stream.end()
        sys.setprofile(count)
        try:
            await asyncio.wait_for(Gateway(world.member)(request), 1.0)  # an hour if need be: time is virtual
        except TimeoutError:
            pass
        finally:
            sys.setprofile(None)

    run_virtually(ask())
    assert calls < 250_000


# ---- planted faults


def _scalars(**readers: Callable[[Any, int], Any]) -> tuple[object, str, object]:
    kinds = {"int": int, "bytes": bytes, "bool": bool}
    return gateway_json, "_SCALARS", {**gateway_json._SCALARS, **{kinds[name]: read for name, read in readers.items()}}


def _numbers_written(writers: Any, hint: Any) -> Any:
    return None if hint is int else _WRITER(writers, hint)


_WRITER = gateway_json._Writers._writer
_ENCODE = Encoder.encode


def _more_written(encoder: Encoder[Any], message: Any) -> bytes:
    return _ENCODE(encoder, message)[:-1] + b',"more":false}'


def _error_without_details(code: int, message: str) -> Response:
    told = {"error": message, "code": int(code), "message": message}
    return Response(gateway_errors.HTTP_STATUSES[code][0], msgspec.json.encode(told), gateway_errors.JSON)


async def _left_open(watches: Watches) -> None:
    watches._progress.cancel()


async def _left_ticking(watches: Watches) -> None:
    watches._stream.close()
    watches._service.wakers.pop(watches._stream, None)


def _granted_and_refused(machine: StateMachine, request: LeaseGrantRequest) -> LeaseGrantResponse:
    if request.ID in machine.leases:
        machine.leases.grant(request.ID + 1, 60)
        raise LEASE_EXISTS.error()
    return _GRANT(machine, request)


_GRANT = StateMachine._grant


def _changed_by_reading(machine: StateMachine, request: RangeRequest) -> RangeResponse:
    machine.leases.grant(1 + len(machine.leases), 60)
    return _RANGE(machine, request)


_RANGE = StateMachine.range


def _put_without_its_lease(space: KeySpace, request: PutRequest) -> PutResponse:
    return _PUT(space, msgspec.structs.replace(request, lease=0))


_PUT = transactions.put


async def _told_twice(streams: GatewayStreams, stream: Any) -> AsyncGenerator[bytes, None]:
    async for piece in _WATCHED(streams, stream):
        yield piece * 2


_WATCHED = GatewayStreams._watched


def _only_the_first(objects: JsonObjects, piece: bytes) -> Iterator[bytes]:
    yield from list(_FEED(objects, piece))[:1]


_FEED = JsonObjects.feed
_CALL = Gateway.__call__
_kept: list[Request] = []


async def _remembering(face: Gateway, request: Request) -> Response:
    _kept.append(request)
    return await _CALL(face, request)


async def _that_goes_on(face: Gateway, request: Request) -> Response:
    return await asyncio.shield(_CALL(face, request))


def _last_wins(decoder: Decoder[Any], value: Any) -> Any:
    if type(value) is dict:
        value = {"".join(f"_{one.lower()}" if one.isupper() else one for one in name): value[name] for name in value}
    return _CONVERT(decoder, value)


_CONVERT = Decoder.convert

PLANTS: dict[str, tuple[object, str, object]] = {
    "base64 that is read somehow": _scalars(bytes=lambda value, _: binascii.a2b_base64(str(value).encode())),
    "integers of any size": _scalars(int=lambda value, _: int(value) if type(value) in (int, str) else 0),
    "true taken for a number": _scalars(int=lambda value, depth: gateway_json._read_int(int(value), depth)),
    "anything taken for true or false": _scalars(bool=lambda value, _: bool(value)),
    "camelCase that is not known": (gateway_json, "_camel", lambda name: name),
    "names of which the last one counts": (Decoder, "convert", _last_wins),
    "JSON whose faults get through": (gateway, "json_value", lambda body: msgspec.json.decode(body or b"{}") or {}),
    "values in errors whose depth gets through": (
        gateway_json,
        "_shown",
        lambda value: msgspec.json.encode(value).decode(),
    ),
    "integers that are written as numbers": (gateway_json._Writers, "_writer", _numbers_written),
    "zeros that are written": (Encoder, "encode", _more_written),
    "errors without details": (gateway, "error_answer", _error_without_details),
    "a status that is not etcd's": (gateway_errors, "HTTP_STATUSES", {**gateway_errors.HTTP_STATUSES, 3: (422, "")}),
    "paths that are no UTF-8": (gateway, "_path_of", lambda request: unquote(request.path, errors="strict")),
    "any Host": (HostCheck, "accepts", lambda hosts, host: True),
    "tickets that are not read": (gateway, "_ticket", lambda value: None),
    "watches that stay": (Watches, "close", _left_open),
    "a timer that stays": (Watches, "close", _left_ticking),
    "claims that stay": (Turns, "_give_up", lambda turns, claim: None),
    "a handler that goes on": (Gateway, "__call__", _that_goes_on),
    "a refusal that changes something": (StateMachine, "_grant", _granted_and_refused),
    "a read that changes something": (StateMachine, "range", _changed_by_reading),
    "a put that does not do all": (transactions, "put", _put_without_its_lease),
    "two objects in a piece": (GatewayStreams, "_watched", _told_twice),
    "requests of a stream that are lost": (JsonObjects, "feed", _only_the_first),
    "requests that are remembered": (Gateway, "__call__", _remembering),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_fault_is_found(plant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, name, what = PLANTS[plant]
    monkeypatch.setattr(where, name, what)
    try:
        with pytest.raises(FindingError, match="memory" if "remembered" in plant else "--replay"):
            run(SEED, 6_000)
    finally:
        _kept.clear()
