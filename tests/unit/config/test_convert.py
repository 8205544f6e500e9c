"""Conversion: what the file says arrives in the plain structures, and nothing is lost."""

import msgspec
import pytest

from balancer.config import model
from balancer.config.load import load

FULL = b"""
workers: 4
user: balancer
group: "1000"
runtime_dir: run
via: lb-1
max_connections: 50000
watch: true
log: {level: debug, format: json, access: logs/access.log}
admin: {bind: unix:admin.sock, token_file: token, hosts: [Admin.Example.com]}
shutdown_delay: 0s
shutdown_grace: 1m
tunnel_grace: 2m
listeners:
  web:
    bind: ["0.0.0.0:8080", "[::]:8080", {path: web.sock, mode: 0660}, unix:/run/b.sock]
    tls:
      certificates: [{cert: a.pem, key: /etc/a.key}]
      min_version: 1.3
      client_ca: ca.pem
      client_auth: optional
    trusted_proxies: [10.0.0.0/8, "::1"]
    routes: [fixed, main]
    half_close: allow
    http10_keepalive: true
    forwarded: true
    limits:
      head_bytes: 32KiB
      header_count: 50
      uri_bytes: 4KiB
      max_body: 1MiB
      max_connections: 10
      max_connections_per_client: 5
      max_requests_per_connection: 7
    timeouts: {head: 1s, body_idle: 2s, keepalive_idle: 3s, send: 4s}
routes:
  - name: moved
    match: {path: /old}
    redirect: {to: /new, status: 301}
  - name: fixed
    match: {path: /fixed}
    respond: {status: 418, body: tea, content_type: text/x, headers: {X-A: b}}
  - name: split
    match: {path: /split}
    split: {read: app, write: app}
  - name: main
    match:
      hosts: ["*.Example.com.", a.example.com]
      path_prefix: /x
      path_regex: "/x.*"
      methods: [GET, M-SEARCH]
      headers: {X-B: "1"}
      query: {q: "*"}
      client: [10.0.0.1]
    pool: app
    timeout: 10s
    max_body: 2MiB
    fallback: spare
    retry_non_idempotent: true
    headers:
      request: {set: {A: b}, add: {C: d}, remove: [E]}
      response: {set: {F: g}}
    rewrite: {strip_prefix: /x, replace_prefix: /y}
pools:
  app:
    strategy: least_connections
    host: Backend.Internal:81
    tls: {ca: ca.pem, server_name: a.internal, verify: true, cert: c.pem, key: c.key}
    backends:
      - {name: one, address: "[0::1]:9", weight: 3, max_connections: 200}
      - App.Internal:9004
      - {address: unix:app.sock, backup: true}
    timeouts: {connect: 1s, first_byte: off, body_idle: 2s, attempt: 3s}
    keepalive: {idle: 1s, max_idle: off, max_requests: 5, max_age: 2h}
    tunnel_idle: off
    health_check:
      path: /health?full=1
      method: OPTIONS
      host: Probe.Internal
      headers: {X-Probe: "1"}
      expect_status: [200-299, 404]
      expect_text: ready
      port: 8081
      interval: 10s
      fast_interval: 2s
      timeout: 1s
      healthy_after: 4
      unhealthy_after: 5
    outlier_detection:
      mode: observe
      consecutive_failures: off
      failure_rate: false
      latency: false
      window: 20s
      base_ejection: 5s
      max_ejection: 1m
      max_ejected: 25%
    retry: {attempts: 3, when: [reset, 0500, 429], budget: off, budget_min: off}
    slow_start: off
    panic_threshold: off
    queue_timeout: 250ms
    queue_max: 7
  spare: {backends: ["10.0.0.9:1"], health_check: off, outlier_detection: off, retry: off, queue_timeout: off}
"""


@pytest.fixture(scope="module")
def config() -> model.Config:
    return load(FULL, "f", {}, base="/etc/balancer").config


