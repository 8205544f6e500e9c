"""The schema of listeners and routes: where requests come in and what happens to them."""

from typing import Annotated, Any, ClassVar

from balancer.config import addresses
from balancer.config.fields import (
    Body,
    Boolean,
    FilePath,
    HeaderName,
    HeaderValue,
    Host,
    Method,
    Mode,
    Name,
    Network,
    Text,
    UrlPath,
    choice,
    duration,
    duration_or_off,
    integer,
    integer_or_off,
    of,
    one_status,
    size,
    size_or_off,
)
from balancer.config.schema_base import Base, OneOrMany, key


def _tcp(text: str) -> str:
    addresses.bind_address(text)
    return text


def _prefix_or_nothing(text: str) -> str:
    return addresses.url_path(text) if text else ""


class BindForm(Base):
    """An address to listen on. A bare string is the address, or unix:/path."""

    short: ClassVar[str] = "address"

    address: Annotated[str, of("address", _tcp)] | None = key(
        None, description="IP address and port. Unset: when path is given instead."
    )
    path: FilePath | None = key(None, description="Path of a Unix socket. Unset: when address is given instead.")
    mode: Mode | None = key(
        None,
        description="File mode of the Unix socket, in octal. Unset: 0666 for a listener, because who connects needs "
        "write permission and the folder can restrict it; 0600 for the admin API.",
    )

    @classmethod
    def from_short(cls, text: str) -> dict[str, Any]:
        """`unix:/path` is a path, everything else an address."""
        return {"path": text.removeprefix("unix:")} if text.startswith("unix:") else {"address": text}


class Certificate(Base):
    """A certificate chain and its key, both PEM files."""

    cert: FilePath = key(description="PEM file: the certificate, then its chain.", example="site.pem")
    key: FilePath = key(description="PEM file with the key, not encrypted.", example="site.key")


class ListenerTls(Base):
    """TLS towards clients."""

    certificates: list[Certificate] = key(
        description="Chosen by the name that the client asks for; the first one answers unknown names.",
        example="[{cert: site.pem, key: site.key}]",
    )
    min_version: Annotated[str, choice("1.2", "1.3")] = key(
        "1.2", description="Oldest TLS version spoken. 1.2: older ones are broken, and some clients know no newer."
    )
    client_ca: FilePath | None = key(
        None, description="PEM file of the authorities for client certificates. Unset: clients are not asked for one."
    )
    client_auth: Annotated[str, choice("required", "optional")] = key(
        "required", description="Whether a client without a certificate is refused. required: what client_ca is for."
    )


class ListenerLimits(Base):
    """Bounds on what a client may send or hold."""

    head_bytes: Annotated[int, size("1KiB", "1MiB")] = key(
        "64KiB", description="Request line and header fields; more is 431. 64KiB: above what applications accept."
    )
    header_count: Annotated[int, integer(1, 10_000)] = key(
        100, description="Header fields of a request; more is 431. 100: real clients send below 40."
    )
    uri_bytes: Annotated[int, size("64B", "1MiB")] = key(
        "8KiB", description="Request target; longer is 414. 8KiB: RFC 9112 recommends at least 8,000 bytes."
    )
    max_body: Annotated[int | None, size_or_off("1B", "1024TiB")] = key(
        "off", description="Request body; more is 413. off: bodies are streamed, so they cost no memory here."
    )
    max_connections: Annotated[int | None, integer_or_off(1, 10_000_000)] = key(
        "off", description="Connections of this listener, all workers; above it 503. off: the global limit holds."
    )
    max_connections_per_client: Annotated[int | None, integer_or_off(1, 10_000_000)] = key(
        "off",
        description="Connections of one client address, counted by each worker for itself; above it 429. off: "
        "many users may share one address.",
    )
    max_requests_per_connection: Annotated[int, integer(1, 1_000_000_000)] = key(
        10_000,
        description="Requests before the connection is closed. 10000: rare enough to cost nothing, and clients spread "
        "anew over workers.",
    )


class ListenerTimeouts(Base):
    """How long a client may take."""

    head: Annotated[float, duration("1ms", "1h")] = key(
        "10s",
        description="From the first byte of a head to its end, TLS handshake included. 10s, absolute: a client that "
        "sends one byte at a time (slowloris) gains nothing.",
    )
    body_idle: Annotated[float, duration("1ms", "24h")] = key(
        "30s", description="Silence inside a request body. 30s, idle and not total: slow uploads are honest."
    )
    keepalive_idle: Annotated[float, duration("1ms", "24h")] = key(
        "75s",
        description="Idle connection between requests. 75s: above the 60 s of common load balancers in front, so "
        "that they close first and no request meets a closing connection.",
    )
    send: Annotated[float, duration("1ms", "24h")] = key(
        "30s", description="Time during which a client takes no byte of a response. 30s: frees buffers of the stalled."
    )


class Listener(Base):
    """A bound address, or several, and what is served there."""

    bind: Annotated[list[BindForm], OneOrMany()] = key(
        description="Address or list of addresses: host:port, [v6]:port, unix:/path or {path, mode}. Port 0 = any.",
        example="0.0.0.0:8080",
    )
    tls: ListenerTls | None = key(None, description="Serve HTTPS. Unset: plain HTTP.")
    trusted_proxies: list[Network] = key(
        list,
        description="Networks whose X-Forwarded-* and Forwarded fields are believed. Empty: anyone could write them.",
    )
    routes: list[Text] | None = key(
        None, description="Names of the routes served here. Unset: every route, in the order written."
    )
    half_close: Annotated[str, choice("cancel", "allow")] = key(
        "cancel",
        description="What a client's FIN after a complete request means. cancel: the client is gone, as in other "
        "proxies; allow: it still reads.",
    )
    http10_keepalive: Boolean = key(
        False,
        description="Keep connections of HTTP/1.0 clients that ask for it. false: proxies of that age pass the wish "
        "on unread and then hang.",
    )
    forwarded: Boolean = key(
        False,
        description="Also send Forwarded (RFC 7239). false: X-Forwarded-* says the same and is what backends read.",
    )
    limits: ListenerLimits = key(ListenerLimits, description="Bounds on what a client may send.")
    timeouts: ListenerTimeouts = key(ListenerTimeouts, description="How long a client may take.")


