"""The mixed run's script: which faults, reloads and live changes come when, drawn from a seed, and what they excuse.

Law: at most two of the four origins are out at any time, be it by a fault, by the file or by an operator; and an origin
counts as out for a while after its fault is over, until the proxy can have noticed. So somebody sound is always there,
and a GET has no reason to fail but those that `unexplained` knows.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from random import Random
from typing import Any

from tests.integration.faults.load import Request, Result
from tests.support.faulty_origin import NORMAL, Behaviour

ORIGINS = 4
OUT_MAX = 2
BARRED_MAX = 1
RECOVERY = 4.0  # seconds: an ejection (at most 2.2), its trial and checks
STEP = (0.5, 2.0)  # seconds from one action to the next
FAULT_SECONDS = (0.5, 5.0)
KILLS_APART = 2.0
OLD_WORKER_FROM = 0.4  # share of the run from which on worker 1 is spared: somebody must get old enough to show a leak
RESET_SHARE = 0.05  # of the requests in a window of resets
POOL, STEADY = "web", "steady"

BEHAVIOURS: dict[str, Behaviour] = {
    "refused": replace(NORMAL, listening=False),
    "silent": replace(NORMAL, silent=True),
    "failing": replace(NORMAL, fail=1.0, at_once=True),
    "half_failing": replace(NORMAL, fail=0.5),
    "slow": replace(NORMAL, slowness=30.0),
    "idle_closed": replace(NORMAL, close_idle=0.02),
}
FAULTS = ("killed", "stopped", *BEHAVIOURS)
BAD_FILES = ("no_yaml", "no_mapping", "unknown_key", "unknown_strategy", "unknown_pool", "twice", "duration", "bytes")
STRATEGIES = ("round_robin", "random", "weighted", "weighted_random", "least_connections")


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """What a configuration file of the run says. `number` is what GET /number answers while it is in use.

    `weights` has the weight of each origin; None = the file does not name it.
    """

    number: int = 0
    weights: tuple[int | None, ...] = (1,) * ORIGINS
    strategy: str = "round_robin"
    interval: float = 1.0
    check_timeout: float = 0.5
    unhealthy_after: int = 2
    first_byte: float = 1.0
    idle: float = 0.5
    slow_start: str = "1s"
    consecutive_failures: int = 5

    def words(self) -> str:
        """Its own values, for the printed schedule."""
        weights = ",".join("-" if weight is None else str(weight) for weight in self.weights)
        return f"#{self.number} weights {weights} {self.strategy} first_byte {self.first_byte:g} slow {self.slow_start}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One thing to do, `at` seconds after the load began. What does not apply to its kind is left at its default."""

    at: float
    kind: str
    origin: int = -1
    slot: int = -1
    seconds: float = 0.0
    weight: int = -1
    file: File | None = None
    bad: str = ""
    via: str = ""  # a reload's way: signal | api

    def words(self) -> str:
        """One line of the printed schedule."""
        parts = [f"{self.at:7.2f} {self.kind}"]
        parts += [f"origin {self.origin}"] if self.origin >= 0 else []
        parts += [f"worker {self.slot}"] if self.slot >= 0 else []
        parts += [f"for {self.seconds:.1f} s"] if self.seconds else []
        parts += [f"to {self.weight}"] if self.weight >= 0 else []
        parts += [f"{self.file.words()}"] if self.file else []
        parts += [word for word in (self.bad, self.via) if word]
        return " ".join(parts)


