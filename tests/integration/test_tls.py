"""TLS on both sides: names, versions, client certificates, large bodies, and every handshake that goes wrong."""

import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from random import Random

import pytest

from tests.support.certificates import authority, issued
from tests.support.scripted import (
    PATIENCE,
    CutError,
    Message,
    Origin,
    Scene,
    Talk,
    elapsed_since,
    eventually,
    ok,
    request,
)

LARGE = 16 * 1024 * 1024


def server_side(*names: str, ca: str = "test authority", client_ca: str = "") -> ssl.SSLContext:
    """What a backend serves."""
    pair = issued(*names, ca=ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert_path, pair.key_path)
    if client_ca:
        context.load_verify_locations(authority(client_ca).cert_path)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_side(
    *, version: ssl.TLSVersion | None = None, certificate: str = "", alpn: tuple[str, ...] = ()
) -> ssl.SSLContext:
    """A client that trusts our test authority; `certificate` names the authority of the one it shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority().cert_path)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if certificate:
        pair = issued("client.test", ca=certificate)
        context.load_cert_chain(pair.cert_path, pair.key_path)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


@pytest.fixture(scope="module")
def origins() -> Iterator[dict[str, Origin]]:
    made = {
        "plain": Origin(),
        "good": Origin(tls=server_side("backend.test", "127.0.0.1")),
        "strange": Origin(tls=server_side("backend.test", "127.0.0.1", ca="strangers")),
        "asking": Origin(tls=server_side("backend.test", client_ca="test authority")),
    }
    yield made
    for origin in made.values():
        origin.close()


@pytest.fixture(scope="module")
def speaks_plainly() -> Iterator[int]:
    """A backend without TLS, which answers a handshake as servers do: 400."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    sock, _ = listener.accept()
                    with Talk(sock) as talk:
                        talk.more()
                        talk.send(ok(status="400 Bad Request"))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)


def listeners() -> dict[str, object]:
    def files(*names: str) -> dict[str, str]:
        pair = issued(*names)
        return {"cert": str(pair.cert_path), "key": str(pair.key_path)}

    first, exact, wild = files("first.test"), files("exact.wild.test"), files("*.wild.test")
    client_ca = str(authority("client authority").cert_path)
    bind = {"bind": "127.0.0.1:0"}
    return {
        "plain": bind,
        "tls": {**bind, "tls": {"certificates": [first, wild, exact]}, "timeouts": {"head": "900ms"}},
        "modern": {**bind, "tls": {"certificates": [first], "min_version": "1.3"}},
        "required": {**bind, "tls": {"certificates": [first], "client_ca": client_ca}},
        "optional": {**bind, "tls": {"certificates": [first], "client_ca": client_ca, "client_auth": "optional"}},
    }


@pytest.fixture(scope="module")
def scene(origins: dict[str, Origin], speaks_plainly: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    ca = str(authority().cert_path)
    pair = issued("balancer.test")

    def pool(origin: str, **tls: object) -> dict[str, object]:
        made: dict[str, object] = {
            "backends": [f"127.0.0.1:{origins[origin].port}"],
            "keepalive": {"idle": "300ms"},
        }
        return {**made, "tls": tls} if tls else made

    pools = {
        "plain": pool("plain"),
        "verified": pool("good", ca=ca, server_name="backend.test"),
        "by-address": pool("good", ca=ca),
        "wrong-name": pool("good", ca=ca, server_name="other.test"),
        "strange": pool("strange", ca=ca, server_name="backend.test"),
        "unverified": pool("strange", verify=False),
        "not-tls": {"backends": [f"127.0.0.1:{speaks_plainly}"], "tls": {"verify": False}},
        "asking": pool("asking", ca=ca, server_name="backend.test", cert=str(pair.cert_path), key=str(pair.key_path)),
        "asking-in-vain": pool("asking", ca=ca, server_name="backend.test"),
    }
    scene = Scene(
        {
            "listeners": listeners(),
            "routes": [{"name": name, "match": {"path_prefix": f"/{name}"}, "pool": name} for name in pools],
            "pools": pools,
        },
        tmp_path_factory.mktemp("tls"),
    )
    yield scene
    try:
        scene.assert_at_rest()
    finally:
        scene.close()


def connect(scene: Scene, listener: str, name: str = "first.test", context: ssl.SSLContext | None = None) -> Talk:
    """A TLS connection whose certificate is checked for `name`."""
    talk = scene.connect(listener)
    talk.sock = (context or client_side()).wrap_socket(talk.sock, server_hostname=name, suppress_ragged_eofs=False)
    return talk


# Towards clients.


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("exact.wild.test", "exact.wild.test"),
        ("EXACT.Wild.test", "exact.wild.test"),
        ("any.wild.test", "*.wild.test"),
        ("a.b.wild.test", "first.test"),
        ("wild.test", "first.test"),
        ("unknown.test", "first.test"),
        ("first.test", "first.test"),
        (None, "first.test"),
    ],
)
def test_the_certificate_is_chosen_by_name(scene: Scene, name: str | None, served: str) -> None:
    context = client_side()
    context.check_hostname = False
    with scene.connect("tls") as talk:
        talk.sock = wrapped = context.wrap_socket(talk.sock, server_hostname=name)
        certificate = wrapped.getpeercert()
        assert certificate
        assert certificate["subjectAltName"] == (("DNS", served),)
        assert talk.send(request("/plain/sni")).response().status == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_are_spoken(scene: Scene, version: ssl.TLSVersion) -> None:
    with connect(scene, "tls", context=client_side(version=version)) as talk:
        assert talk.send(request("/plain/version")).response().status == 200
        assert talk.send(request("/plain/version")).response().status == 200


