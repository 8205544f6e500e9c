"""The schema of listeners and routes: where requests come in and what happens to them."""

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

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
    size,
    size_or_off,
    one_status,
)
from balancer.config.schema_base import Base


def _listed(value: Any) -> Any:
    """A single value where a list may stand becomes a list of one."""
    return value if isinstance(value, list) or value is None else [value]


def _tcp(text: str) -> str:
    addresses.bind_address(text)
    return text


def _prefix_or_nothing(text: str) -> str:
    return addresses.url_path(text) if text else ""


class BindForm(Base):
    """An address to listen on. A bare string is the address, or unix:/path."""

    short: ClassVar[str] = "address"

    address: Annotated[str, of("address", _tcp)] | None = Field(
        None, description="IP address and port. None: when path is given instead."
    )
    path: FilePath | None = Field(None, description="Path of a Unix socket. None: when address is given instead.")
    mode: Mode | None = Field(
        None,
        description="File mode of the Unix socket, in octal. None: 0666 for a listener, because connecting needs write "
        "permission and the folder can restrict it; 0600 for the admin API.",
    )

    @classmethod
    def from_short(cls, text: str) -> dict[str, Any]:
        """`unix:/path` is a path, everything else an address."""
        return {"path": text.removeprefix("unix:")} if text.startswith("unix:") else {"address": text}


class Certificate(Base):
    """A certificate chain and its key, both PEM files."""

    cert: FilePath = Field(description="PEM file: the certificate, then its chain.", examples=["site.pem"])
    key: FilePath = Field(description="PEM file with the key, not encrypted.", examples=["site.key"])


class ListenerTls(Base):
    """TLS towards clients."""

    certificates: list[Certificate] = Field(
        description="Chosen by the name that the client asks for; the first one answers unknown names.",
        examples=["[{cert: site.pem, key: site.key}]"],
    )
    min_version: Annotated[str, choice("1.2", "1.3")] = Field(
        "1.2", description="Oldest TLS version spoken. 1.2: older ones are broken, and some clients know no newer."
    )
    client_ca: FilePath | None = Field(
        None, description="PEM file of the authorities for client certificates. None: clients are not asked for one."
    )
    client_auth: Annotated[str, choice("required", "optional")] = Field(
        "required", description="Whether a client without a certificate is refused. required: what client_ca is for."
    )


class ListenerLimits(Base):
    """Bounds on what a client may send or hold."""

    head_bytes: Annotated[int, size("1KiB", "1MiB")] = Field(
        "64KiB", description="Request line and header fields; more is 431. 64KiB: above what applications accept."
    )
    header_count: Annotated[int, integer(1, 10_000)] = Field(
        100, description="Header fields of a request; more is 431. 100: real clients send below 40."
    )
    uri_bytes: Annotated[int, size("64B", "1MiB")] = Field(
        "8KiB", description="Request target; longer is 414. 8KiB: RFC 9112 recommends at least 8,000 bytes."
    )
    max_body: Annotated[int | None, size_or_off("1B", "1024TiB")] = Field(
        "off", description="Request body; more is 413. off: bodies are streamed, so they cost no memory here."
    )
    max_connections: Annotated[int | None, integer_or_off(1, 10_000_000)] = Field(
        "off", description="Connections of this listener, all workers; above it 503. off: the global limit holds."
    )
    max_connections_per_client: Annotated[int | None, integer_or_off(1, 10_000_000)] = Field(
        "off",
        description="Connections of one client address; above it 429. off: many users may share one address.",
    )
    max_requests_per_connection: Annotated[int, integer(1, 1_000_000_000)] = Field(
        10_000,
        description="Requests before the connection is closed. 10000: rare enough to cost nothing, and clients spread "
        "anew over workers.",
    )


class ListenerTimeouts(Base):
    """How long a client may take."""

    head: Annotated[float, duration("1ms", "1h")] = Field(
        "10s",
        description="From the first byte of a head to its end, TLS handshake included. 10s, absolute: a client that "
        "sends one byte at a time (slowloris) gains nothing.",
    )
    body_idle: Annotated[float, duration("1ms", "24h")] = Field(
        "30s", description="Silence inside a request body. 30s, idle and not total: slow uploads are honest."
    )
    keepalive_idle: Annotated[float, duration("1ms", "24h")] = Field(
        "75s",
        description="Idle connection between requests. 75s: above the 60 s of common load balancers in front, so "
        "that they close first and no request meets a closing connection.",
    )
    send: Annotated[float, duration("1ms", "24h")] = Field(
        "30s", description="Time during which a client takes no byte of a response. 30s: frees buffers of the stalled."
    )


class Listener(Base):
    """A bound address, or several, and what is served there."""

    bind: Annotated[list[BindForm], BeforeValidator(_listed)] = Field(
        description="Address or list of addresses: host:port, [v6]:port, unix:/path or {path, mode}. Port 0 = any.",
        examples=["0.0.0.0:8080"],
    )
    tls: ListenerTls | None = Field(None, description="Serve HTTPS. None: plain HTTP.")
    trusted_proxies: list[Network] = Field(
        default_factory=list,
        description="Networks whose X-Forwarded-* and Forwarded fields are believed. Empty: anyone could write them.",
    )
    routes: list[Text] | None = Field(
        None, description="Names of the routes served here. None: every route, in the order written."
    )
    half_close: Annotated[str, choice("cancel", "allow")] = Field(
        "cancel",
        description="What a client's FIN after a complete request means. cancel: the client is gone, as in other "
        "proxies; allow: it still reads.",
    )
    http10_keepalive: Boolean = Field(
        False,
        description="Keep connections of HTTP/1.0 clients that ask for it. false: proxies of that age pass the wish "
        "on unread and then hang.",
    )
    forwarded: Boolean = Field(
        False,
        description="Also send Forwarded (RFC 7239). false: X-Forwarded-* says the same and is what backends read.",
    )
    limits: ListenerLimits = Field(default_factory=ListenerLimits, description="Bounds on what a client may send.")
    timeouts: ListenerTimeouts = Field(default_factory=ListenerTimeouts, description="How long a client may take.")


