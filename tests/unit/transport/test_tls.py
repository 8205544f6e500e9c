"""TLS contexts, by real handshakes over loopback and by the words of their refusals."""

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from balancer.config import model
from balancer.transport.tls import client_context, hold_unread, server_context
from tests.support.certificates import Pair, authority, issued, openssl

PATIENCE = 20.0


@dataclass
class Meeting:
    """What both sides of one connection saw."""

    names: tuple[str, ...]
    version: str | None
    cipher: str
    alpn: str | None
    client: dict[str, Any] | None
    resumed: bool
    session: ssl.SSLSession | None


def meet(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str | None = None, session: ssl.SSLSession | None = None
) -> Meeting:
    """One connection over loopback on which a byte is echoed; an error of either side is raised."""

    def serve() -> dict[str, Any] | None:
        connection, _ = listening.accept()
        connection.settimeout(PATIENCE)
        with connection, server.wrap_socket(connection, server_side=True) as secured:
            secured.sendall(secured.recv(1))
            return secured.getpeercert()

    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
        listening.settimeout(PATIENCE)
        served = pool.submit(serve)
        try:
            with socket.create_connection(listening.getsockname(), PATIENCE) as plain:
                with client.wrap_socket(plain, server_hostname=name, session=session) as secured:
                    secured.sendall(b"x")
                    if secured.recv(1) != b"x":
                        raise ConnectionResetError("the server closed the connection")
                    names = tuple(value for _, value in (secured.getpeercert() or {}).get("subjectAltName", ()))
                    cipher = (secured.cipher() or ("",))[0]
                    return Meeting(
                        names,
                        secured.version(),
                        cipher,
                        secured.selected_alpn_protocol(),
                        served.result(PATIENCE),
                        bool(secured.session_reused),
                        secured.session,
                    )
        except ssl.SSLCertVerificationError:
            raise
        except OSError:
            if (error := served.exception(PATIENCE)) is not None and isinstance(error, ssl.SSLError):
                raise error from None
            raise


def listener(*pairs: Pair, **more: Any) -> ssl.SSLContext:
    """A server context with these certificates."""
    files: dict[str, bytes] = {}
    certificates = []
    for number, pair in enumerate(pairs):
        files |= {f"{number}.pem": pair.cert, f"{number}.key": pair.key}
        certificates.append(model.Certificate(cert=f"{number}.pem", key=f"{number}.key"))
    files["ca.pem"] = authority().cert
    return server_context(model.ListenerTls(certificates=tuple(certificates), **more), files)


def visitor(**more: Any) -> ssl.SSLContext:
    """An ordinary client that trusts the test authority."""
    context = ssl.create_default_context(cadata=authority().cert.decode())
    context.check_hostname = more.pop("check_hostname", True)
    for key, value in more.items():
        setattr(context, key, value)
    return context


def with_certificate(pair: Pair) -> ssl.SSLContext:
    context = visitor(check_hostname=False)
    context.load_cert_chain(pair.cert_path, pair.key_path)
    return context


@pytest.fixture(scope="module")
def several() -> ssl.SSLContext:
    """Three certificates: the first for unknown names, an exact one, one with a wildcard and more names."""
    return listener(issued("first.test"), issued("a.wild.test"), issued("*.wild.test", "Other.Test"))


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ("first.test", ("first.test",)),
        ("a.wild.test", ("a.wild.test",)),
        ("A.WILD.test", ("a.wild.test",)),
        ("b.wild.test", ("*.wild.test", "Other.Test")),
        ("B.Wild.Test", ("*.wild.test", "Other.Test")),
        ("other.test", ("*.wild.test", "Other.Test")),
        ("x.b.wild.test", ("first.test",)),
        ("wild.test", ("first.test",)),
        ("unknown.test", ("first.test",)),
        (None, ("first.test",)),
    ],
)
def test_a_client_is_served_the_certificate_for_the_name_that_it_asks_for(
    several: ssl.SSLContext, asked: str | None, got: tuple[str, ...]
) -> None:
    assert meet(several, visitor(check_hostname=False), asked).names == got


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_names_choose_certificates_in_both_versions(several: ssl.SSLContext, newest: ssl.TLSVersion) -> None:
    meeting = meet(several, visitor(maximum_version=newest), "b.wild.test")
    assert meeting.names == ("*.wild.test", "Other.Test")
    assert meeting.version == {ssl.TLSVersion.TLSv1_2: "TLSv1.2", ssl.TLSVersion.TLSv1_3: "TLSv1.3"}[newest]
    assert meeting.alpn is None
    assert "GCM" in meeting.cipher or "CHACHA20" in meeting.cipher