def test_an_older_version_than_allowed_is_refused(scene: Scene) -> None:
    with pytest.raises(ssl.SSLError):
        connect(scene, "modern", context=client_side(version=ssl.TLSVersion.TLSv1_2))
    with connect(scene, "modern") as talk:
        assert talk.send(request("/plain/modern")).response().status == 200


@pytest.mark.parametrize(
    ("offered", "chosen"), [(("http/1.1",), "http/1.1"), (("h2", "http/1.1"), "http/1.1"), ((), None)]
)
def test_http_1_1_is_the_protocol(scene: Scene, offered: tuple[str, ...], chosen: str | None) -> None:
    with connect(scene, "tls", context=client_side(alpn=offered)) as talk:
        assert isinstance(talk.sock, ssl.SSLSocket)
        assert talk.sock.selected_alpn_protocol() == chosen
        assert talk.send(request("/plain/alpn")).response().status == 200


@pytest.mark.parametrize(
    ("listener", "certificate", "served"),
    [
        ("required", "client authority", True),
        ("required", "", False),
        ("required", "strangers", False),
        ("optional", "client authority", True),
        ("optional", "", True),
        ("optional", "strangers", False),
    ],
)
def test_client_certificates(scene: Scene, listener: str, certificate: str, served: bool) -> None:
    try:
        with connect(scene, listener, context=client_side(certificate=certificate)) as talk:
            # In TLS 1.3 a client learns of its rejection only when it reads.
            status = talk.send(request("/plain/client")).response().status
    except (OSError, CutError):
        status = 0
    assert status == (200 if served else 0)


def test_the_scheme_is_told_to_the_backend(scene: Scene, origins: dict[str, Origin]) -> None:
    with connect(scene, "tls") as talk:
        talk.send(request("/plain/scheme")).response()
    assert origins["plain"].seen("/plain/scheme")[0].field("x-forwarded-proto") == "https"


def test_tls_on_a_plain_port_is_refused_promptly(scene: Scene) -> None:
    start = time.monotonic()
    with pytest.raises(ssl.SSLError):
        connect(scene, "plain")
    assert elapsed_since(start) < 2
    assert scene.logged(listener="plain", status=400)["reason"] == "bad_request"


def test_plain_http_on_a_tls_port_is_closed_promptly(scene: Scene) -> None:
    start = time.monotonic()
    with scene.connect("tls") as talk:
        got, _ = talk.send(request("/plain/x")).rest()
    assert not got.startswith(b"HTTP/1.1 2")
    assert elapsed_since(start) < 0.8, "before the handshake's own timeout"


def test_a_handshake_that_does_not_end_is_ended(scene: Scene) -> None:
    start = time.monotonic()
    with scene.connect("tls") as talk:
        talk.send(b"\x16\x03\x01\x02\x00\x01")
        assert talk.rest()[0] == b""
    assert 0.7 < elapsed_since(start) < 3.5


def test_a_connection_without_a_request_after_its_handshake_is_closed(scene: Scene) -> None:
    start = time.monotonic()
    with connect(scene, "tls") as talk:
        assert talk.rest() == (b"", "fin")
    assert elapsed_since(start) < 3.5


def test_a_refused_request_over_tls_is_answered_and_then_ended(scene: Scene) -> None:
    with connect(scene, "tls") as talk:
        answer = talk.send("GET /plain/x HTTP/1.1\r\n\r\n").response()
        assert (answer.status, answer.field("connection")) == (400, "close")


def test_a_client_that_is_cut_off_hard_cancels_its_exchange(scene: Scene, origins: dict[str, Origin]) -> None:
    gone = threading.Event()

    def script(talk: Talk, _: Message) -> None:
        talk.rest()
        gone.set()

    origins["plain"].on("/plain/gone", script)
    talk = connect(scene, "tls").send(request("/plain/gone"))
    assert eventually(lambda: origins["plain"].seen("/plain/gone"))
    talk.reset()
    assert gone.wait(PATIENCE)
    assert scene.logged(target="/plain/gone")["reason"] == "client_gone"


def test_a_client_that_half_closes_is_gone(scene: Scene, origins: dict[str, Origin]) -> None:
    origins["plain"].on("/plain/half", lambda talk, _: talk.rest() and None)
    with connect(scene, "tls") as talk:
        talk.send(request("/plain/half"))
        assert eventually(lambda: origins["plain"].seen("/plain/half"))
        assert isinstance(talk.sock, ssl.SSLSocket)
        with suppress(OSError):
            talk.sock.unwrap()
        assert scene.logged(target="/plain/half")["status"] == 499


