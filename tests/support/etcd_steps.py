"""What a sequence of the differential test consists of: steps that every server can be put through.

Bodies are JSON values in which `Rev(3)` stands for the third revision after the sequence began, so that one server
may be used for many sequences. Nothing in a step depends on an answer.
"""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rev:
    """A revision, counted from the one that the store had when the sequence began."""

    after: int
    as_text: bool = True


@dataclass(frozen=True)
class Call:
    """One request, one answer. `body`: a JSON value, or bytes that are sent as they are."""

    path: str
    body: Any


@dataclass(frozen=True)
class Page:
    """A request that is no method of the API, or is asked for from elsewhere."""

    method: str
    path: str
    fields: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Watch:
    """Open the stream `name` of watches with these requests. `answers`: how many etcd answers at least.

    All requests of a stream go out at once, in less than 500 bytes: the HTTP server that etcd 3.4 and 3.5 have reads
    no more of a body once it has begun to answer.
    """

    name: str
    requests: tuple[Any, ...]
    answers: int


@dataclass(frozen=True)
class Wait:
    """A call that may take long, such as for a lock: under way as `name` until an `Await` or a `Leave`.

    `queue`: the prefix under which whoever waits has a key.
    """

    name: str
    path: str
    body: Any
    queue: bytes


@dataclass(frozen=True)
class Await:
    """The call `name` has come to its end, or will soon."""

    name: str


@dataclass(frozen=True)
class Leave:
    """The client of the call `name` closes its connection; its key goes from the queue."""

    name: str


@dataclass(frozen=True)
class Observe:
    """Open the stream `name` of an election's leaders."""

    name: str
    body: Any


@dataclass(frozen=True)
class Observed:
    """The stream `name` has told of a leader's key with this value."""

    name: str
    value: bytes


Step = Call | Page | Watch | Wait | Await | Leave | Observe | Observed


def rendered(value: Any, base: int) -> Any:
    """A body for a server whose store was at revision `base` when the sequence began."""
    match value:
        case Rev(after, as_text):
            return str(base + after) if as_text else base + after
        case dict():
            return {name: rendered(part, base) for name, part in value.items()}
        case list():
            return [rendered(part, base) for part in value]
        case _:
            return value


def shown(step: Step) -> str:
    """A step in one line, for a person."""
    return str(step) if not isinstance(step, Call) else f"{step.path} {_shown_body(step.body)}"


def _shown_body(body: Any) -> str:
    text = repr(body) if isinstance(body, bytes) else json.dumps(body, default=lambda rev: f"base+{rev.after}")
    return text if len(text) < 2000 else f"{text[:1000]}... ({len(text)} characters)"