def test_the_whole_file_arrives(config: model.Config) -> None:
    assert (config.workers, config.user, config.group, config.via) == (4, "balancer", "1000", "lb-1")
    assert config.watch
    assert config.max_connections == 50000
    assert (config.shutdown_delay, config.shutdown_grace, config.tunnel_grace) == (0.0, 60.0, 120.0)
    assert config.runtime_dir == "/etc/balancer/run"
    assert config.log == model.Log(level="debug", format="json", access="/etc/balancer/logs/access.log")


def test_admin_arrives(config: model.Config) -> None:
    assert config.admin == model.Admin(
        bind=model.Bind(path="/etc/balancer/admin.sock", mode=0o600),
        token_file="/etc/balancer/token",
        hosts=("admin.example.com",),
    )


def test_listeners_arrive_with_routes_in_the_order_of_the_file(config: model.Config) -> None:
    (listener,) = config.listeners
    assert listener == model.Listener(
        name="web",
        bind=(
            model.Bind(host="0.0.0.0", port=8080),
            model.Bind(host="::", port=8080),
            model.Bind(path="/etc/balancer/web.sock", mode=0o660),
            model.Bind(path="/run/b.sock", mode=0o666),
        ),
        tls=model.ListenerTls(
            certificates=(model.Certificate(cert="/etc/balancer/a.pem", key="/etc/a.key"),),
            min_version="1.3",
            client_ca="/etc/balancer/ca.pem",
            client_auth="optional",
        ),
        trusted_proxies=("10.0.0.0/8", "::1/128"),
        routes=("fixed", "main"),
        half_close="allow",
        http10_keepalive=True,
        forwarded=True,
        limits=model.ListenerLimits(
            head_bytes=32768,
            header_count=50,
            uri_bytes=4096,
            max_body=2**20,
            max_connections=10,
            max_connections_per_client=5,
            max_requests_per_connection=7,
        ),
        timeouts=model.ListenerTimeouts(head=1.0, body_idle=2.0, keepalive_idle=3.0, send=4.0),
    )


def test_routes_arrive(config: model.Config) -> None:
    moved, fixed, split, main = config.routes
    assert moved.action == model.RedirectAction(to="/new", status=301)
    assert fixed.action == model.RespondAction(status=418, body="tea", content_type="text/x", headers={"X-A": "b"})
    assert split.action == model.SplitAction(read="app", write="app")
    assert main == model.Route(
        name="main",
        match=model.Match(
            hosts=("*.example.com", "a.example.com"),
            path_prefix="/x",
            path_regex="/x.*",
            methods=("GET", "M-SEARCH"),
            headers={"x-b": "1"},
            query={"q": "*"},
            client=("10.0.0.1/32",),
        ),
        action=model.PoolAction(pool="app"),
        timeout=10.0,
        max_body=2**21,
        fallback="spare",
        retry_non_idempotent=True,
        headers=model.RouteHeaders(
            request=model.HeaderEdits(set={"A": "b"}, add={"C": "d"}, remove=("E",)),
            response=model.HeaderEdits(set={"F": "g"}),
        ),
        rewrite=model.Rewrite(strip_prefix="/x", replace_prefix="/y"),
    )


