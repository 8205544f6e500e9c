"""Every event that the daemon logs: its name, its fields and what it says. docs/logs.md is checked against this table.

Names are `subject.verb_past`. An event tells of a change of state, never of one request (that is the access log's)
nor of a thing that goes on as before. Fields carry their unit in their name (`duration_ms`). A log call outside
this table fails a test: `log.info(events.WORKER_STARTED, worker=1)`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One row: `fields` are those that the event may carry beside time, level, event, process and exception."""

    name: str
    help: str
    fields: tuple[str, ...] = ()


EVENTS: dict[str, Event] = {}


def _event(name: str, help_text: str, *fields: str) -> str:
    EVENTS[name] = Event(name, help_text, fields)
    return name


DAEMON_STARTED = _event("daemon.started", "All workers serve; the daemon is ready.", "version", "workers", "generation")
DAEMON_STOPPING = _event(
    "daemon.stop_requested", "A signal asked for a stop, or its next phase begins.", "signal", "phase"
)
DAEMON_STOPPED = _event("daemon.stopped", "The last child ended.", "duration_ms")

LISTENER_OPENED = _event("listener.opened", "A reload added an address.", "listener", "address")
LISTENER_CLOSED = _event("listener.closed", "An address takes no more connections.", "listener", "address")

WORKER_STARTED = _event("worker.started", "A worker process was started.", "worker", "pid")
WORKER_READY = _event("worker.became_ready", "A worker serves.", "worker", "pid", "generation")
WORKER_ENDED = _event("worker.ended", "A worker process ended.", "worker", "pid", "code", "signal", "asked")
WORKER_DELAYED = _event(
    "worker.restart_delayed", "A worker that keeps ending waits for its next start.", "worker", "delay_ms", "ends"
)
WORKER_KILLED = _event("worker.killed", "A worker was silent for too long.", "worker", "pid", "silence_ms")
WORKER_FAILED = _event("worker.failed", "A worker did not come up, or did not do what it was told.", "worker", "error")
WORKER_ORPHANED = _event("worker.orphaned", "The supervisor is gone; the worker finishes and ends.", "reason")
DAEMON_CRASHED = _event("daemon.crashed", "The supervisor met an error of its own and ended; the text says where.")
RUNS_AS_ROOT = _event("daemon.runs_as_root", "Started as root without `user`: the data path has all rights of root.")
USER_IGNORED = _event("daemon.user_ignored", "Only root can change to another user; `user` is not followed.", "user")
RELOADED = _event("config.reloaded", "Another configuration is in use.", "generation", "changes", "duration_ms")
RELOAD_UNNEEDED = _event("config.reload_unneeded", "The configuration was read again; nothing differs.", "generation")
RELOAD_REFUSED = _event(
    "config.reload_refused", "A configuration cannot be used; the one in use stays.", "generation", "problems"
)

LIVE_CHANGE_ENDED = _event("live.change_ended", "The file overruled what the operator had changed.", "change")
LIVE_CHANGES_NOT_SAVED = _event(
    "live.not_saved", "Live changes hold, but the next start will not know them.", "path", "error"
)
LIVE_CHANGES_UNREADABLE = _event(
    "live.unreadable", "What the operator had changed before this start cannot be read.", "path", "error"
)

NAME_FAILED = _event(
    "name.resolve_failed", "A backend's host name has no address now.", "pool", "backend", "host", "error"
)

BACKEND_HEALTHY = _event("backend.became_healthy", "Its health checks pass.", "pool", "backend", "address", "evidence")
BACKEND_UNHEALTHY = _event(
    "backend.became_unhealthy", "Its health checks fail.", "pool", "backend", "address", "evidence"
)
BACKEND_EJECTED = _event(
    "backend.ejected",
    "Real traffic showed that it fails; it gets none for a time.",
    "pool",
    "backend",
    "address",
    "cause",
    "evidence",
    "duration_ms",
)
BACKEND_SILENT = _event(
    "backend.fell_silent",
    "Several requests of a worker wait at it and none is answered: it gets no further ones until it answers.",
    "pool",
    "backend",
    "address",
    "waiting",
    "silent_ms",
)
EJECTION_DETECTED = _event(
    "backend.ejection_detected",
    "It would have been ejected or slowed; `kept_by` says why it was not: observe or max_ejected.",
    "pool",
    "backend",
    "address",
    "cause",
    "evidence",
    "kept_by",
)
BACKEND_HALF_OPEN = _event(
    "backend.half_opened",
    "Its ejection is over; one request or health check decides whether it returns.",
    "pool",
    "backend",
    "address",
    "evidence",
)
BACKEND_RETURNED = _event(
    "backend.returned", "It is no longer ejected.", "pool", "backend", "address", "cause", "evidence"
)
BACKEND_SLOWED = _event(
    "backend.slowed",
    "It answers far more slowly than its pool; its share of the traffic is lowered.",
    "pool",
    "backend",
    "address",
    "evidence",
)
BACKEND_SPED_UP = _event(
    "backend.sped_up", "Its share of the traffic is raised again.", "pool", "backend", "address", "evidence"
)
BACKEND_WEIGHT_SET = _event(
    "backend.weight_set", "An operator set its live weight.", "pool", "backend", "weight", "before"
)
BACKEND_DRAIN_BEGAN = _event("backend.drain_began", "An operator drains it.", "pool", "backend")
BACKEND_DRAIN_ENDED = _event("backend.drain_ended", "An operator ended its drain.", "pool", "backend")
PANIC_BEGAN = _event(
    "pool.panic_began", "Too few backends are usable; health and ejections are ignored.", "pool", "evidence"
)
PANIC_ENDED = _event("pool.panic_ended", "Enough backends are usable again.", "pool", "evidence")
POOL_WENT_DOWN = _event("pool.went_down", "No backend is usable; requests get 503.", "pool", "evidence")
POOL_CAME_BACK = _event("pool.came_back", "The pool is no longer down.", "pool", "evidence")

