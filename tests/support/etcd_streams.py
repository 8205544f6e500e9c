"""What streams told, in a form that does not depend on how events were packed into messages.

A watch's messages become one list: created, each event, canceled. The revision in the header of a message with events
is left out: it depends on when the message was made; that it is not before the events is checked here.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from tests.support.etcd_answers import Normal

PROGRESS = "progress"


class StreamFaultError(AssertionError):
    """A message that no stream may have, whatever the other server says."""


def watched(messages: Sequence[Any], normal: Normal) -> dict[str, list[Any]]:
    """What each watch of a stream was told, by its id."""
    told: dict[str, list[Any]] = defaultdict(list)
    for message in messages:
        if "result" not in message:
            told["stream"].append(normal.value(message))
            continue
        result = dict(message["result"])
        watch = result.pop("watch_id", "0")
        events = result.pop("events", [])
        if events:
            _check_events(events, int(result.pop("header")["revision"]))
            told[watch] += [normal.value(event) for event in events]
        if not events or result.keys() - {"fragment"}:
            # Progress of the whole stream stands apart: how it lies between refusals depends on the time.
            told[PROGRESS if result.keys() == {"header"} else watch].append(normal.value(result))
    return dict(told)


def _check_events(events: Sequence[Any], revision: int) -> None:
    revisions = [int(event["kv"]["mod_revision"]) for event in events]
    if revisions != sorted(revisions) or revisions[-1] > revision:
        raise StreamFaultError(f"events of {revisions} in a message of revision {revision}")


def controls(messages: Sequence[Any]) -> int:
    """How many messages are answers to requests, rather than events."""
    return sum("events" not in message.get("result", {}) for message in messages)


def observed(messages: Sequence[Any], normal: Normal) -> list[Any]:
    """The leaders that a stream told of; without headers, whose revisions depend on the time."""
    told = []
    for message in messages:
        result = dict(message.get("result", message))
        result.pop("header", None)
        told.append(normal.value(result))
    return told