@dataclass(slots=True)
class _Drawing:
    """The state of the world as the schedule knows it. `back` = when each origin's last fault is over and forgotten."""

    rng: Random
    seconds: float
    now: float = 0.0
    file: File = File()
    back: list[float] = field(default_factory=lambda: [0.0] * ORIGINS)
    drained: set[int] = field(default_factory=set)
    weightless: set[int] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    bad_files: list[str] = field(default_factory=list)
    killed: float = -KILLS_APART
    resets_end: float = 0.0

    def barred(self) -> set[int]:
        """Origins that get no traffic by the file's or an operator's wish."""
        absent = {origin for origin, weight in enumerate(self.file.weights) if weight is None}
        return absent | self.drained | self.weightless

    def may_fail(self) -> list[int]:
        """Origins that may become out now."""
        out = self.barred() | {one for one in range(ORIGINS) if self.back[one] > self.now}
        return [one for one in range(ORIGINS) if len(out | {one}) <= OUT_MAX]

    def may_leave(self) -> list[int]:
        """The same by somebody's wish; that leaves room for a fault that traffic meets."""
        barred = self.barred()
        return [one for one in self.may_fail() if len(barred | {one}) <= BARRED_MAX]

    def named(self) -> list[int]:
        return [one for one, weight in enumerate(self.file.weights) if weight is not None]

    def one_of(self, left: list[str], words: Sequence[str]) -> str:
        """Each once, in any order, before one comes again."""
        if not left:
            left += self.rng.sample(words, len(words))
        return left.pop()

    # ---- one method for each kind; None = not possible now

    def fault(self) -> Action | None:
        free = [one for one in self.may_fail() if self.back[one] <= self.now]
        if not free:
            return None
        origin, seconds = self.rng.choice(free), self.rng.uniform(*FAULT_SECONDS)
        self.back[origin] = self.now + seconds + RECOVERY
        return Action(at=self.now, kind=self.one_of(self.faults, FAULTS), origin=origin, seconds=seconds)

    def resets(self) -> Action | None:
        if self.now < self.resets_end:
            return None
        seconds = self.rng.uniform(1.0, 3.0)
        self.resets_end = self.now + seconds
        return Action(at=self.now, kind="resets", seconds=seconds)

    def worker_killed(self) -> Action | None:
        if self.now - self.killed < KILLS_APART:
            return None
        self.killed = self.now
        slots = (0, 1) if self.now < OLD_WORKER_FROM * self.seconds else (0,)
        return Action(at=self.now, kind="worker_killed", slot=self.rng.choice(slots))

    def reload(self) -> Action | None:
        rng = self.rng
        weights = [weight if weight is None else rng.choice((weight, weight, 1, 2, 3)) for weight in self.file.weights]
        toggled = rng.randrange(2 * ORIGINS)  # half of the times nobody comes or goes
        if toggled < ORIGINS and weights[toggled] is None:
            weights[toggled] = 1
            self.back[toggled] = max(self.back[toggled], self.now + RECOVERY)
        elif toggled in self.may_leave():
            weights[toggled] = None
        self.file = File(
            number=self.file.number + 1,
            weights=tuple(weights),
            strategy=rng.choice(STRATEGIES),
            interval=rng.choice((0.5, 1.0)),
            check_timeout=rng.choice((0.4, 0.5)),
            unhealthy_after=rng.choice((2, 3)),
            first_byte=rng.choice((1.0, 1.5)),
            idle=rng.choice((0.3, 0.5, 4.0)),
            slow_start=rng.choice(("off", "1s", "2s")),
            consecutive_failures=rng.choice((3, 5, 7)),
        )
        return Action(at=self.now, kind="reload", file=self.file, via=rng.choice(("signal", "api")))

    def bad_reload(self) -> Action | None:
        via, bad = self.rng.choice(("signal", "api")), self.one_of(self.bad_files, BAD_FILES)
        return Action(at=self.now, kind="bad_reload", file=self.file, bad=bad, via=via)

    def drain(self) -> Action | None:
        free = [one for one in self.may_leave() if one in self.named() and one not in self.drained]
        if not free:
            return None
        origin = self.rng.choice(free)
        self.drained.add(origin)
        return Action(at=self.now, kind="drain", origin=origin)

    def undrain(self) -> Action | None:
        free = [one for one in sorted(self.drained) if one in self.named()]
        if not free:
            return None
        origin = self.rng.choice(free)
        self.drained.discard(origin)
        return Action(at=self.now, kind="undrain", origin=origin)

    def weight(self) -> Action | None:
        origin, weight = self.rng.choice(self.named()), self.rng.randrange(5)
        if weight == 0 and origin not in self.may_leave():
            return None
        if weight:
            self.weightless.discard(origin)
        else:
            self.weightless.add(origin)
        return Action(at=self.now, kind="weight", origin=origin, weight=weight)


_CHANCES: dict[str, int] = {
    "fault": 9,
    "resets": 1,
    "worker_killed": 2,
    "reload": 5,
    "bad_reload": 2,
    "drain": 2,
    "undrain": 4,
    "weight": 2,
}
KINDS = tuple(_CHANCES)


def schedule(seed: int, seconds: float, kinds: Sequence[str] = KINDS) -> list[Action]:
    """What happens in a run of so many seconds. The same for the same arguments, whatever a run does with it."""
    drawing = _Drawing(Random(seed), seconds)
    draw: Mapping[str, Callable[[], Action | None]] = {kind: getattr(drawing, kind) for kind in kinds}
    chances = [_CHANCES[kind] for kind in kinds]
    actions: list[Action] = []
    while (now := drawing.now + drawing.rng.uniform(*STEP)) < seconds:
        drawing.now = now
        tried = (draw[drawing.rng.choices(kinds, chances)[0]]() for _ in range(10))  # not everything is possible now
        actions += list(islice(filter(None, tried), 1))
    return actions


def with_resets(requests: Iterable[Request], actions: Sequence[Action], seconds: float, seed: int) -> list[Request]:
    """The same requests; of those that are due in a window of resets some have their answer broken off."""
    asked = list(requests)
    rng, pause = Random(seed), seconds / len(asked)
    windows = [(action.at, action.at + action.seconds) for action in actions if action.kind == "resets"]
    due = ((place * pause, request) for place, request in enumerate(asked))
    return [
        replace(request, reset=rng.random() < RESET_SHARE and any(start <= at < end for start, end in windows))
        for at, request in due
    ]