def test_a_common_name_counts_where_there_is_no_other() -> None:
    context = listener(issued("first.test"), issued(common_name="Old.Test"), issued("san.test", common_name="cn.test"))
    client = visitor(check_hostname=False)
    first = meet(context, client, "first.test").names
    assert meet(context, client, "old.test").names == ()
    assert meet(context, client, "cn.test").names == first


@pytest.mark.parametrize("key", ["rsa", "ed25519"])
def test_other_kinds_of_keys_serve_too(key: str) -> None:
    assert meet(listener(issued("k.test", key=key)), visitor(), "k.test").names == ("k.test",)


def test_an_rsa_key_serves_tls_1_2() -> None:
    client = visitor(maximum_version=ssl.TLSVersion.TLSv1_2)
    assert meet(listener(issued("k.test", key="rsa")), client, "k.test").cipher.startswith("ECDHE-RSA-")


def test_http_1_1_is_agreed_upon_when_the_client_offers_it() -> None:
    client = visitor()
    client.set_alpn_protocols(["h2", "http/1.1"])
    assert meet(listener(issued("a.test")), client, "a.test").alpn == "http/1.1"


def test_a_client_older_than_the_least_version_is_refused() -> None:
    client = visitor(maximum_version=ssl.TLSVersion.TLSv1_2)
    with pytest.raises(ssl.SSLError):
        meet(listener(issued("a.test"), min_version="1.3"), client, "a.test")
    assert meet(listener(issued("a.test"), min_version="1.2"), client, "a.test").version == "TLSv1.2"


def test_ciphers_without_forward_secrecy_are_refused() -> None:
    client = visitor(maximum_version=ssl.TLSVersion.TLSv1_2)
    client.set_ciphers("AES128-GCM-SHA256:ECDHE-RSA-AES128-SHA")
    with pytest.raises(ssl.SSLError):
        meet(listener(issued("a.test", key="rsa")), client, "a.test")


def test_compression_and_renegotiation_are_off() -> None:
    for context in (listener(issued("a.test")), client_context(model.PoolTls(verify=False), {})):
        assert context.options & ssl.OP_NO_COMPRESSION
        assert context.options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_required_client_certificate_is_required_and_verified(newest: ssl.TLSVersion) -> None:
    context = listener(issued("first.test"), issued("second.test"), client_ca="ca.pem")
    good = with_certificate(issued("me.test", usage="clientAuth"))
    strange = with_certificate(issued("me.test", ca="another authority"))
    for name in ("first.test", "second.test"):
        for client in (good, strange, bare := visitor()):
            client.maximum_version = newest
        assert (meet(context, good, name).client or {})["subjectAltName"] == (("DNS", "me.test"),)
        for client in (strange, bare):
            with pytest.raises(ssl.SSLError):
                meet(context, client, name)


def test_an_optional_client_certificate_may_be_missing_but_not_wrong() -> None:
    context = listener(issued("a.test"), client_ca="ca.pem", client_auth="optional")
    assert not meet(context, visitor(), "a.test").client
    assert meet(context, with_certificate(issued("me.test", usage="clientAuth")), "a.test").client
    with pytest.raises(ssl.SSLError):
        meet(context, with_certificate(issued("me.test", ca="another authority")), "a.test")


@pytest.mark.parametrize("name", ["first.test", "second.test"])
def test_a_session_is_resumed_also_with_a_client_certificate(name: str) -> None:
    context = listener(issued("first.test"), issued("second.test"), client_ca="ca.pem")
    client = with_certificate(issued("me.test", usage="clientAuth"))
    client.maximum_version = ssl.TLSVersion.TLSv1_2  # 1.3 hands out its tickets after the handshake
    first = meet(context, client, name)
    again = meet(context, client, name, first.session)
    assert (first.resumed, again.resumed) == (False, True)
    assert again.client == first.client


def wrong(**files: bytes) -> str:
    """The refusal of a certificate `c.pem` with key `c.key`, whose contents are given."""
    named = {name.replace("_", "."): content for name, content in files.items()}
    with pytest.raises(ValueError) as caught:
        server_context(
            model.ListenerTls(certificates=(model.Certificate(cert="c.pem", key="c.key"),), client_ca="ca.pem"),
            {"ca.pem": authority().cert, **named},
        )
    return str(caught.value)


def cut(pem: bytes) -> bytes:
    """The same PEM with its middle lines gone."""
    lines = pem.splitlines(keepends=True)
    return b"".join(lines[:2] + lines[-1:])


