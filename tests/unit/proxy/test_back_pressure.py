"""A slow side is waited for by its own bound, and uses up no other."""

from types import SimpleNamespace
from typing import Any

import pytest

from balancer.clock import monotonic
from balancer.config.model import ListenerLimits, ListenerTimeouts, PoolTimeouts
from balancer.proxy.downstream import BUSY, LINGERING, Downstream
from balancer.proxy.downstream import IN_BODY as DOWNSTREAM_IN_BODY
from balancer.proxy.exchange import Exchange
from balancer.proxy.upstream import IN_BODY, IN_TUNNEL, Upstream
from balancer.transport.timers import TimerWheel

REQUEST = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"


class FakeTransport:
    """Notes what is done to it; `left` bytes are not sent yet."""

    def __init__(self, left: int = 0) -> None:
        self.left = left
        self.calls: list[str] = []

    def get_write_buffer_size(self) -> int:
        return self.left

    def get_extra_info(self, _: str) -> None:
        return None

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self.calls.append(name)


def make_downstream(left: int = 0) -> tuple[Downstream, FakeTransport]:
    """A client's connection as after `connection_made`, without a loop."""
    server: Any = SimpleNamespace(
        wheel=TimerWheel(monotonic()), loads=SimpleNamespace(own=[0]), closing=False, released=lambda _: None
    )
    listener: Any = SimpleNamespace(
        timeouts=ListenerTimeouts(send=30.0),
        limits=ListenerLimits(),
        tls=None,
        bytes_in=[0],
        half_close=False,
        outdated=False,
    )
    downstream = Downstream(server, listener)
    transport = FakeTransport(left)
    downstream.transport = transport  # type: ignore[assignment]
    downstream.peer = "127.0.0.1"
    downstream.exchange = Exchange(downstream)
    return downstream, transport


def make_upstream(exchange: Exchange, body_idle: float = 60.0) -> Upstream:
    """A backend's connection that `exchange` holds."""
    connections: Any = SimpleNamespace(
        timeouts=PoolTimeouts(body_idle=body_idle), wheel=exchange.server.wheel, tls=None, active=1
    )
    upstream = Upstream(connections, 3600.0)
    upstream.transport = FakeTransport()  # type: ignore[assignment]
    upstream.exchange = exchange
    exchange.attempt.upstream = upstream
    return upstream


def test_a_backends_patience_begins_anew_when_a_slow_client_goes_on() -> None:
    downstream, _ = make_downstream()
    exchange = downstream.exchange
    assert exchange is not None
    upstream = make_upstream(exchange)
    upstream.state = IN_BODY
    upstream.deadline = monotonic() + 60.0
    exchange.client_is_slow()
    upstream.on_deadline(upstream.deadline)  # the client took more than a minute
    exchange.client_caught_up()
    assert upstream.deadline - monotonic() == pytest.approx(60.0, abs=5.0)


def test_a_tunnels_patience_begins_anew_when_a_slow_client_goes_on() -> None:
    downstream, _ = make_downstream()
    exchange = downstream.exchange
    assert exchange is not None
    upstream = make_upstream(exchange)
    upstream.state = IN_TUNNEL
    exchange.tunnel = SimpleNamespace(in_use=lambda: upstream.watch_until(monotonic() + 3600.0))  # type: ignore[assignment]
    exchange.client_is_slow()
    upstream.on_deadline(monotonic())
    exchange.client_caught_up()
    assert upstream.deadline - monotonic() == pytest.approx(3600.0, abs=5.0)


def test_a_last_answer_that_is_still_on_its_way_has_the_bound_of_sending() -> None:
    """Not the few seconds that are for what a client still sends: they would cut the answer short."""
    downstream, transport = make_downstream(left=30_000)
    downstream.must_close = True
    downstream.state = BUSY
    downstream.exchange_ended(True, False, monotonic())
    assert downstream.state == LINGERING
    assert downstream.deadline - monotonic() == pytest.approx(30.0, abs=5.0)
    transport.left = 20_000
    downstream.on_deadline(downstream.deadline)
    assert "abort" not in transport.calls, "some of it went"
    downstream.on_deadline(downstream.deadline)
    assert "abort" in transport.calls, "nothing of it went"


def test_a_client_that_does_not_read_is_asked_for_nothing_more() -> None:
    downstream, transport = make_downstream(left=100_000)
    downstream.state = BUSY
    downstream.pause_writing()
    assert transport.calls[-1] == "pause_reading"
    downstream.exchange_ended(False, False, monotonic())
    assert transport.calls[-1] == "pause_reading", "its next request has to wait"
    assert downstream.deadline - monotonic() == pytest.approx(30.0, abs=5.0), "the bound of sending goes on"
    transport.left = 0
    downstream.resume_writing()
    assert transport.calls[-1] == "resume_reading"
    assert downstream.deadline - monotonic() == pytest.approx(75.0, abs=5.0)


@pytest.mark.parametrize("stalled", [True, False])
def test_a_pause_that_nothing_under_way_ends_is_ended_at_the_next_look(stalled: bool) -> None:
    """Whatever left it behind: the client's end would stand unseen behind a full window."""
    downstream, transport = make_downstream()
    transport.get_extra_info = lambda _: SimpleNamespace(fileno=lambda: -1)  # type: ignore[method-assign,assignment,return-value]
    exchange = downstream.exchange
    assert exchange is not None
    upstream = make_upstream(exchange)
    upstream.stalled = stalled
    downstream.state = DOWNSTREAM_IN_BODY
    downstream.pause_reading()
    downstream.on_deadline(monotonic())
    assert (transport.calls[-1] == "resume_reading") != stalled
    patience = 1.0 if stalled else downstream.listener.timeouts.body_idle
    assert downstream.deadline - monotonic() == pytest.approx(patience, abs=0.9)


def test_requests_that_wait_for_a_reader_begin_when_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[bytes] = []

    def begin(self: Exchange, head: Any, _data: bytes, offset: int) -> int:
        begun.append(head.target)
        return offset

    monkeypatch.setattr(Exchange, "begin", begin)
    downstream, _ = make_downstream(left=100_000)
    downstream.state = BUSY
    downstream.data_received(REQUEST)
    downstream.pause_writing()
    downstream.exchange_ended(False, False, monotonic())
    assert begun == []
    downstream.resume_writing()
    assert begun == [b"/next"]