class Match(Base):
    """Conditions of a route; every one that is present must hold."""

    hosts: list[Host] = Field(
        default_factory=list,
        description="Names in Host: exact, or *.example.com for any depth below; case, port and trailing dot do not "
        "count. Empty: any.",
    )
    path: UrlPath | None = Field(None, description="The whole path. None: any.")
    path_prefix: UrlPath | None = Field(
        None, description="First segments of the path: /v1 matches /v1 and /v1/x, not /v10. None: any."
    )
    path_regex: Text | None = Field(
        None, description="Regular expression (Python syntax) for the whole path. None: any."
    )
    methods: list[Method] = Field(default_factory=list, description="Methods, in capitals. Empty: any.")
    headers: dict[HeaderName, HeaderValue] = Field(
        default_factory=dict, description='Header fields and their exact values; "*" = present. Empty: any.'
    )
    query: dict[Text, Text] = Field(
        default_factory=dict, description='Query parameters and their exact values; "*" = present. Empty: any.'
    )
    client: list[Network] = Field(default_factory=list, description="Networks of the client's address. Empty: any.")


class Split(Base):
    """Read/write split."""

    read: Text = Field(description="Pool for safe methods: GET, HEAD and OPTIONS.", examples=["replicas"])
    write: Text = Field(description="Pool for every other method.", examples=["primary"])


class Redirect(Base):
    """Answer with a Location. A bare string is its target."""

    short: ClassVar[str] = "to"

    to: Text = Field(
        description="Target: a path or URL; {host}, {path} and {query} stand for those of the request.",
        examples=["https://{host}{path}"],
    )
    status: Annotated[int, one_status(301, 302, 303, 307, 308)] = Field(
        308, description="Status. 308: permanent, and the method stays what it was."
    )


class Respond(Base):
    """Answer with fixed content."""

    status: Annotated[int, integer(200, 599)] = Field(200, description="Status. 200: the plain answer.")
    body: Body = Field("", description="Body, at most 64 KiB because it is held in memory. Empty: none.")
    content_type: HeaderValue = Field(
        "text/plain; charset=utf-8", description="Content-Type of the body. Plain text: shown as it is, never run."
    )
    headers: dict[HeaderName, HeaderValue] = Field(
        default_factory=dict, description="Further header fields. Empty: none."
    )


class HeaderEdits(Base):
    """Edits of header fields, applied in the order remove, set, add."""

    set: dict[HeaderName, HeaderValue] = Field(
        default_factory=dict, description="Fields to set, replacing any of the same name. Empty: none."
    )
    add: dict[HeaderName, HeaderValue] = Field(
        default_factory=dict, description="Fields to add beside any of the same name. Empty: none."
    )
    remove: list[HeaderName] = Field(default_factory=list, description="Fields to remove. Empty: none.")


class RouteHeaders(Base):
    """Edits of the request sent upstream and of the response sent downstream."""

    request: HeaderEdits = Field(default_factory=HeaderEdits, description="Edits of the request sent upstream.")
    response: HeaderEdits = Field(default_factory=HeaderEdits, description="Edits of the response sent downstream.")


class Rewrite(Base):
    """Change of the path before it is sent upstream."""

    strip_prefix: UrlPath = Field(
        description="Prefix to cut off, on a segment boundary; a path that lacks it stays.", examples=["/api"]
    )
    replace_prefix: Annotated[str, of("URL path", _prefix_or_nothing)] = Field(
        "", description="What stands in its place. Empty: nothing."
    )


class Route(Base):
    """match -> action. Exactly one of pool, split, redirect and respond is the action."""

    name: Name = Field(description="Name in metrics, logs and listeners' lists; unique.", examples=["api"])
    match: Match = Field(default_factory=Match, description="Which requests. Without it: every one.")
    pool: Text | None = Field(None, description="Action: send to this pool. None: another action is given.")
    split: Split | None = Field(
        None, description="Action: reads to one pool, writes to another. None: another action is given."
    )
    redirect: Redirect | None = Field(
        None, description="Action: answer with a redirect. None: another action is given."
    )
    respond: Respond | None = Field(
        None, description="Action: answer with fixed content. None: another action is given."
    )
    timeout: Annotated[float | None, duration_or_off("1ms", "24h")] = Field(
        "off",
        description="Whole exchange, queue and retries included. off: only the application knows how long is too long.",
    )
    max_body: Annotated[int, size("1B", "1024TiB")] | None = Field(
        None, description="Request body on this route, instead of the listener's. None: the listener's limit holds."
    )
    headers: RouteHeaders = Field(default_factory=RouteHeaders, description="Edits of header fields.")
    rewrite: Rewrite | None = Field(None, description="Change of the path sent upstream. None: sent as it came.")


ACTIONS = ("pool", "split", "redirect", "respond")
