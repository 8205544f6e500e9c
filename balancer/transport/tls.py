"""TLS contexts from configuration and from bytes: files were read elsewhere, nothing is looked up here.

Law: a certificate that would fail with the first client fails here, with its file's name. That is why each one
shakes hands with itself once: it proves chain, key and purpose, and `getpeercert` of that connection is the
only public way in the standard library to the names in a certificate. Cost: one handshake in memory, a few
milliseconds, per certificate and configuration.
"""

import asyncio
import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final

from balancer.clock import wall
from balancer.config import model

_CIPHERS_TLS12: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Forward secrecy and authenticated encryption only; what every browser since 2014 has. TLS 1.3's are all good."""
_NO_CHECK_TIME: Final = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME: the ssl module passes it on but has no name for it."""
_PROTOCOLS: Final = ["http/1.1"]
_STEPS_MAX: Final = 10
"""Rounds of the handshake in memory: TLS 1.2 needs three."""

_Files = Mapping[str, bytes]


def server_context(tls: model.ListenerTls, files: _Files, *, check_time: bool = True) -> ssl.SSLContext:
    """The context of a listener; `files` maps the paths in `tls` to what they hold (PEM).

    A client is served the first certificate whose names cover the one it asks for (exact before wildcard, any
    case; `*` stands for one label), else the first of all. `check_time`: refuse certificates that are not valid
    today; without it a worker can come back while an expired one is still in use, which beats no service.
    Raises ValueError naming the file. Every worker draws its own session ticket keys, so that a session is
    resumed only where it began.
    """
    contexts: dict[str, ssl.SSLContext] = {}
    first: ssl.SSLContext | None = None
    for certificate in tls.certificates:
        context = _base(ssl.PROTOCOL_TLS_SERVER, tls.min_version)
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
        _load_pair(context, certificate.cert, certificate.key, files)
        for name in _names(_described(context, certificate.cert, files, check_time=check_time)):
            contexts.setdefault(name, context)
        if tls.client_ca is not None:
            # Every context needs the CAs: OpenSSL takes the trust of the one that it was switched to.
            _load_ca(context, tls.client_ca, files)
            context.verify_mode = ssl.CERT_REQUIRED if tls.client_auth == "required" else ssl.CERT_OPTIONAL
        first = first or context
    if first is None:
        raise ValueError("tls has no certificate; give at least one cert and key")
    first.sni_callback = _chooser(contexts)
    return first


def client_context(tls: model.PoolTls, files: _Files) -> ssl.SSLContext:
    """The context for a pool's backends: trust in `ca`, else in the system's; a certificate of ours if configured.

    The name to verify is given per connection (`server_hostname`). Raises ValueError naming the file.

    On uvloop `eof_received` is called for close_notify only; a connection that is cut ends in `connection_lost`
    without it, and an answer that lasts until the end of the connection is then incomplete (RFC 9112 section 9.8).
    """
    context = _base(ssl.PROTOCOL_TLS_CLIENT, "1.2")
    if tls.ca is not None:
        _load_ca(context, tls.ca, files)
    elif tls.verify:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert is not None:
        _load_pair(context, tls.cert, tls.key or tls.cert, files)
    return context


def hold_unread(transport: asyncio.BaseTransport) -> None:
    """Lose nothing while reading is paused; call it in `connection_made` of a TLS connection.

    Why: if a peer sends its last bytes and closes while the protocol has paused reading, uvloop throws away what
    it had not delivered yet (0.23; up to 256 KiB, no error). With the least read buffer it pauses the socket
    instead, so that the end is seen after the bytes. It also bounds what TLS holds to one read. Plain
    transports have no such buffer: nothing happens.
    """
    set_limits = getattr(transport, "set_read_buffer_limits", None)
    if set_limits is not None:
        set_limits(high=1, low=0)


def _base(protocol: int, min_version: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if min_version == "1.3" else ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS_TLS12)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(_PROTOCOLS)
    return context


def _chooser(contexts: Mapping[str, ssl.SSLContext]) -> Callable[[ssl.SSLObject, str | None, ssl.SSLContext], None]:
    """The SNI callback. It must not raise, and does not: unknown names keep the first certificate."""

    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name is None:
            return
        name = name.lower().removesuffix(".")
        found = contexts.get(name) or contexts.get("*." + name.partition(".")[2])
        if found is not None:
            connection.context = found

    return choose


def _names(described: dict[str, Any]) -> list[str]:
    """Lower-case DNS names of a certificate; the common name only where there is no alternative (RFC 6125 6.4.4)."""
    names = [value for kind, value in described.get("subjectAltName", ()) if kind == "DNS"]
    if not described.get("subjectAltName"):
        names = [value for part in described.get("subject", ()) for key, value in part if key == "commonName"]
    return [name.lower().removesuffix(".") for name in names]


def _content(path: str, files: _Files, kind: str) -> bytes:
    content = files.get(path)
    if content is None:
        raise ValueError(f"{path}: not read; it must be a PEM file")
    if b"-----BEGIN " not in content or kind.encode("ascii") + b"-----" not in content:
        raise ValueError(f"{path}: holds no PEM {kind}; it must have a line -----BEGIN {kind}-----")
    return content


def _ascii(path: str, content: bytes) -> str:
    try:
        return content.decode("ascii")
    except UnicodeDecodeError:
        # OpenSSL skips text outside the blocks, the ssl module wants ASCII: keep the lines that are.
        return b"\n".join(line for line in content.splitlines() if line.isascii()).decode("ascii")


def _load_ca(context: ssl.SSLContext, path: str, files: _Files) -> None:
    content = _content(path, files, "CERTIFICATE")
    try:
        context.load_verify_locations(cadata=_ascii(path, content))
    except ssl.SSLError as error:
        raise ValueError(f"{path}: not a usable PEM file of CA certificates ({error.reason or error})") from error


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path under which OpenSSL reads `content`, which stays in memory: keys are not written to disk."""
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _load_pair(context: ssl.SSLContext, cert: str, key: str, files: _Files) -> None:
    chain = _content(cert, files, "CERTIFICATE")
    private = _content(key, files, "PRIVATE KEY")

    def no_password() -> str:
        raise ValueError(f"{key}: the key is encrypted; give one without a passphrase")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=_ascii(cert, chain))
    except ssl.SSLError as error:
        raise ValueError(f"{cert}: not a usable PEM certificate ({error.reason or error})") from error
    with ExitStack() as stack:
        paths = [stack.enter_context(_as_file(content)) for content in (chain, private)]
        try:
            context.load_cert_chain(paths[0], paths[1], password=no_password)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise ValueError(f"{key}: not the key of the certificate in {cert}") from error
            raise ValueError(f"{cert} with {key}: not usable ({error.reason or error})") from error


def _described(context: ssl.SSLContext, cert: str, files: _Files, *, check_time: bool) -> dict[str, Any]:
    """What `getpeercert` says of the certificate that `context` serves: names and validity."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself is the anchor
    client.verify_flags = ssl.VerifyFlags(client.verify_flags | _NO_CHECK_TIME)
    client.load_verify_locations(cadata=_ascii(cert, files[cert]))
    try:
        described = _shake_hands(client, context)
    except ssl.SSLError as error:
        raise ValueError(f"{cert}: cannot serve TLS ({error})") from error
    if check_time:
        now = wall()
        if now > ssl.cert_time_to_seconds(described["notAfter"]):
            raise ValueError(f"{cert}: expired on {described['notAfter']}; renew it")
        if now < ssl.cert_time_to_seconds(described["notBefore"]):
            raise ValueError(f"{cert}: not valid before {described['notBefore']}; is this machine's clock right?")
    return described


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> dict[str, Any]:
    """Connect the two in memory; what the client got to know of the server's certificate."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(_STEPS_MAX):
        for side in (near, far):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
        described = near.getpeercert() if near.version() else None
        if described:
            return dict(described)
    raise ssl.SSLError(f"no handshake within {_STEPS_MAX} steps")
