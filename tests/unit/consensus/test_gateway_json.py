"""The JSON of etcd's gateway. Texts in `GOLDEN` were sent by an etcd 3.5.1, but for shorter ids."""

import base64
import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.consensus.gateway_json import VALUES_MAX, Decoder, Encoder, JsonError, json_value
from balancer.coordination import requests, responses
from balancer.coordination.errors import Code
from balancer.coordination.requests import (
    Compare,
    CompareResult,
    CompareTarget,
    LeaderKey,
    PutRequest,
    RangeRequest,
    RequestOp,
    SortOrder,
    SortTarget,
    TxnRequest,
    WatchCreateRequest,
    WatchFilter,
)
from balancer.coordination.responses import (
    CampaignResponse,
    Event,
    EventType,
    KeyValue,
    LeaseKeepAliveResponse,
    LeaseLeasesResponse,
    LeaseStatus,
    LeaseTimeToLiveResponse,
    Member,
    MemberListResponse,
    RangeResponse,
    ResponseHeader,
    ResponseOp,
    StatusResponse,
    TxnResponse,
    WatchResponse,
)

HEADER = ResponseHeader(cluster_id=11817204089542963883, member_id=14110398080384419260, revision=2, raft_term=2)
H = b'{"cluster_id":"11817204089542963883","member_id":"14110398080384419260","revision":"2","raft_term":"2"}'
KV = KeyValue(b"foo", create_revision=2, mod_revision=2, version=1, value=b"bar")
K = b'{"key":"Zm9v","create_revision":"2","mod_revision":"2","version":"1","value":"YmFy"}'

GOLDEN = [
    (RangeResponse(HEADER, (KV,), count=1), b'{"header":%b,"kvs":[%b],"count":"1"}' % (H, K)),
    (RangeResponse(HEADER), b'{"header":%b}' % H),
    (
        TxnResponse(
            HEADER,
            succeeded=True,
            responses=(
                ResponseOp(response_put=responses.PutResponse(ResponseHeader(revision=6))),
                ResponseOp(response_delete_range=responses.DeleteRangeResponse(ResponseHeader(revision=6))),
                ResponseOp(response_txn=TxnResponse(succeeded=True)),
            ),
        ),
        b'{"header":%b,"succeeded":true,"responses":[{"response_put":{"header":{"revision":"6"}}},'
        b'{"response_delete_range":{"header":{"revision":"6"}}},{"response_txn":{"header":{},"succeeded":true}}]}' % H,
    ),
    (
        WatchResponse(
            HEADER,
            events=(Event(kv=KV), Event(EventType.DELETE, KeyValue(b"foo", mod_revision=5), prev_kv=KV)),
        ),
        b'{"header":%b,"events":[{"kv":%b},{"type":"DELETE","kv":{"key":"Zm9v","mod_revision":"5"},"prev_kv":%b}]}'
        % (H, K, K),
    ),
    (
        WatchResponse(HEADER, watch_id=-1, created=True, canceled=True, cancel_reason="mvcc: watcher range is empty"),
        b'{"header":%b,"watch_id":"-1","created":true,"canceled":true,"cancel_reason":"mvcc: watcher range is empty"}'
        % H,
    ),
    (WatchResponse(canceled=True, compact_revision=3), b'{"header":{},"canceled":true,"compact_revision":"3"}'),
    (LeaseKeepAliveResponse(HEADER, ID=77), b'{"header":%b,"ID":"77"}' % H),
    (
        LeaseTimeToLiveResponse(HEADER, ID=77, TTL=59, grantedTTL=60, keys=(b"foo",)),
        b'{"header":%b,"ID":"77","TTL":"59","grantedTTL":"60","keys":["Zm9v"]}' % H,
    ),
    (LeaseTimeToLiveResponse(HEADER, TTL=-1), b'{"header":%b,"TTL":"-1"}' % H),
    (
        LeaseLeasesResponse(HEADER, (LeaseStatus(78), LeaseStatus(-3))),
        b'{"header":%b,"leases":[{"ID":"78"},{"ID":"-3"}]}' % H,
    ),
    (
        CampaignResponse(HEADER, LeaderKey(b"elect", b"elect/65", 16, 101)),
        b'{"header":%b,"leader":{"name":"ZWxlY3Q=","key":"ZWxlY3QvNjU=","rev":"16","lease":"101"}}' % H,
    ),
    (
        MemberListResponse(members=(Member(7, "e35", ("http://a:2380",), ("http://a:2379",)),)),
        b'{"header":{},"members":[{"ID":"7","name":"e35","peerURLs":["http://a:2380"],"clientURLs":["http://a:2379"]}]}',
    ),
    (
        StatusResponse(HEADER, "3.5.1", 28672, 7, 5, 2, 5, (), 16384),
        b'{"header":%b,"version":"3.5.1","dbSize":"28672","leader":"7","raftIndex":"5","raftTerm":"2",'
        b'"raftAppliedIndex":"5","dbSizeInUse":"16384"}' % H,
    ),
]


