"""The load: wrk for requests, an own client for idle connections. Every count is verified against the origin's."""

import http.client
import json
import socket
import ssl
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from loadtest.origin import FILES, Origin
from loadtest.processes import RunError, core_busy_seconds, cpu_seconds, environment, on_core, resident_bytes
from loadtest.proxies import RunningProxy
from loadtest.templates import HERE

CONNECTIONS = 64
LOAD_CORE = 1
PROXY_CORE = 0
UPLOAD = "/upload"
UPLOAD_BYTES = 1024 * 1024
IDLE_CONNECTIONS = 1000
_LOG_SECONDS = 5.0  # the slowest of the three flushes its log every second
FORWARDED = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "Via", "X-Request-Id")

# The ten fields of wrk/request.lua, for the idle clients.
IDLE_REQUEST = "\r\n".join(
    (
        "GET /64 HTTP/1.1",
        "Host: 127.0.0.1",
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Safari/537.36",
        "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
        "Accept-Language: en-US,en;q=0.5",
        "Accept-Encoding: gzip, deflate, br",
        "Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; _ga=GA1.2.123456789.1234567890",
        "Referer: https://www.example.com/some/path/page-0000000000.html",
        "Cache-Control: no-cache",
        "Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "Sec-Fetch-Dest: document",
        "Sec-Fetch-Mode: navigate",
        "\r\n",
    )
).encode("ascii")


@dataclass(frozen=True, slots=True)
class Request:
    """What wrk sends: `script` under loadtest/wrk/ and its arguments."""

    target: str
    method: str = "GET"
    body_bytes: int = 0
    connection: str = "keep-alive"
    tls: bool = False
    script: str = "request.lua"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one proxy. `void` says why its figures do not count; None = they do."""

    cpu_us: float
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    requests: int
    others_share: float  # of the proxy's core, spent on other processes meanwhile
    void: str | None = None


@dataclass(frozen=True, slots=True)
class IdleRun:
    """Growth of resident memory by idle connections, in bytes per connection."""

    bytes_per_connection: float
    base_bytes: int
    connections: int
    void: str | None = None


def wrk_argv(request: Request, proxy: RunningProxy, seconds: int, mode: str) -> list[str]:
    """wrk's command line. One thread: the load has one core, which it shares with the origin."""
    scheme, port = ("https", proxy.tls_port) if request.tls else ("http", proxy.plain_port)
    host = f"127.0.0.1:{port}"
    script = str(HERE / "wrk" / request.script)
    options = ["-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s", "--latency", "-s", script]
    arguments = [request.method, request.target, str(request.body_bytes), host, request.connection, mode]
    return ["wrk", *options, f"{scheme}://{host}{request.target}", "--", *arguments]


def run(request: Request, proxy: RunningProxy, origin: Origin, seconds: int, mode: str = "") -> Run:
    """One run of wrk against `proxy`: what its processes spent, and whether every answer was right."""
    served, logged = origin.settled(), _lines(proxy.access_log)
    busy, cpu = core_busy_seconds(PROXY_CORE), cpu_seconds(proxy.pid)
    with on_core(LOAD_CORE):
        finished = subprocess.run(
            wrk_argv(request, proxy, seconds, mode), capture_output=True, text=True, timeout=seconds + 60,
            env=environment(), check=False,
        )  # fmt: skip
    cpu, busy = cpu_seconds(proxy.pid) - cpu, core_busy_seconds(PROXY_CORE) - busy
    served = origin.settled() - served
    lines = [line for line in finished.stdout.splitlines() if line.startswith("RESULT ")]
    if finished.returncode != 0 or not lines:
        raise RunError(f"wrk failed against {proxy.name}: {finished.stderr.strip() or finished.stdout.strip()}")
    result: dict[str, int] = json.loads(lines[0].removeprefix("RESULT "))
    wall = result["microseconds"] / 1e6
    completed = result["requests"]
    return Run(
        cpu_us=1e6 * cpu / max(1, completed),
        requests_per_second=completed / wall,
        p50_ms=result["p50_us"] / 1e3,
        p99_ms=result["p99_us"] / 1e3,
        requests=completed,
        others_share=max(0.0, busy - cpu) / wall,
        void=_why_void(result, served, request) or _why_log_void(proxy.access_log, logged + completed),
    )


