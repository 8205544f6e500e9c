"""Every message survives the way between two processes, and none can be taken for another."""

import msgspec
import pytest

from balancer.config.model import (
    Backend,
    Bind,
    Certificate,
    Config,
    Listener,
    ListenerTls,
    Log,
    Match,
    Pool,
    PoolAction,
    RedirectAction,
    ResolvedBackend,
    RespondAction,
    Route,
    SplitAction,
)
from balancer.daemon import messages
from balancer.resilience.standing import Standing
from balancer.telemetry.registry import Sample

BIND = Bind(host="127.0.0.1", port=8080)
CONFIG = Config(
    workers=3,
    log=Log(access="off"),
    shutdown_delay=0.25,
    listeners=(
        Listener(
            name="web",
            bind=(BIND, Bind(path="/run/x.sock", mode=0o600)),
            tls=ListenerTls(certificates=(Certificate(cert="a.pem", key="a.key"),)),
            routes=("a", "b", "c", "d"),
        ),
    ),
    routes=(
        Route(name="a", match=Match(hosts=("x",), headers={"a": "b"}), action=PoolAction(pool="p"), timeout=None),
        Route(name="b", action=SplitAction(read="p", write="q")),
        Route(name="c", action=RedirectAction(to="/x")),
        Route(name="d", action=RespondAction(body="ü")),
    ),
    pools=(Pool(name="p", backends=(Backend(name="b", host="h", port=1, max_connections=None),)),),
)
BACKENDS = (ResolvedBackend(pool="p", name="b", host="h", address=("10.0.0.1", 1, ""), slot=7),)

MESSAGES: list[messages.Message] = [
    messages.Hello(1, 2, 3),
    messages.Ready(1),
    messages.Prepare(1, CONFIG, BACKENDS, {"a.pem": b"\0\xff", "a.key": b""}),
    messages.Prepared(1),
    messages.Refused(("one", "two")),
    messages.Commit(1),
    messages.Abort(1),
    messages.Done(),
    messages.BackendStates(4, (Standing(1, True, 3), Standing(2, False, 0, 0.5, True)), ("web",)),
    messages.Outcomes((messages.Failure(1, "upstream_reset", 7),), (messages.Successes(1, 2, 0.5),)),
    messages.PullCounters(),
    messages.Counters([Sample("f", ("a", "b"), [1.0, 2.5])]),
    messages.Listen((messages.ListenOn(1, "web", BIND),)),
    messages.Unlisten((1, 2)),
    messages.ReopenLogs(),
    messages.LogLevel("debug"),
    messages.Drain("finish", 30.0, 60.0),
    messages.Ping(),
    messages.Pong(0.5, 12.25, 3),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_out_as_it_went_in(message: messages.Message) -> None:
    data = msgspec.msgpack.encode(message)
    assert msgspec.msgpack.decode(data, type=messages.Message) == message


def test_every_kind_of_message_is_tried() -> None:
    assert {type(message) for message in MESSAGES} == set(messages.Message.__args__)


def test_a_worker_reads_its_orders_from_its_command_line() -> None:
    start = messages.Start(
        worker=1, rows=2, backend_columns=1024, channel=7, memory=8, inbox=9, outlets=(10, 11), log=Log(level="debug")
    )
    assert msgspec.json.decode(msgspec.json.encode(start), type=messages.Start) == start