@pytest.mark.parametrize(("message", "text"), GOLDEN, ids=[type(message).__name__ for message, _ in GOLDEN])
def test_messages_are_written_as_etcd_writes_them(message: object, text: bytes) -> None:
    assert Encoder(type(message)).encode(message) == text  # type: ignore[type-var]


def test_a_header_is_there_also_when_it_is_empty() -> None:
    assert Encoder(TxnResponse).encode(TxnResponse()) == b'{"header":{}}'


@pytest.mark.parametrize(
    "text",
    [
        b'{"key":"Zm9v","range_end":"Zm9w","limit":"10","sort_order":"DESCEND","sort_target":"MOD","keys_only":true}',
        b'{"key":"Zm9v","rangeEnd":"Zm9w","limit":10,"sortOrder":2,"sortTarget":3,"keysOnly":true}',
        b""" {"key" : "Zm9v", "rangeEnd":"Zm9w","limit":" 10 ","sort_order":2,"sort_target":"MOD","keys_only":true,
            "revision":null,"min_mod_revision":"null","unknown":{"a":[1]}}\n""",
        b'{"key":"Zm9v","range_end":"Zm\\n9w","limit":10,"sort_order":2,"sort_target":3,"keys_only":true}{"key":1}',
        b'{"key":"Zm9v","range_end":"Zm9w","limit":10,"sort_order":2,"sort_target":3,"keys_only":true} trailing',
    ],
)
def test_names_numbers_and_enums_are_read_in_every_form_that_etcd_takes(text: bytes) -> None:
    wanted = RangeRequest(b"foo", b"fop", 10, 0, SortOrder.DESCEND, SortTarget.MOD, keys_only=True)
    assert Decoder(RangeRequest).decode(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        b'{"range_end":"Yg==","rangeEnd":"Yw=="}',
        b'{"rangeEnd":"Yw==","range_end":"Yg=="}',
        b'{"rangeEnd":"Yw==","range_end":5}',
        b'{"rangeEnd":"Yg==","range_end":"YQ==","rangeEnd":"Yw=="}',
    ],
)
def test_of_both_spellings_of_a_name_the_camel_case_one_counts_as_in_etcd(text: bytes) -> None:
    assert Decoder(RangeRequest).decode(text).range_end == b"c"
    assert Decoder(RangeRequest).decode(text.replace(b'"Yw=="', b"null")).range_end == b""


@pytest.mark.parametrize("text", [b"", b"  ", b"null", b"{}", b'{"key":null}'])
def test_nothing_is_the_empty_message(text: bytes) -> None:
    assert Decoder(PutRequest).decode(text) == PutRequest()


@pytest.mark.parametrize("text", ["_-8=", "_-8", "/+8=", "/+8", "_+8="])
def test_base64_is_read_in_both_alphabets_with_and_without_padding(text: str) -> None:
    assert Decoder(PutRequest).decode(b'{"key":"%b"}' % text.encode()).key == b"\xff\xef"


@pytest.mark.parametrize(
    "text",
    [
        b'{"key":5}',
        b'{"key":"!!!"}',
        b'{"key":"Z"}',
        b'{"key":"Zm9v=Zm9v"}',
        b'{"key":"Zg="}',
        b'{"key":"Zm9v="}',
        b'{"key":"Zm9v==="}',
        b'{"key":"Zm9v===="}',
        b'{"key":"===="}',
        b'{"key":"_-8=="}',
        b'{"key":["Zm9v"]}',
        b'{"lease":1.5}',
        b'{"lease":1.0}',
        b'{"lease":"1e0"}',
        b'{"lease":""}',
        b'{"lease":"0x10"}',
        b'{"lease":true}',
        b'{"lease":9223372036854775808}',
        b'{"lease":"-9223372036854775809"}',
        b'{"lease":1000000000000000000000000}',
        b'{"prev_kv":"true"}',
        b'{"prev_kv":1}',
        b"[]",
        b'"x"',
        b"5",
        b'{"key":"Zm9v"',
        b'{"key":"\xff"}',
        b"\xff\xfe",
        b"\x0b",
        b'{"key":"\\ud800"}',
    ],
)
def test_what_is_no_such_message_is_an_invalid_argument(text: bytes) -> None:
    with pytest.raises(JsonError) as caught:
        Decoder(PutRequest).decode(text)
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("value", ['"descend"', '"2"', "7", "2.0", "true", "-1", "[]"])
def test_an_unknown_value_of_an_enum_is_refused(value: str) -> None:
    with pytest.raises(JsonError, match=r"RangeRequest\.sort_order: expected one of NONE, ASCEND, DESCEND"):
        Decoder(RangeRequest).decode(b'{"sort_order":%b}' % value.encode())