def test_each_thing_that_can_be_wrong_with_files_names_the_file() -> None:
    good, other = issued("a.test"), issued("b.test")
    assert wrong(c_key=good.key) == "c.pem: not read; it must be a PEM file"
    assert wrong(c_pem=b"", c_key=good.key).startswith("c.pem: holds no PEM CERTIFICATE")
    assert wrong(c_pem=good.key, c_key=good.key).startswith("c.pem: holds no PEM CERTIFICATE")
    assert wrong(c_pem=good.cert, c_key=good.cert).startswith("c.key: holds no PEM PRIVATE KEY")
    assert wrong(c_pem=cut(good.cert), c_key=good.key).startswith("c.pem: not a usable PEM certificate")
    assert wrong(c_pem=good.cert, c_key=cut(good.key)).startswith("c.pem with c.key: not usable")
    assert wrong(c_pem=good.cert, c_key=other.key) == "c.key: not the key of the certificate in c.pem"
    assert wrong(c_pem=good.cert, c_key=good.key, ca_pem=b"none").startswith("ca.pem: holds no PEM CERTIFICATE")
    assert wrong(c_pem=good.cert, c_key=good.key, ca_pem=cut(good.cert)).startswith(
        "ca.pem: not a usable PEM file of CA"
    )


def test_a_key_of_another_kind_is_not_the_certificates_key() -> None:
    assert "c.key" in wrong(c_pem=issued("a.test").cert, c_key=issued("k.test", key="rsa").key)


def test_an_encrypted_key_is_refused_without_asking_for_a_passphrase(tmp_path: Path) -> None:
    pair, encrypted = issued("a.test"), tmp_path / "encrypted.key"
    openssl("pkey", "-in", pair.key_path, "-aes256", "-passout", "pass:x", "-out", encrypted)
    refusal = wrong(c_pem=pair.cert, c_key=encrypted.read_bytes())
    assert refusal == "c.key: the key is encrypted; give one without a passphrase"


def test_an_expired_certificate_is_refused_unless_time_is_not_checked() -> None:
    pair = issued("old.test", expired=True)
    assert wrong(c_pem=pair.cert, c_key=pair.key) == "c.pem: expired on Jan  2 00:00:00 2020 GMT; renew it"
    context = server_context(
        model.ListenerTls(certificates=(model.Certificate(cert="c", key="k"),)),
        {"c": pair.cert, "k": pair.key},
        check_time=False,
    )
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        meet(context, visitor(), "old.test")


def test_a_certificate_that_is_not_valid_yet_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = issued("a.test")
    monkeypatch.setattr("balancer.transport.tls.wall", lambda: 1e9)
    assert wrong(c_pem=pair.cert, c_key=pair.key).startswith("c.pem: not valid before ")


def test_a_certificate_only_for_clients_cannot_serve() -> None:
    pair = issued("me.test", usage="clientAuth")
    assert wrong(c_pem=pair.cert, c_key=pair.key).startswith("c.pem: cannot serve TLS")


def test_a_listener_without_certificates_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one cert and key"):
        server_context(model.ListenerTls(certificates=()), {})


def test_text_around_the_blocks_may_be_in_any_encoding() -> None:
    pair = issued("a.test")
    noisy = Pair(pair.cert_path, pair.key_path)
    files = {"c": "Zertifikat für a.test\n".encode("latin-1") + noisy.cert, "k": b"# \xff\n" + noisy.key}
    context = server_context(model.ListenerTls(certificates=(model.Certificate(cert="c", key="k"),)), files)
    assert meet(context, visitor(), "a.test").names == ("a.test",)


def test_no_descriptor_stays_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    listener(issued("a.test"), issued("b.test"))
    wrong(c_pem=issued("a.test").cert, c_key=issued("b.test").key)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_backend_is_verified_against_the_given_authority_and_name() -> None:
    backend = listener(issued("api.internal", "127.0.0.1"))
    context = client_context(model.PoolTls(ca="ca.pem"), {"ca.pem": authority().cert})
    meeting = meet(backend, context, "api.internal")
    assert (meeting.alpn, meeting.names[0]) == ("http/1.1", "api.internal")
    assert meet(backend, context, "127.0.0.1").names[0] == "api.internal"
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        meet(backend, context, "other.internal")
    stranger = client_context(model.PoolTls(ca="ca.pem"), {"ca.pem": authority("another authority").cert})
    with pytest.raises(ssl.SSLCertVerificationError):
        meet(backend, stranger, "api.internal")


def test_the_systems_authorities_are_the_default_and_do_not_know_ours() -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        meet(listener(issued("api.internal")), client_context(model.PoolTls(), {}), "api.internal")


def test_verification_can_be_turned_off() -> None:
    backend = listener(issued("api.internal"))
    assert meet(backend, client_context(model.PoolTls(verify=False), {}), "whatever.test").version
    assert meet(backend, client_context(model.PoolTls(verify=False), {})).version


