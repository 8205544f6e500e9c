"""What decides where a request goes, and what each action does to it, seen from both ends."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.scripted import Message, Origin, Scene, Talk, ok, request


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Origin]]:
    """Further backends: one over IPv6, one over a Unix socket."""
    path = tmp_path_factory.mktemp("sockets") / "backend"
    made = {"v6": Origin(host="::1"), "unix": Origin(path=path)}
    yield made
    for origin in made.values():
        origin.close()


def routes() -> list[dict[str, object]]:
    def to(name: str, pool: str = "web", **match: object) -> dict[str, object]:
        return {"name": name, "match": match, "pool": pool}

    return [
        to("exact-host", hosts=["exact.test"]),
        to("wild-host", hosts=["*.wild.test"]),
        to("prefix", path_prefix="/prefix"),
        to("below", path_prefix="/below/"),
        to("exact", path="/exact"),
        to("regex", path_regex="/r/[0-9]+"),
        to("header", path="/h", headers={"x-canary": "1", "x-present": "*"}),
        to("query", path="/q", query={"a": "1", "b": "*"}),
        to("methods", path="/m", methods=["GET", "POST"]),
        to("client", path="/c", client=["10.0.0.0/8", "2001:db8::/32"]),
        to("loopback", path="/c", client=["127.0.0.0/8", "::1"]),
        {"name": "split", "match": {"path": "/s"}, "split": {"read": "reads", "write": "writes"}},
        {"name": "old", "match": {"path_prefix": "/old"}, "redirect": {"to": "/new{path}{query}"}},
        {
            "name": "moved",
            "match": {"path_prefix": "/moved"},
            "redirect": {"to": "{scheme}://{host}{path}{query}", "status": 302},
        },
        {"name": "local", "match": {"path_prefix": "/local"}, "redirect": {"to": "{path}", "status": 301}},
        {
            "name": "hello",
            "match": {"path": "/hello"},
            "respond": {"status": 203, "body": "hello\n", "headers": {"X-Own": "1"}},
        },
        {
            "name": "bare",
            "match": {"path": "/bare"},
            "respond": {"status": 200, "body": "b"},
            "headers": {"response": {"set": {"X-Edit": "yes"}}},
        },
        {
            "name": "shorn",
            "match": {"path": "/shorn"},
            "respond": {"status": 200, "body": "s", "headers": {"X-Gone": "1"}},
            "headers": {"response": {"remove": ["X-Gone"]}},
        },
        {
            "name": "edited",
            "match": {"path": "/edited"},
            "pool": "web",
            "headers": {
                "request": {"set": {"X-Set": "ours", "Host": "set.test"}, "add": {"X-Add": "two"}, "remove": ["X-Rem"]},
                "response": {"set": {"Server": "us"}, "add": {"X-More": "2"}, "remove": ["X-Inside"]},
            },
        },
        {
            "name": "rewritten",
            "match": {"path_prefix": "/api"},
            "pool": "web",
            "rewrite": {"strip_prefix": "/api", "replace_prefix": "/v2"},
        },
        {
            "name": "stripped",
            "match": {"path_prefix": "/strip"},
            "pool": "web",
            "rewrite": {"strip_prefix": "/strip"},
        },
        to("host-keep", path="/host/keep"),
        to("host-backend", "as-backend", path="/host/backend"),
        to("host-name", "as-name", path="/host/name"),
        to("v6", "v6", path="/v6"),
        to("unix", "unix", path="/unix"),
        to("shared", "unix", path="/prefixless"),
    ]


@pytest.fixture(scope="module")
def scene(origin: Origin, others: dict[str, Origin], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("routing")
    address = f"127.0.0.1:{origin.port}"
    idle = {"keepalive": {"idle": "300ms"}}
    unix_path = next(talk for talk in [others["unix"]._listener.getsockname()])

    def named(name: str) -> dict[str, object]:
        return {"backends": [{"name": name, "address": address}], **idle}

    scene = Scene(
        {
            "listeners": {
                "plain": {"bind": "127.0.0.1:0"},
                "trusting": {"bind": "127.0.0.1:0", "trusted_proxies": ["127.0.0.0/8"]},
                "v6": {"bind": "[::1]:0"},
                "unix": {"bind": f"unix:{folder}/front"},
                "both": {"bind": ["127.0.0.1:0", f"unix:{folder}/second"], "routes": ["exact"]},
            },
            "routes": routes(),
            "pools": {
                "web": {"backends": [address], **idle},
                "reads": named("replica"),
                "writes": named("primary"),
                "as-backend": {"backends": [address], "host": "backend", **idle},
                "as-name": {"backends": [address], "host": "inner.test:81", **idle},
                "v6": {"backends": [f"[::1]:{others['v6'].port}"], **idle},
                "unix": {"backends": [f"unix:{unix_path}"], **idle},
            },
        },
        folder,
    )
    yield scene
    try:
        scene.assert_at_rest()
    finally:
        scene.close()


def told(answer: Message) -> Message:
    """The request as the backend got it."""
    assert answer.status == 200, answer
    inner = json.loads(answer.body)
    return Message(inner["line"], [tuple(pair) for pair in inner["fields"]], inner["body"].encode("latin-1"), b"")


def route_of(scene: Scene, target: str, *fields: str, method: str = "GET", host: str = "a") -> str:
    """The route that took a request; "-" for none."""
    mark = f"X-Request-Id: t{len(scene.log())}-{abs(hash((target, fields, method, host)))}"
    with scene.connect("plain") as client:
        client.send(request(target, mark, *fields, method=method).replace(b"Host: a\r\n", f"Host: {host}\r\n".encode()))
        client.response(method)
    return str(scene.logged(id=mark.partition(" ")[2])["route"])


@pytest.mark.parametrize(
    ("host", "route"),
    [
        ("exact.test", "exact-host"),
        ("EXACT.test.:8080", "exact-host"),
        ("a.wild.test", "wild-host"),
        ("a.b.wild.test", "wild-host"),
        ("wild.test", "-"),
        ("notwild.test", "-"),
        ("other.test", "-"),
    ],
)
def test_hosts(scene: Scene, host: str, route: str) -> None:
    assert route_of(scene, "/nothing", host=host) == route


@pytest.mark.parametrize(
    ("target", "route"),
    [
        ("/prefix", "prefix"),
        ("/prefix/x?y", "prefix"),
        ("/prefixx", "-"),
        ("/Prefix", "-"),
        ("/%70refix", "prefix"),
        ("/x/../prefix/y", "prefix"),
        ("//prefix", "prefix"),
        ("/prefix/../exact", "exact"),
        ("/below", "-"),
        ("/below/x", "below"),
        ("/exact", "exact"),
        ("/exact?x", "exact"),
        ("/exact/", "-"),
        ("/r/123", "regex"),
        ("/r/123x", "-"),
        ("/q?a=1&b=anything", "query"),
        ("/q?b=&a=1", "query"),
        ("/q?a=1", "-"),
        ("/q?a=2&b=1", "-"),
    ],
)
def test_paths_and_queries(scene: Scene, target: str, route: str) -> None:
    assert route_of(scene, target) == route


def test_headers(scene: Scene) -> None:
    assert route_of(scene, "/h", "X-Canary: 1", "X-Present: whatever") == "header"
    assert route_of(scene, "/h", "X-Canary: 1") == "-"
    assert route_of(scene, "/h", "X-Canary: 2", "X-Present: x") == "-"


def test_a_method_that_no_route_takes_is_405_with_allow(scene: Scene) -> None:
    answer = scene.ask("plain", "/m", method="DELETE")
    assert answer.status == 405
    assert {method.strip() for method in answer.field("allow").split(",")} >= {"GET", "POST"}
    assert scene.logged(target="/m", method="DELETE")["reason"] == "method_not_routed"
    assert route_of(scene, "/m", method="HEAD") == "methods"


def test_what_no_route_takes_is_404_as_the_client_prefers(scene: Scene) -> None:
    answer = scene.ask("plain", "/nowhere")
    assert (answer.status, answer.field("content-type")) == (404, "text/plain; charset=utf-8")
    told_as = scene.ask("plain", "/nowhere", "Accept: application/json")
    assert json.loads(told_as.body)["error"]["code"] == 404
    assert scene.logged(target="/nowhere")["reason"] == "no_route"


def test_a_refused_request_with_a_body_leaves_the_connection_usable_or_says_close(scene: Scene) -> None:
    with scene.connect("plain") as client:
        assert client.send(request("/nowhere", method="POST", body=b"abc")).response().status == 404
        assert client.send(request("/exact")).response().status == 200
        client.send("POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
        assert client.response().field("connection") == "close"


@pytest.mark.parametrize(
    ("listener", "forwarded", "route"),
    [
        ("plain", "10.1.2.3", "loopback"),
        ("trusting", "10.1.2.3", "client"),
        ("trusting", "2001:db8::1", "client"),
        ("trusting", "10.1.2.3, 192.0.2.1", "-"),
        ("trusting", "192.0.2.1, 10.1.2.3", "client"),
        ("trusting", "10.1.2.3, 127.0.0.9", "client"),
        ("trusting", "", "loopback"),
    ],
)
def test_the_clients_network(scene: Scene, listener: str, forwarded: str, route: str) -> None:
    fields = [f"X-Request-Id: c-{listener}-{forwarded.replace(', ', '+')}"]
    if forwarded:
        fields.append(f"X-Forwarded-For: {forwarded}")
    scene.ask(listener, "/c", *fields)
    line = scene.logged(id=fields[0].partition(" ")[2])
    assert line["route"] == route
    if listener == "trusting" and forwarded == "10.1.2.3":
        assert line["client"] == "10.1.2.3"


@pytest.mark.parametrize(
    ("method", "backend"),
    [
        ("GET", "replica"),
        ("HEAD", "replica"),
        ("OPTIONS", "replica"),
        ("POST", "primary"),
        ("PUT", "primary"),
        ("DELETE", "primary"),
        ("PATCH", "primary"),
    ],
)
def test_a_split_sends_reads_and_writes_apart(scene: Scene, method: str, backend: str) -> None:
    scene.ask("plain", "/s", method=method)
    line = scene.logged(target="/s", method=method)
    assert (line["backend"], line["pool"]) == (backend, "reads" if backend == "replica" else "writes")


@pytest.mark.parametrize(
    ("target", "status", "to"),
    [
        ("/old/x?y=1", 308, "/new/old/x?y=1"),
        ("/old", 308, "/new/old"),
        ("/moved/x?y", 302, "http://a/moved/x?y"),
        ("/local/x", 301, "/local/x"),
    ],
)
def test_a_redirect_fills_in_its_placeholders(scene: Scene, target: str, status: int, to: str) -> None:
    answer = scene.ask("plain", target)
    assert (answer.status, answer.field("location")) == (status, to)


@pytest.mark.parametrize(
    "target",
    [
        "//evil.test/../local/x",
        "/local//evil.test",
        "/local/..//evil.test/../local",
        "/%2flocal",
        "/local/%0d%0aX-A:%20b",
    ],
)
def test_a_redirect_leads_to_no_other_host(scene: Scene, target: str) -> None:
    answer = scene.ask("plain", target)
    if answer.status == 301:
        assert answer.field("location").startswith("/")
        assert not answer.field("location").startswith(("//", "/\\"))
    else:
        assert answer.status in (400, 404)
    assert not answer.field("x-a")


def test_a_fixed_answer(scene: Scene) -> None:
    answer = scene.ask("plain", "/hello")
    assert (answer.status, answer.body, answer.field("x-own")) == (203, b"hello\n", "1")
    with scene.connect("plain") as client:
        head = client.send(request("/hello", method="HEAD")).response("HEAD")
        assert (head.field("content-length"), head.body) == ("6", b"")
        assert client.send(request("/hello")).response().body == b"hello\n"


def test_edits_reach_a_fixed_answer_without_fields_of_its_own(scene: Scene) -> None:
    answer = scene.ask("plain", "/bare")
    assert (answer.field("x-edit"), answer.body) == ("yes", b"b")


def test_a_fixed_answer_can_lose_all_its_fields(scene: Scene) -> None:
    with scene.connect("plain") as client:
        for _ in range(2):
            answer = client.send(request("/shorn")).response()
            assert (answer.status, answer.body, answer.all("x-gone")) == (200, b"s", [])
        assert client.buffer == b""


def test_fields_are_edited_both_ways(scene: Scene, origin: Origin) -> None:
    origin.on("/edited", lambda talk, _: bool(talk.send(ok(b"e", "Server: them", "X-Inside: secret", "X-More: 1"))))
    answer = scene.ask("plain", "/edited", "X-Set: theirs", "x-set: again", "X-Rem: 1", "X-Add: one")
    assert (answer.all("server"), answer.all("x-inside"), answer.all("x-more")) == (["us"], [], ["1", "2"])
    (seen,) = origin.seen("/edited")
    assert (seen.all("x-set"), seen.all("x-add"), seen.all("x-rem")) == (["ours"], ["one", "two"], [])
    assert seen.all("host") == ["set.test"]


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/api/x?q=/api", "/v2/x?q=/api"),
        ("/api", "/v2"),
        ("/api/", "/v2/"),
        ("/strip/x", "/x"),
        ("/strip", "/"),
        ("/strip?q", "/?q"),
        ("/strip/a%2Fb", "/a%2Fb"),
    ],
)
def test_a_prefix_is_rewritten(scene: Scene, target: str, sent: str) -> None:
    assert told(scene.ask("plain", target)).target == sent


@pytest.mark.parametrize("kind", ["keep", "backend", "name"])
def test_the_host_sent_upstream(scene: Scene, origin: Origin, kind: str) -> None:
    seen = told(scene.ask("plain", f"/host/{kind}", "X-Host: x"))
    assert seen.all("host") == [{"keep": "a", "backend": f"127.0.0.1:{origin.port}", "name": "inner.test:81"}[kind]]
    assert seen.field("x-forwarded-host") == "a"


def test_an_old_client_without_host(scene: Scene, origin: Origin) -> None:
    for kind, host in (("keep", f"127.0.0.1:{origin.port}"), ("name", "inner.test:81")):
        with scene.connect("plain") as client:
            client.send(f"GET /host/{kind} HTTP/1.0\r\n\r\n")
            assert told(client.response()).all("host") == [host]


def unix_talk(path: Path) -> Talk:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(8)
    sock.connect(str(path))
    return Talk(sock)


def test_unix_sockets_on_both_sides(scene: Scene) -> None:
    with unix_talk(scene.daemon.folder / "front") as client:
        for _ in range(2):
            seen = told(client.send(request("/unix", "X-Forwarded-For: 10.1.1.1")).response())
        assert seen.field("x-forwarded-for") == "unknown"
        assert seen.field("host") == "a"
        client.send("GET /unix HTTP/1.0\r\n\r\n")
        assert told(client.response()).field("host") == "localhost"
    assert scene.logged(listener="unix")["client"] == "unix"


def test_a_client_of_a_unix_socket_is_in_no_network(scene: Scene) -> None:
    with unix_talk(scene.daemon.folder / "front") as client:
        assert client.send(request("/c")).response().status == 404


def test_ipv6_on_both_sides(scene: Scene) -> None:
    seen = told(scene.ask("v6", "/v6"))
    assert seen.field("x-forwarded-for") == "::1"
    assert told(scene.ask("v6", "/c")).target == "/c"
    assert scene.logged(listener="v6")["client"] == "::1"


def test_a_listener_serves_only_its_routes_on_all_its_addresses(scene: Scene) -> None:
    assert scene.ask("both", "/exact").status == 200
    assert scene.ask("both", "/prefix").status == 404
    with unix_talk(scene.daemon.folder / "second") as client:
        assert client.send(request("/exact")).response().status == 200