def test_a_transaction_is_read_with_what_is_in_it() -> None:
    text = b"""{"compare":[{"target":"CREATE","result":"GREATER","key":"Zm9v","createRevision":"0"},null],
        "success":[{"request_put":{"key":"Zm9v"}},{"requestTxn":{"failure":[{"request_range":{"key":"YQ=="}}]}}]}"""
    assert Decoder(TxnRequest).decode(text) == TxnRequest(
        (Compare(CompareResult.GREATER, CompareTarget.CREATE, b"foo"), Compare()),
        (
            RequestOp(request_put=PutRequest(b"foo")),
            RequestOp(request_txn=TxnRequest(failure=(RequestOp(request_range=RangeRequest(b"a")),))),
        ),
    )


def test_only_one_operation_of_several_may_be_set() -> None:
    decoder = Decoder(TxnRequest, frozenset([RequestOp]))
    with pytest.raises(JsonError, match="only one of request_put, request_range"):
        decoder.decode(b'{"success":[{"request_put":{},"request_range":{}}]}')
    assert decoder.decode(b'{"success":[{"request_put":{},"request_range":null}]}').success[0].request_put


def nested(depth: int) -> bytes:
    return b'{"success":[{"request_txn":' * depth + b"{}" + b"}]}" * depth


def test_transactions_nest_as_deep_as_operations_are_allowed_and_no_deeper() -> None:
    decoder = Decoder(TxnRequest)
    assert decoder.decode(nested(128)).success
    with pytest.raises(JsonError, match="too many operations in txn request"):
        decoder.decode(nested(140))
    for text in (nested(20_000), b"[" * 100_000, b'{"unknown":' + b"[" * 100_000, b'{"a":' * 50_000):
        with pytest.raises(JsonError):
            decoder.decode(text)


def test_a_value_that_is_nested_as_deep_as_can_be_read_is_refused_like_any_other() -> None:
    for depth in range(600, 1100):
        for value in (b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth):
            with pytest.raises(JsonError):
                Decoder(PutRequest).decode(b'{"lease":%b}' % value)


def test_a_text_of_more_values_than_any_request_has_is_refused_before_they_are_made() -> None:
    for one in (b"{}", b"[]", b'""', b"1"):
        fits, more = (b'{"x":[%b]}' % b",".join([one] * count) for count in (VALUES_MAX // 2 - 4, VALUES_MAX + 1))
        assert json_value(fits)
        with pytest.raises(JsonError, match="etcdserver: request is too large"):
            json_value(more)
    assert json_value(b'{"x":"%b"}' % (b"QUJD" * VALUES_MAX))


def test_filters_of_a_watch_are_read_by_name_and_number() -> None:
    text = b'{"key":"Zm9v","filters":["NOPUT",1],"watchId":"-3"}'
    wanted = WatchCreateRequest(b"foo", filters=(WatchFilter.NOPUT, WatchFilter.NODELETE), watch_id=-3)
    assert Decoder(WatchCreateRequest).decode(text) == wanted


int64 = st.integers(-(2**63), 2**63 - 1)
puts = st.builds(PutRequest, st.binary(max_size=40), st.binary(max_size=40), int64, st.booleans())
compares = st.builds(
    Compare,
    st.sampled_from(CompareResult),
    st.sampled_from(CompareTarget),
    st.binary(max_size=9),
    st.binary(max_size=9),
)
txns = st.recursive(
    st.builds(TxnRequest, st.lists(compares, max_size=3).map(tuple)),
    lambda inner: st.builds(
        TxnRequest,
        st.lists(compares, max_size=2).map(tuple),
        st.lists(
            st.builds(lambda put: RequestOp(request_put=put), puts)
            | st.builds(lambda txn: RequestOp(request_txn=txn), inner),
            max_size=3,
        ).map(tuple),
    ),
    max_leaves=6,
)


@given(st.one_of(puts, txns))
def test_what_is_written_is_read_back(message: PutRequest | TxnRequest) -> None:
    kind = type(message)
    assert Decoder(kind).decode(Encoder(kind).encode(message)) == message  # type: ignore[arg-type, type-var]


@given(st.binary(max_size=60), st.booleans(), st.booleans())
def test_every_base64_text_of_some_bytes_is_read_as_them(data: bytes, url_safe: bool, padded: bool) -> None:
    text = (base64.urlsafe_b64encode if url_safe else base64.b64encode)(data)
    assert Decoder(PutRequest).decode(b'{"value":"%b"}' % (text if padded else text.rstrip(b"="))).value == data


def test_every_request_and_response_has_a_codec() -> None:
    for module, codec in ((requests, Decoder), (responses, Encoder)):
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                codec(kind)


REQUESTS = [
    kind
    for kind in vars(requests).values()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind is not msgspec.Struct
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["key", "rangeEnd", "compare", "success", "request_put", "lease", "leader", "filters", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.sampled_from(REQUESTS), json_values.map(msgspec.json.encode) | st.binary(max_size=40), st.data())
def test_any_text_is_a_message_or_refused_as_none(kind: type[msgspec.Struct], text: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(text)))
    for one in (text, text[:cut], text[:cut] + b"\x00" + text[cut:], text + text):
        with contextlib.suppress(JsonError):
            assert isinstance(Decoder(kind, frozenset([RequestOp])).decode(one), kind)