def test_pools_arrive(config: model.Config) -> None:
    pool, spare = config.pools
    assert pool == model.Pool(
        name="app",
        strategy="least_connections",
        host="backend.internal:81",
        tls=model.PoolTls(
            ca="/etc/balancer/ca.pem",
            server_name="a.internal",
            cert="/etc/balancer/c.pem",
            key="/etc/balancer/c.key",
        ),
        backends=(
            model.Backend(name="one", host="::1", port=9, weight=3, max_connections=200),
            model.Backend(name="App.Internal:9004", host="app.internal", port=9004),
            model.Backend(name="unix:app.sock", path="/etc/balancer/app.sock", backup=True),
        ),
        timeouts=model.PoolTimeouts(connect=1.0, first_byte=None, body_idle=2.0, attempt=3.0),
        keepalive=model.Keepalive(idle=1.0, max_idle=0, max_requests=5, max_age=7200.0),
        tunnel_idle=None,
        health_check=model.HealthCheck(
            path="/health?full=1",
            method="OPTIONS",
            host="probe.internal",
            headers={"X-Probe": "1"},
            expect_status=((200, 299), (404, 404)),
            expect_text="ready",
            port=8081,
            interval=10.0,
            fast_interval=2.0,
            timeout=1.0,
            healthy_after=4,
            unhealthy_after=5,
        ),
        outlier_detection=model.OutlierDetection(
            mode="observe",
            consecutive_failures=None,
            failure_rate=False,
            latency=False,
            window=20.0,
            base_ejection=5.0,
            max_ejection=60.0,
            max_ejected=0.25,
        ),
        retry=model.Retry(attempts=3, when=("reset", "500", "429"), budget=None, budget_min=0.0),
        slow_start=None,
        panic_threshold=0.0,
        queue_timeout=0.25,
        queue_max=7,
    )
    assert spare == model.Pool(
        name="spare",
        backends=(model.Backend(name="10.0.0.9:1", host="10.0.0.9", port=1),),
        outlier_detection=None,
        retry=None,
        queue_timeout=None,
    )


def pool(keys: str) -> model.Pool:
    """The pool of a file whose pool has `keys`."""
    text = f"""
listeners: {{web: {{bind: "127.0.0.1:8080"}}}}
routes: [{{name: all, pool: app}}]
pools: {{app: {{backends: ["a.internal:9001"], {keys}}}}}
"""
    return load(text.encode(), "f", {}).config.pools[0]


def test_sections_without_keys_have_the_defaults_of_the_model() -> None:
    found = pool("health_check: {}, outlier_detection: {}, retry: {}")
    assert found.health_check == model.HealthCheck()
    assert (found.outlier_detection, found.retry) == (model.OutlierDetection(), model.Retry())
    assert pool("health_check: {type: tcp}").health_check == model.HealthCheck(type="tcp")


def test_a_bare_string_is_the_path_of_a_health_check() -> None:
    assert pool("health_check: /healthz").health_check == model.HealthCheck(path="/healthz")


@pytest.mark.parametrize(
    ("status", "ranges"),
    [("204", ((204, 204),)), ("200-399", ((200, 399),)), ("[200, 301 - 302]", ((200, 200), (301, 302)))],
)
def test_expected_statuses_are_a_status_a_range_or_a_list(status: str, ranges: tuple[tuple[int, int], ...]) -> None:
    check = pool(f"health_check: {{expect_status: {status}}}").health_check
    assert check is not None
    assert check.expect_status == ranges


def test_one_reason_to_retry_needs_no_list() -> None:
    assert pool("retry: {when: connect_failure}").retry == model.Retry(when=("connect_failure",))


def test_a_health_check_asks_for_the_host_that_requests_have() -> None:
    hosts = [
        found.host
        for keys in ("host: app.example", "host: keep", "host: backend", "host: a, health_check: {host: b}")
        if (found := pool(keys if "health_check" in keys else f"{keys}, health_check: /x").health_check) is not None
    ]
    assert hosts == ["app.example", None, None, "b"]


def test_the_fast_interval_is_never_longer_than_the_interval() -> None:
    check = pool("health_check: {interval: 500ms, timeout: 100ms}").health_check
    assert check is not None
    assert (check.interval, check.fast_interval) == (0.5, 0.5)


def test_the_result_travels(config: model.Config) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=model.Config) == config


def test_without_a_base_paths_stay_as_written() -> None:
    config = load(FULL, "f", {}).config
    assert config.runtime_dir == "run"
    assert config.admin.bind.path == "admin.sock"


def test_off_and_defaults_of_via() -> None:
    off = load(FULL.replace(b"via: lb-1", b"via: off"), "f", {}).config
    assert off.via is None
    auto = load(FULL.replace(b"via: lb-1", b"via: auto"), "f", {}).config
    assert auto.via == "auto"