def test_a_certificate_of_ours_is_shown_to_the_backend() -> None:
    backend = listener(issued("api.internal"), client_ca="ca.pem")
    pair = issued("balancer.test", usage="clientAuth")
    files = {"ca.pem": authority().cert, "c.pem": pair.cert, "c.key": pair.key, "both.pem": pair.cert + pair.key}
    for tls in (
        model.PoolTls(ca="ca.pem", cert="c.pem", key="c.key"),
        model.PoolTls(ca="ca.pem", cert="both.pem"),
    ):
        client = meet(backend, client_context(tls, files), "api.internal").client
        assert client is not None
        assert client["subjectAltName"] == (("DNS", "balancer.test"),)


def test_a_client_certificate_that_cannot_be_used_names_its_file() -> None:
    pair, other = issued("a.test"), issued("b.test")
    files = {"c.pem": pair.cert, "c.key": other.key}
    with pytest.raises(ValueError, match=r"c\.key: not the key of the certificate in c\.pem"):
        client_context(model.PoolTls(cert="c.pem", key="c.key"), files)
    with pytest.raises(ValueError, match=r"nowhere\.pem: not read"):
        client_context(model.PoolTls(ca="nowhere.pem"), files)


class Reader(asyncio.Protocol):
    """Counts what arrives, pauses at the first bytes if asked to, and notes how the connection ended."""

    def __init__(self, pause: float = 0.0) -> None:
        self.pause = pause
        self.received = 0
        self.eof = False
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        hold_unread(transport)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if self.pause:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(self.pause, self.transport.resume_reading)
            self.pause = 0.0

    def eof_received(self) -> None:
        self.eof = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(exc)


def end_at_once(secured: ssl.SSLSocket, *, properly: bool) -> None:
    """FIN, after close_notify if `properly`, without waiting for the other side's."""
    secured.settimeout(0)
    if properly:
        with suppress(ssl.SSLWantReadError):
            secured.unwrap()
    with socket.socket(fileno=secured.detach()) as plain:
        plain.shutdown(socket.SHUT_WR)
        plain.settimeout(PATIENCE)
        with suppress(OSError):
            while plain.recv(65536):
                pass


def read_from(
    new_loop: Callable[[], asyncio.AbstractEventLoop], parts: list[int], *, properly: bool, pause: float = 0.0
) -> Reader:
    """What our side saw of a backend that sends parts of these sizes, the second once the first was read, and ends."""
    backend = listener(issued("api.internal"))
    context = client_context(model.PoolTls(ca="ca.pem"), {"ca.pem": authority().cert})
    first_read = threading.Event()

    def serve() -> None:
        connection, _ = listening.accept()
        connection.settimeout(PATIENCE)
        secured = backend.wrap_socket(connection, server_side=True)
        for part in parts:
            secured.sendall(b"x" * part)
            assert first_read.wait(PATIENCE)
        end_at_once(secured, properly=properly)

    async def ask() -> Reader:
        loop = asyncio.get_running_loop()
        host, port = listening.getsockname()
        _, reader = await loop.create_connection(
            lambda: Reader(pause), host, port, ssl=context, server_hostname="api.internal"
        )
        async with asyncio.timeout(PATIENCE):
            while reader.received < parts[0]:
                await asyncio.sleep(0.001)
            first_read.set()
            await asyncio.wait([reader.ended])
        return reader

    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
        listening.settimeout(PATIENCE)
        served = pool.submit(serve)
        loop = new_loop()
        try:
            return loop.run_until_complete(ask())
        finally:
            first_read.set()
            loop.close()
            served.result(PATIENCE)


LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.mark.parametrize("properly", [True, False])
def test_uvloop_calls_eof_received_for_close_notify_and_not_for_a_cut(properly: bool) -> None:
    reader = read_from(uvloop.new_event_loop, [4], properly=properly)
    assert (reader.received, reader.eof) == (4, properly)


@pytest.mark.parametrize("new_loop", LOOPS)
@pytest.mark.parametrize("properly", [True, False])
def test_bytes_that_arrive_with_the_end_while_reading_is_paused_are_not_lost(
    new_loop: Callable[[], asyncio.AbstractEventLoop], properly: bool
) -> None:
    assert read_from(new_loop, [1000, 100_000], properly=properly, pause=0.3).received == 101_000


@pytest.mark.parametrize("new_loop", LOOPS)
def test_much_data_flows_through_the_least_read_buffer(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    assert read_from(new_loop, [1, 5_000_000], properly=True, pause=0.1).received == 5_000_001


def test_holding_unread_bytes_does_nothing_to_a_plain_transport() -> None:
    hold_unread(asyncio.Transport())