# ---- the file


def configuration(file: File, ports: Sequence[int], steady: Sequence[int]) -> dict[str, Any]:
    """The whole file but for the addresses that a daemon keeps: admin, listener and runtime folder are the caller's."""
    backends = [
        {"name": f"origin{place}", "address": f"127.0.0.1:{port}", "weight": weight}
        for place, (port, weight) in enumerate(zip(ports, file.weights, strict=True))
        if weight is not None
    ]
    when = ["connect_failure", "reset", "timeout", 500, 502, 503, 504]
    check = {
        "path": "/healthz",
        "interval": f"{file.interval}s",
        "fast_interval": "200ms",
        "timeout": f"{file.check_timeout}s",
        "healthy_after": 1,
        "unhealthy_after": file.unhealthy_after,
    }
    web = {
        "strategy": file.strategy,
        "backends": backends,
        "timeouts": {"connect": "1s", "first_byte": f"{file.first_byte}s"},
        "keepalive": {"idle": f"{file.idle}s"},
        "health_check": check,
        "outlier_detection": {
            "consecutive_failures": file.consecutive_failures,
            "base_ejection": "1s",
            "max_ejection": "2s",
        },
        "retry": {"attempts": 3, "when": when},
        "slow_start": file.slow_start,
    }
    return {
        "workers": 2,
        "routes": [
            {"name": "number", "match": {"path": "/number"}, "respond": {"body": str(file.number)}},
            {"name": "steady", "match": {"path_prefix": "/steady"}, "pool": STEADY},
            {"name": "all", "pool": POOL},
        ],
        "pools": {
            POOL: web,
            STEADY: {"backends": [f"127.0.0.1:{port}" for port in steady], "keepalive": {"idle": f"{file.idle}s"}},
        },
    }


def spoiled(text: str, how: str) -> bytes:
    """A good file, made bad."""
    match how:
        case "no_yaml":
            text += "\n  - [\n"
        case "no_mapping":
            text = "- just a list\n"
        case "unknown_key":
            text += "\nlisteners_too: {}\n"
        case "unknown_strategy":
            text = text.replace("strategy: ", "strategy: un", 1)
        case "unknown_pool":
            text = text.replace(f"pool: {POOL}", "pool: nobody", 1)
        case "twice":
            text += "\nworkers: 2\n"
        case "duration":
            text = text.replace("connect: 1s", "connect: soon", 1)
    return b"\xff\xfe" + text.encode() if how == "bytes" else text.encode()


# ---- what failed, and why


@dataclass(slots=True)
class Episode:
    """A fault as it really happened, on the clock of the results. `ended` is 0 while it goes on."""

    kind: str
    origin: int
    began: float
    ended: float = 0.0

    def touches(self, sent: float, ended: float) -> bool:
        """Whether something that went on from `sent` to `ended` can have met it."""
        return sent <= (self.ended or ended) + AFTER and ended >= self.began - MOMENT


@dataclass(frozen=True, slots=True)
class Cut:
    """A killed worker: the clients' ports that it served, and when."""

    at: float
    ports: frozenset[int]

    def took(self, port: int, sent: float, ended: float) -> bool:
        """Whether it took this along. What was sent to it before its end was seen counts as that."""
        return port in self.ports and sent <= self.at + MOMENT and ended >= self.at - MOMENT


AFTER = 0.5  # seconds after a fault in which what began in it still ends
MOMENT = 0.25  # seconds until everybody has seen what happened
# How a POST may end that met a fault: it is sent once. What was sent on a connection that ends is a 502.
_POST_ENDS: dict[str, set[str]] = {
    "killed": {"502"},
    "refused": {"502"},
    "idle_closed": {"502"},
    "silent": {"502", "504"},
    "stopped": {"502", "504"},
    "failing": {"500"},
    "half_failing": {"500"},
    "slow": set(),
}


def explanation(result: Result, episodes: Sequence[Episode], cuts: Sequence[Cut]) -> str:
    """Why this failure had to be; empty = it did not."""
    if result.request.reset and result.kind == "truncated":
        return "reset"
    if not result.kind.isdigit() and any(cut.took(result.port, result.sent, result.ended) for cut in cuts):
        return "worker_killed"
    if result.request.method == "POST":
        for episode in episodes:
            if result.kind in _POST_ENDS[episode.kind] and episode.touches(result.sent, result.ended):
                return episode.kind
    return ""


def unexplained(results: Iterable[Result], episodes: Sequence[Episode], cuts: Sequence[Cut]) -> Iterator[Result]:
    """Failures that nothing excuses."""
    return (result for result in results if result.failed and not explanation(result, episodes, cuts))
