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
      - unix:app.sock
    timeouts: {connect: 1s, first_byte: off, body_idle: 2s}
    keepalive: {idle: 1s, max_idle: off, max_requests: 5, max_age: 2h}
    tunnel_idle: off
"""


@pytest.fixture(scope="module")
def config() -> model.Config:
    return load(FULL, "f", {}, base="/etc/balancer").config


def test_the_whole_file_arrives(config: model.Config) -> None:
    assert (config.workers, config.user, config.group, config.via) == (4, "balancer", "1000", "lb-1")
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
        headers=model.RouteHeaders(
            request=model.HeaderEdits(set={"A": "b"}, add={"C": "d"}, remove=("E",)),
            response=model.HeaderEdits(set={"F": "g"}),
        ),
        rewrite=model.Rewrite(strip_prefix="/x", replace_prefix="/y"),
    )


def test_pools_arrive(config: model.Config) -> None:
    (pool,) = config.pools
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
            model.Backend(name="unix:app.sock", path="/etc/balancer/app.sock"),
        ),
        timeouts=model.PoolTimeouts(connect=1.0, first_byte=None, body_idle=2.0),
        keepalive=model.Keepalive(idle=1.0, max_idle=0, max_requests=5, max_age=7200.0),
        tunnel_idle=None,
    )


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