ACCESS_LOG_WRITE_FAILED = _event(
    "access_log.write_failed", "Writing failed; lines are lost until it works again.", "path", "error"
)
ACCESS_LOG_WRITE_RECOVERED = _event("access_log.write_recovered", "Writing works again.", "path")
ACCESS_LOG_REOPENED = _event("access_log.reopened", "The file was opened anew.", "path")
ACCESS_LOG_REOPEN_FAILED = _event(
    "access_log.reopen_failed", "The file cannot be opened; the old one stays in use.", "path", "error"
)

ATTEMPT_FAILED = _event(
    "attempt.failed",
    "An attempt at a backend failed (level debug; the access log has the reason of every exchange).",
    "request_id",
    "pool",
    "backend",
    "reason",
    "detail",
)

PEER_CONNECTED = _event("peer.connected", "Another member takes what we send to it.", "peer", "address")
PEER_LOST = _event(
    "peer.lost",
    "The connection to or from another member ended, or cannot be made; a repeated reason is not logged again.",
    "peer",
    "address",
    "reason",
)
PEER_REFUSED = _event(
    "peer.refused",
    "Two members, or a member and a stranger, do not belong together; both sides log it.",
    "peer",
    "address",
    "reason",
    "refused_by",
)
MEMBER_START_DELAYED = _event(
    "member.start_delayed", "A first start waits for other members, or to be added.", "name", "reason", "unreached"
)
FOUNDING_AGREED = _event(
    "member.founding_agreed", "All listed members are new; this one founds no other cluster.", "name", "cluster"
)
MEMBER_BEGAN = _event("member.began", "It belongs to a cluster and may vote there.", "name", "cluster", "node")
MEMBER_FAILED = _event("member.failed", "It can no longer be trusted with the log, and ends; traffic goes on.", "error")
MEMBER_READY = _event("member.became_ready", "Its API of coordination answers.", "name", "address")
MEMBER_ENDED = _event("member.ended", "The member process ended, and is started again.", "ends", "delay_ms")
MEMBER_SUSPECT = _event(
    "member.became_suspect",
    "Its data cannot be trusted, so it is not started again: what to do was said just before.",
    "data_dir",
)

CLUSTER_CUT_OFF = _event(
    "cluster.was_cut_off",
    "The cluster does not answer this part of the balancer, which goes on with what it knew; it is tried again.",
    "part",
    "error",
)
CLUSTER_REACHED = _event("cluster.was_reached", "The cluster answers this part of the balancer again.", "part")
CHANGE_TAKEN = _event(
    "cluster.change_taken",
    "The cluster says something else of a backend, for all balancers; without weight and drain, nothing any more.",
    *("pool", "backend", "weight", "drained", "by"),
)
KEY_IGNORED = _event(
    "cluster.key_ignored", "What stands at a key cannot be used by this part of the balancer.", "part", "key", "reason"
)
NODE_JOINED = _event("node.joined", "A balancer belongs to those that live, this one included.", "node")
NODE_LEFT = _event("node.left", "A balancer ended, or was not heard of for too long.", "node")
NODE_NAME_TAKEN = _event(
    "node.name_taken",
    "Another process has this balancer's name, which takes no part among those that live until that one is gone.",
    "node",
    "key",
)
CHECKS_FELL_BACK = _event(
    "checks.fell_back",
    "Nothing new was heard of backends that other balancers check; this one checks them itself.",
    "backends",
    "of",
)
CHECKS_SHARED_AGAIN = _event("checks.were_shared_again", "All of them are heard of again.", "of")
DUTY_BEGAN = _event("duty.began", "This balancer does this duty for all of them from now on.", "duty", "token")
DUTY_ENDED = _event("duty.ended", "It does it no more; another balancer may.", "duty", "reason")

REGISTRATION_REFUSED = _event(
    "registration.refused",
    "A key below a pool's prefix is no backend, or its new value cannot be used and the old one stays.",
    "pool",
    "key",
    "problem",
)
REGISTRATION_LEFT_OUT = _event(
    "registration.left_out",
    "Backends registered that are not used; the reason says why. Said once, until all are in use.",
    "pool",
    "backends",
    "count",
    "reason",
)
REGISTRATIONS_NOT_SAVED = _event(
    "registration.not_saved",
    "What registered is in use, but the next start will not know it before the cluster answers.",
    "path",
    "error",
)
REGISTRATIONS_UNREADABLE = _event(
    "registration.unreadable", "What was registered before this start cannot be read from its file.", "path", "error"
)

LIBRARY_LOGGED = _event(
    "library.logged", "A library or the event loop wrote a message of its own.", "logger", "message"
)
