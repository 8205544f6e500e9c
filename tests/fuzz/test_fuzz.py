"""The corpus at every cut, a short campaign on every run and the long one on request; and that both can fail."""

import asyncio
import itertools
from collections.abc import Iterator

import pytest

from balancer.http1.forwarding import request_head
from balancer.http1.message import RequestHead, ResponseHead
from balancer.proxy import exchange as exchange_module
from balancer.proxy.attempt import Attempt
from balancer.proxy.body import ResponseBody
from tests.fuzz.campaign import VALID_SHARE, CampaignError, Kind, Range, corpus, judge, make_grammar, make_input, run
from tests.fuzz.findings import FindingError
from tests.fuzz.in_memory import LISTENERS, InMemoryLoop, Proxy
from tests.fuzz.request_model import Answered, Forwarded, Rejected, Unfinished, read_requests
from tests.fuzz.requests import RequestInput
from tests.fuzz.response_model import Asked, read_responses
from tests.fuzz.responses import REQUESTS, ResponseInput

SEED = 20261121


def _extremes(data: bytes) -> list[list[bytes]]:
    """Whole, and byte by byte."""
    return [[data], [data[at : at + 1] for at in range(len(data))]]


def _halves(data: bytes) -> list[list[bytes]]:
    """In two pieces, cut at every place; a long one at some."""
    return [[data[:at], data[at:]] for at in range(1, len(data), 1 if len(data) < 400 else 37)]


def _judge_all(inputs: Iterator[RequestInput | ResponseInput]) -> int:
    async def each() -> int:
        proxy = Proxy()
        count = 0
        for given in inputs:
            try:
                await judge(proxy, given, None)
            except FindingError as error:
                raise FindingError(f"{error}\n{given}") from error
            count += 1
        return count

    with asyncio.Runner(loop_factory=InMemoryLoop) as runner:
        return runner.run(each())


@pytest.mark.parametrize("name", corpus("requests"))
def test_a_request_of_the_corpus_is_read_as_its_name_says_and_so_forwarded(name: str) -> None:
    data = corpus("requests")[name]
    kind, _, status = name.partition("-")
    for listener in LISTENERS.values():
        first = read_requests(data, listener)[0]
        if kind in ("forwarded", "open", "broken"):
            assert isinstance(first, Forwarded)
            assert first.body.state == {"forwarded": "complete", "open": "open", "broken": "bad"}[kind]
        elif kind == "unfinished":
            assert isinstance(first, Unfinished)
        else:
            assert isinstance(first, Rejected if kind == "refused" else Answered)
            assert int(status[:3]) in first.statuses
    ways = itertools.product(_extremes(data), LISTENERS, (False, True))
    assert _judge_all(RequestInput(data, pieces, listener, eager) for pieces, listener, eager in ways)
    assert _judge_all(RequestInput(data, pieces) for pieces in _halves(data))


@pytest.mark.parametrize("name", corpus("responses"))
def test_a_response_of_the_corpus_is_read_as_its_name_says_and_so_relayed(name: str) -> None:
    data = corpus("responses")[name]
    assert read_responses(data, Asked(), ended=False).ending == name.partition("-")[0]
    ways = itertools.product(_extremes(data), range(len(REQUESTS)), (False, True))
    assert _judge_all(ResponseInput(data, pieces, request, ended) for pieces, request, ended in ways)
    assert _judge_all(ResponseInput(data, pieces) for pieces in _halves(data))


@pytest.mark.parametrize(("kind", "count"), [("requests", 6_000), ("responses", 2_000)])
def test_a_short_campaign_finds_nothing(kind: Kind, count: int) -> None:
    tally = run(Range(kind, SEED, 0, count), jobs=1)
    assert tally.inputs == count
    assert tally.valid_share >= VALID_SHARE


@pytest.mark.full
@pytest.mark.timeout(0)
@pytest.mark.parametrize(("kind", "count"), [("requests", 2_000_000), ("responses", 500_000)])
def test_a_long_campaign_finds_nothing(kind: Kind, count: int) -> None:
    tally = run(Range(kind, SEED + 1, 0, count), jobs=2)
    assert tally.inputs == count
    assert tally.valid_share >= VALID_SHARE


@pytest.mark.parametrize("kind", ["requests", "responses"])
def test_a_number_names_an_input_for_good(kind: Kind) -> None:
    first, second = make_grammar(), make_grammar()
    inputs = [make_input(first, kind, 5, number) for number in range(50)]
    assert inputs == [make_input(second, kind, 5, number) for number in range(50)]
    assert len({given.data for given in inputs}) > 40
    assert inputs != [make_input(first, kind, 6, number) for number in range(50)]


def _fails(kind: Kind, finding: str) -> None:
    with pytest.raises(CampaignError, match=finding):
        run(Range(kind, SEED, 0, 2_000), jobs=1)


def test_a_field_too_many_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        exchange_module, "request_head", lambda *given: request_head(*given).replace(b"\r\n", b"\r\nX-New: 1\r\n", 1)
    )
    _fails("requests", "the fields are")


def test_a_wrong_length_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        exchange_module, "request_head", lambda *given: request_head(*given).replace(b"-Length: 5", b"-Length: 6")
    )
    _fails("requests", "Content-Length|waits for more")


def test_an_exchange_that_stays_in_flight_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Attempt, "end", lambda *_: None)
    _fails("requests", "in flight")


def test_a_truncated_response_that_ends_well_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ResponseBody.end_of_stream
    monkeypatch.setattr(ResponseBody, "end_of_stream", lambda body: right(body) if body.until_close else b"0\r\n\r\n")
    _fails("responses", "ended as if it were|the body begins|is open")


def test_a_reused_connection_that_asked_to_be_closed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = exchange_module.Exchange.respond

    def respond(exchange: exchange_module.Exchange, *given: object) -> None:
        heads = [head for head in given if isinstance(head, ResponseHead)]
        heads[0].keep_alive = True
        right(exchange, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(exchange_module.Exchange, "respond", respond)
    _fails("responses", "the backend's connection is kept")


def test_a_forwarded_request_that_should_be_refused_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(raw: bytes, *_: object) -> RequestHead:
        line_end = raw.find(b"\r\n")
        head = RequestHead(raw, line_end, b"GET", b"/", 1, b"a.example")
        head.host = b"a.example"
        return head

    monkeypatch.setattr("balancer.proxy.downstream.parse_request_head", parse)
    _fails("requests", "should be refused|h11|is|are")