def _why_void(result: dict[str, int], served: int, request: Request) -> str | None:
    """Why a run's figures do not count: an error, an answer that is too short, or counts that do not meet."""
    errors = {name: result[name] for name in ("connect", "read", "write", "timeout", "status") if result[name]}
    completed = result["requests"]
    if errors:
        return "errors: " + ", ".join(f"{name} {count}" for name, count in errors.items())
    if completed == 0:
        return "no request completed"
    if result["bytes"] < completed * FILES.get(request.target, 0):
        return f"{result['bytes']} bytes are too few for {completed} answers"
    each = 2 if request.target == UPLOAD else 1  # the origin counts an upload and its own inner request
    if not completed * each <= served <= (completed + CONNECTIONS) * each:
        return f"wrk completed {completed} requests, the origin got {served} (x{each} due)"
    return None


def _lines(log: Path | None) -> int:
    if log is None or not log.exists():
        return 0
    with log.open("rb") as opened:
        return sum(piece.count(b"\n") for piece in iter(lambda: opened.read(1 << 20), b""))


def _why_log_void(log: Path | None, due: int) -> str | None:
    """A proxy that leaves lines out is not measured with a log: every request has its line soon, or the run is void."""
    if log is None:
        return None
    deadline = time.monotonic() + _LOG_SECONDS
    while (lines := _lines(log)) < due:
        if time.monotonic() > deadline:
            return f"{due - lines} of {due} requests have no line in the access log"
        time.sleep(0.1)
    return None


def verify(proxy: RunningProxy) -> None:
    """Each kind of answer is checked whole once, over plain TCP and TLS, before anything is measured.

    Raises RunError: what answers wrongly or does not add the six fields is not measured.
    """
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE  # the certificate is this run's own
    for connection in (
        http.client.HTTPConnection("127.0.0.1", proxy.plain_port, timeout=10),
        http.client.HTTPSConnection("127.0.0.1", proxy.tls_port, timeout=10, context=trusting),
    ):
        try:
            for target, size in FILES.items():
                _expect(proxy, connection, "GET", target, None, b"d" * size)
            _expect(proxy, connection, "PUT", UPLOAD, b"u" * UPLOAD_BYTES, b"taken\n")
            seen = _answer(proxy, connection, "GET", "/fields", None).decode("latin-1").splitlines()
            missing = [name for name, value in zip(FORWARDED, seen, strict=True) if not value]
            if missing:
                raise RunError(f"{proxy.name} does not add {', '.join(missing)}: the comparison would not be fair")
        finally:
            connection.close()


def _expect(
    proxy: RunningProxy,
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    body: bytes | None,
    due: bytes,
) -> None:
    got = _answer(proxy, connection, method, target, body)
    if got != due:
        raise RunError(f"{proxy.name}: {method} {target} gave {len(got)} bytes that are not the origin's {len(due)}")


def _answer(
    proxy: RunningProxy, connection: http.client.HTTPConnection, method: str, target: str, body: bytes | None
) -> bytes:
    try:
        connection.request(method, target, body)
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as failure:
        raise RunError(f"{proxy.name}: {method} {target} failed: {failure!r}") from failure
    if response.status != 200:
        raise RunError(f"{proxy.name}: {method} {target} answered {response.status} instead of 200")
    return content


def run_idle(proxy: RunningProxy, origin: Origin, connections: int = IDLE_CONNECTIONS) -> IdleRun:
    """Resident memory that `connections` keep-alive clients add after one request each, one after the other.

    200 requests on one connection come first, so that code and pools which load once are not counted as theirs.
    """
    held: list[socket.socket] = []
    try:
        first = _connect(proxy.plain_port)
        held.append(first)
        for _ in range(200):
            _exchange(first, proxy)
        served, base = origin.settled(), resident_bytes(proxy.pid)
        for _ in range(connections):
            held.append(_connect(proxy.plain_port))
            _exchange(held[-1], proxy)
        grown = resident_bytes(proxy.pid) - base
        served = origin.settled() - served
        gone = sum(1 for client in held if _is_closed(client))
    finally:
        for client in held:
            client.close()
    void = None
    if served != connections:
        void = f"{connections} requests were answered, the origin got {served}"
    elif gone:
        void = f"{gone} of {connections} connections were closed by the proxy"
    return IdleRun(grown / connections, base, connections, void)


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def _exchange(client: socket.socket, proxy: RunningProxy) -> None:
    client.sendall(IDLE_REQUEST)
    got = b""
    while b"\r\n\r\n" not in got or len(got.partition(b"\r\n\r\n")[2]) < FILES["/64"]:
        piece = client.recv(65536)
        if not piece:
            raise RunError(f"{proxy.name} closed an idle client's connection inside an answer: {got!r}")
        got += piece
    if not got.startswith(b"HTTP/1.1 200 "):
        raise RunError(f"{proxy.name} answered {got[:60]!r} instead of 200")


def _is_closed(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
