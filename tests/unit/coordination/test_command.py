"""What a log entry holds is read back as it was written, and nothing else is read at all."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.coordination.command import Command, RegisterSession, decode, encode
from balancer.coordination.errors import CoordinationError
from balancer.coordination.requests import (
    CompactionRequest,
    Compare,
    CompareTarget,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    SortTarget,
    TxnRequest,
)
from tests.unit.coordination.machine import Machine

REQUESTS = [
    PutRequest(b"k\0\xff", b"v", 2**62, prev_kv=True),
    DeleteRangeRequest(b"a", b"\0", prev_kv=True),
    TxnRequest(
        (Compare(key=b"a", target=CompareTarget.VALUE, value=b"x"),),
        (RequestOp(request_range=RangeRequest(b"a", sort_target=SortTarget.MOD)),),
        (RequestOp(request_txn=TxnRequest(success=(RequestOp(request_put=PutRequest(b"b")), RequestOp()))),),
    ),
    CompactionRequest(-1, physical=True),
    LeaseGrantRequest(TTL=-3, ID=-(2**63)),
    LeaseRevokeRequest(5),
    RegisterSession(),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_every_request_is_read_back_as_it_was(request_: PutRequest) -> None:
    command = Command(2**63 - 1, 7, 3, request_, decided_term=9)
    assert decode(encode(command)) == command


@given(st.binary(max_size=60))
@settings(deadline=None)
def test_any_bytes_are_a_command_or_refused(data: bytes) -> None:
    with suppress(CoordinationError):
        assert decode(encode(decode(data))) == decode(data)


@given(st.sampled_from(REQUESTS), st.data())
@settings(deadline=None)
def test_a_damaged_command_has_the_same_answer_everywhere_and_harms_nothing(
    request_: PutRequest, data: st.DataObject
) -> None:
    damaged = bytearray(encode(Command(0, 0, 0, request_)))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    machines = [Machine(), Machine()]
    for machine in machines:
        machine.put(b"a")
        machine.enter(bytes(damaged))
        machine.enter(bytes(damaged[:cut]))
        machine.put(b"b")
        assert machine.get(b"b") is not None
    assert machines[0].state.hash() == machines[1].state.hash()
    assert machines[0].state.applied_index == 4


def test_a_request_nested_too_deep_to_read_is_refused() -> None:
    request = TxnRequest()
    for _ in range(200):
        request = TxnRequest(success=(RequestOp(request_txn=request),))
    data = encode(Command(0, 0, 0, request))
    opened = data.count(b"\xabrequest_txn")
    assert opened == 200
    start = data.index(b"\xa7success")
    deeper = data[:start] + data[start : data.index(b"\xa7success", start + 1)] * 5000 + data[start:]
    with pytest.raises(CoordinationError):
        decode(deeper)


@pytest.mark.parametrize("field", ["session", "seq", "answered_below", "decided_term"])
def test_a_number_below_0_is_refused(field: str) -> None:
    numbers = {"session": 1, "seq": 1, "answered_below": 1, "decided_term": 1} | {field: -1}
    with pytest.raises(CoordinationError):
        decode(encode(Command(request=PutRequest(b"a"), **numbers)))
