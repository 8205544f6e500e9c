"""The canonical workloads, in the order in which they run."""

from dataclasses import dataclass

from loadtest.load import UPLOAD, UPLOAD_BYTES, Request


@dataclass(frozen=True, slots=True)
class Workload:
    """A named load. `modes` are measured side by side in every round; the first is the one that others relate to.

    A mode reaches wrk's script; one that is a variant of the proxies (proxies.VARIANTS) also starts them so.
    `request` None = idle clients.
    """

    name: str
    what: str
    request: Request | None
    modes: tuple[str, ...] = ("",)
    peers_also: tuple[str, ...] = ()  # further modes of nginx and HAProxy
    ours_only: bool = False


_ALL = (
    Workload("get64", "GET of 64 B, 10 header fields, the same each time", Request("/64")),
    Workload(
        "get64_varying",
        "GET of 64 B, 10 header fields, three of them new each time, beside the same without change",
        Request("/64", script="numbered.lua"),
        ("identical", "varying"),
    ),
    Workload("get10k", "GET of 10 KiB", Request("/10k")),
    Workload("get1m", "GET of 1 MiB", Request("/1m"), peers_also=("buffers",)),
    Workload(
        "put1m",
        "PUT of 1 MiB",
        Request(UPLOAD, method="PUT", body_bytes=UPLOAD_BYTES),
        peers_also=("buffers",),
    ),
    Workload("connect", "GET of 64 B, a new connection for each", Request("/64", connection="close")),
    Workload("tls", "GET of 64 B over TLS 1.3, kept alive", Request("/64", tls=True)),
    Workload("get64_log", "GET of 64 B without and with an access log to a file", Request("/64"), ("off", "log")),
    Workload(
        "get64_guarded",
        "GET of 64 B without and with health checks, ejection, retries and their budget",
        Request("/64"),
        ("bare", "guarded"),
        ours_only=True,
    ),
    Workload("idle", "1,000 idle keep-alive clients after one request each", None),
)
WORKLOADS: dict[str, Workload] = {workload.name: workload for workload in _ALL}