# Large bodies.


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_large_bodies_pass_both_ways_over_tls_on_both_sides(
    scene: Scene, origins: dict[str, Origin], framing: str
) -> None:
    body, path = Random(11).randbytes(LARGE), f"/verified/large-{framing}"

    def script(talk: Talk, message: Message) -> bool:
        assert message.body == body
        if framing == "length":
            talk.send(ok(message.body))
        else:
            talk.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for at in range(0, LARGE, 99_991):
                piece = body[at : at + 99_991]
                talk.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            talk.send(b"0\r\n\r\n")
        return True

    origins["good"].on(path, script)
    with connect(scene, "tls") as talk:
        if framing == "length":
            sent = request(path, method="POST", body=body)
        else:
            sent = request(path, "Transfer-Encoding: chunked", method="POST")
            sent += b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        # Not while another thread reads: OpenSSL's connections are one thread's, and Python 3.11 does not lock them.
        answer = talk.send(sent).response()
    assert answer.status == 200
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(body).digest()


def test_a_body_that_ends_with_its_connection_arrives_whole_at_a_slow_reader(
    scene: Scene, origins: dict[str, Origin]
) -> None:
    """The backend sends and closes while the client does not read: nothing of the end is lost."""
    body = Random(12).randbytes(6 << 20)

    def script(talk: Talk, _: Message) -> None:
        talk.send("HTTP/1.1 200 OK\r\n\r\n")
        talk.send(body)
        assert isinstance(talk.sock, ssl.SSLSocket)
        with suppress(OSError):
            talk.sock.unwrap()

    origins["good"].on("/verified/until-close", script)
    with connect(scene, "tls") as talk:
        talk.send(request("/verified/until-close"))
        threading.Event().wait(0.4)
        assert talk.response().body == body


def test_a_body_cut_without_the_end_of_tls_is_not_taken_for_whole(scene: Scene, origins: dict[str, Origin]) -> None:
    def script(talk: Talk, _: Message) -> None:
        talk.send("HTTP/1.1 200 OK\r\n\r\nhalf")
        talk.sock.shutdown(socket.SHUT_RDWR)  # no close_notify

    origins["good"].on("/verified/truncated", script)
    with connect(scene, "tls") as talk:
        talk.send(request("/verified/truncated"))
        with pytest.raises(CutError) as cut:
            talk.response()
    assert cut.value.how == "reset"
    assert scene.logged(target="/verified/truncated")["reason"] == "upstream_truncated"


def test_a_tls_client_that_stops_reading_does_not_make_us_grow(scene: Scene, origins: dict[str, Origin]) -> None:
    stopped = threading.Event()

    def script(talk: Talk, _: Message) -> None:
        talk.send(f"HTTP/1.1 200 OK\r\nContent-Length: {200 << 20}\r\n\r\n")
        talk.sock.settimeout(0.7)
        try:
            for _ in range(200):
                talk.send(b"s" * (1 << 20))
        except TimeoutError:
            stopped.set()

    origins["good"].on("/verified/endless", script)
    with connect(scene, "tls") as talk:
        talk.send(request("/verified/endless"))
        assert stopped.wait(PATIENCE), "all of it went somewhere"


# Towards backends.


@pytest.mark.parametrize("pool", ["verified", "by-address", "unverified", "asking"])
def test_a_backend_is_reached_over_tls_and_its_connection_used_again(scene: Scene, pool: str) -> None:
    with scene.connect("plain") as talk:
        numbers = [talk.send(request(f"/{pool}/x")).response().field("x-connection") for _ in range(3)]
    assert len(set(numbers)) == 1


@pytest.mark.parametrize("pool", ["wrong-name", "strange", "not-tls"])
def test_a_backend_that_cannot_be_trusted_is_502_tls_failed(
    scene: Scene, origins: dict[str, Origin], pool: str
) -> None:
    answer = scene.ask("plain", f"/{pool}/x")
    assert answer.status == 502
    assert b"certificate" not in answer.raw_head + answer.body, "the client is told nothing of our insides"
    line = scene.logged(target=f"/{pool}/x")
    assert (line["reason"], line["phase"], line["ended_by"]) == ("tls_failed", "connect", "upstream")
    assert all(not origin.seen(f"/{pool}/x") for origin in origins.values()), "the request was not sent"
    assert scene.metric("balancer_upstream_connects_total", pool=pool, result="failed") == 1


def test_a_backend_that_wants_a_certificate_and_gets_none_is_502(scene: Scene) -> None:
    assert scene.ask("plain", "/asking-in-vain/x").status == 502


def test_failed_handshakes_are_no_errors_of_ours(scene: Scene) -> None:
    """Neither side's bad handshake may fill the log with tracebacks."""
    for _ in range(3):
        with scene.connect("tls") as talk:
            talk.send(b"\x16\x03\x01\xff\xff garbage that is no handshake").rest()
        scene.connect("tls").reset()
    assert scene.ask("plain", "/plain/alive").status == 200
    assert "Traceback" not in scene.daemon.stderr
    assert '"error"' not in scene.daemon.stderr
