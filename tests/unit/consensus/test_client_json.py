"""The client's wire: requests as etcd's gateway reads them, answers of every etcd."""

import msgspec
import pytest

from balancer.consensus.client_errors import RefusedError
from balancer.consensus.client_json import (
    StreamItem,
    WatchMessage,
    decoded,
    encoded,
    events_of,
    fields,
    refusal,
    refusal_in_stream,
)
from balancer.consensus.client_kv import delete, get_prefix, missing, put, transaction, value_is
from balancer.coordination.errors import Code
from balancer.coordination.requests import LeaseGrantRequest, RangeRequest, SortOrder, SortTarget
from balancer.coordination.responses import EventType, RangeResponse


def test_a_request_has_its_fields_and_no_zero_values() -> None:
    request = RangeRequest(b"foo", b"fop", sort_order=SortOrder.DESCEND, sort_target=SortTarget.CREATE)
    body = msgspec.json.decode(encoded(fields(request)))
    assert body == {"key": "Zm9v", "range_end": "Zm9w", "sort_order": 2, "sort_target": 2}


def test_a_transaction_has_one_field_per_operation_and_no_tags_of_ours() -> None:
    request = transaction([missing("a"), value_is("b", "x")], [put("a", "1", lease=7)], [get_prefix("a"), delete("b")])
    assert msgspec.json.decode(encoded(fields(request))) == {
        "compare": [{"target": 1, "key": "YQ=="}, {"target": 3, "key": "Yg==", "value": "eA=="}],
        "success": [{"request_put": {"key": "YQ==", "value": "MQ==", "lease": 7}}],
        "failure": [
            {"request_range": {"key": "YQ==", "range_end": "Yg=="}},
            {"request_delete_range": {"key": "Yg=="}},
        ],
    }


def test_numbers_of_64_bits_are_read_from_strings_and_absent_fields_are_zero() -> None:
    text = b'{"header":{"cluster_id":"18446744073709551615"},"kvs":[{"key":"YQ==","mod_revision":"9007199254740993"}]}'
    answer = decoded(text, RangeResponse)
    assert answer.header.cluster_id == 2**64 - 1
    assert (answer.kvs[0].key, answer.kvs[0].mod_revision, answer.kvs[0].value) == (b"a", 2**53 + 1, b"")
    assert (answer.count, answer.more) == (0, False)


def test_the_largest_lease_survives_the_way_out() -> None:
    assert encoded(fields(LeaseGrantRequest(1, 2**63 - 1))) == b'{"TTL":1,"ID":9223372036854775807}'


@pytest.mark.parametrize(
    ("word", "kind"), [('"type":"DELETE",', EventType.DELETE), ('"type":1,', EventType.DELETE), ("", EventType.PUT)]
)
def test_an_event_says_its_kind_by_name_by_number_or_not_at_all(word: str, kind: EventType) -> None:
    message = decoded(f'{{"events":[{{{word}"kv":{{"key":"YQ=="}}}}]}}'.encode(), WatchMessage)
    assert [event.type for event in events_of(message)] == [kind]


@pytest.mark.parametrize("kind", ['"MOVE"', "7"])
def test_an_event_of_an_unknown_kind_is_refused(kind: str) -> None:
    with pytest.raises(RefusedError, match="unknown kind"):
        events_of(decoded(f'{{"events":[{{"type":{kind}}}]}}'.encode(), WatchMessage))


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"kvs":5}', b'{"kvs":[{"key":"%"}]}', b"\xff", b'{"x":' + b"[" * 100_000]
)
def test_what_is_no_answer_of_the_api_is_an_error_in_words(body: bytes) -> None:
    with pytest.raises(RefusedError, match="none of etcd's v3 API"):
        decoded(body, RangeResponse)


@pytest.mark.parametrize(
    ("status", "body", "code", "words"),
    [
        (404, b'{"code":5,"message":"etcdserver: requested lease not found","details":[]}', Code.NOT_FOUND, "lease"),
        (404, b'{"error":"e","message":"etcdserver: x","code":5}', Code.NOT_FOUND, "etcdserver: x"),
        (404, b'{"code":5,"message":"Not Found","details":[]}', Code.UNIMPLEMENTED, "Not Found"),
        (404, b"Not Found\n", Code.UNIMPLEMENTED, "404"),
        (501, b'{"code":12,"message":"Method Not Allowed"}', Code.UNIMPLEMENTED, "Method"),
        (
            412,
            b'{"error":"e","message":"etcdserver: lease already exists","code":9}',
            Code.FAILED_PRECONDITION,
            "lease",
        ),
        (503, b"<html>busy</html>", Code.UNAVAILABLE, "503: <html>busy"),
        (302, b"", Code.UNKNOWN, "302"),
        (500, b'{"message":"x","code":13}', Code.UNKNOWN, "x"),
    ],
)
def test_a_refusal_has_etcds_code_and_words_whatever_its_shape(
    status: int, body: bytes, code: Code, words: str
) -> None:
    error = refusal(status, body)
    assert error.code is code
    assert words in error.message


def test_an_error_inside_a_stream_has_either_shape() -> None:
    old = decoded(b'{"error":{"grpc_code":14,"http_code":503,"message":"a","http_status":"b"}}', StreamItem)
    new = decoded(b'{"error":{"code":14,"message":"a","details":[]}}', StreamItem)
    for item in (old, new):
        assert item.error is not None
        assert refusal_in_stream(item.error).code is Code.UNAVAILABLE