class Match(Base):
    """Conditions of a route; every one that is present must hold."""

    hosts: list[Host] = key(
        list,
        description="Names in Host: exact, or *.example.com for any depth below; case, port and trailing dot do not "
        "count. Empty: any.",
    )
    path: UrlPath | None = key(None, description="The whole path. Unset: any.")
    path_prefix: UrlPath | None = key(
        None,
        description="First segments of the path: /v1 matches /v1 and /v1/x, not /v10; /v1/ only what is below. "
        "Unset: any.",
    )
    path_regex: Text | None = key(
        None,
        description="Regular expression (Python syntax) for the whole path, from first to last character. Unset: any.",
    )
    methods: list[Method] = key(list, description="Methods, in capitals; GET lets HEAD through too. Empty: any.")
    headers: dict[HeaderName, HeaderValue] = key(
        dict, description='Header fields and their exact values; "*" = present. Empty: any.'
    )
    query: dict[Text, Text] = key(
        dict, description='Query parameters and their exact values; "*" = present. Empty: any.'
    )
    client: list[Network] = key(list, description="Networks of the client's address. Empty: any.")


class Split(Base):
    """Read/write split."""

    read: Text = key(description="Pool for safe methods: GET, HEAD and OPTIONS.", example="replicas")
    write: Text = key(description="Pool for every other method.", example="primary")


class Redirect(Base):
    """Answer with a Location. A bare string is its target."""

    short: ClassVar[str] = "to"

    to: Text = key(
        description="Target: a path or URL; {scheme}, {host}, {path} and {query} (with its ?) stand for those "
        "of the request.",
        example="https://{host}{path}",
    )
    status: Annotated[int, one_status(301, 302, 303, 307, 308)] = key(
        308, description="Status. 308: permanent, and the method stays what it was."
    )


class Respond(Base):
    """Answer with fixed content."""

    status: Annotated[int, integer(200, 599)] = key(200, description="Status. 200: the plain answer.")
    body: Body = key("", description="Body, at most 64 KiB because it is held in memory. Empty: none.")
    content_type: HeaderValue = key(
        "text/plain; charset=utf-8", description="Content-Type of the body. Plain text: shown as it is, never run."
    )
    headers: dict[HeaderName, HeaderValue] = key(dict, description="Further header fields. Empty: none.")


class HeaderEdits(Base):
    """Edits of header fields, applied in the order remove, set, add."""

    set: dict[HeaderName, HeaderValue] = key(
        dict, description="Fields to set, replacing any of the same name. Empty: none."
    )
    add: dict[HeaderName, HeaderValue] = key(
        dict, description="Fields to add beside any of the same name. Empty: none."
    )
    remove: list[HeaderName] = key(list, description="Fields to remove. Empty: none.")


class RouteHeaders(Base):
    """Edits of the request sent upstream and of the response sent downstream."""

    request: HeaderEdits = key(HeaderEdits, description="Edits of the request sent upstream.")
    response: HeaderEdits = key(HeaderEdits, description="Edits of the response sent downstream.")


class Rewrite(Base):
    """Change of the path before it is sent upstream."""

    strip_prefix: UrlPath = key(
        description="Prefix to cut off, on a segment boundary; a path that lacks it stays.", example="/api"
    )
    replace_prefix: Annotated[str, of("URL path", _prefix_or_nothing)] = key(
        "", description="What stands in its place. Empty: nothing."
    )


class Route(Base):
    """match -> action. Exactly one of pool, split, redirect and respond is the action."""

    name: Name = key(description="Name in metrics, logs and listeners' lists; unique.", example="api")
    match: Match = key(Match, description="Which requests. Without it: every one.")
    pool: Text | None = key(None, description="Action: send to this pool. Unset: another action is given.")
    split: Split | None = key(
        None, description="Action: reads to one pool, writes to another. Unset: another action is given."
    )
    redirect: Redirect | None = key(None, description="Action: answer with a redirect. Unset: another action is given.")
    respond: Respond | None = key(
        None, description="Action: answer with fixed content. Unset: another action is given."
    )
    timeout: Annotated[float | None, duration_or_off("1ms", "24h")] = key(
        "off",
        description="Whole exchange, queue and retries included. off: only the application knows how long is too long.",
    )
    max_body: Annotated[int, size("1B", "1024TiB")] | None = key(
        None, description="Request body on this route, instead of the listener's. Unset: the listener's limit holds."
    )
    fallback: Text | None = key(
        None,
        description="Pool that serves when the route's own has no usable backend. Unset: such requests get 503.",
    )
    retry_non_idempotent: Boolean = key(
        False,
        description="Retry POST and other methods that are not idempotent like the rest. false: a backend may have "
        "done what it was asked before it failed (RFC 9110 section 9.2.2).",
    )
    headers: RouteHeaders = key(RouteHeaders, description="Edits of header fields.")
    rewrite: Rewrite | None = key(None, description="Change of the path sent upstream. Unset: sent as it came.")


ACTIONS = ("pool", "split", "redirect", "respond")
