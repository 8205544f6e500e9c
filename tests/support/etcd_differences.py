"""Which differences from etcd are permitted: docs/etcd-differences.yaml says so, and here each has its rule."""

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from tests.support.etcd_answers import Outcome
from tests.support.etcd_steps import Await, Call, Page, Step
from tests.support.etcd_streams import PROGRESS

TABLE = Path(__file__).resolve().parent.parent.parent / "docs" / "etcd-differences.yaml"

# Go's encoding/json, gogo's jsonpb and encoding/base64.
_GO_JSON = re.compile(
    r"json: cannot unmarshal |invalid character |unexpected EOF|unexpected end of JSON input|illegal base64 data|"
    r"unknown value |invalid use of |json: invalid use|bad "
)
TOO_LARGE = "etcdserver: request is too large"
_ERROR_FIELDS = {"error", "code", "message"}


Told = dict[str, list[Any]] | list[Any]
NO_WATCH = "-1"


class Differences:
    """The permitted differences, and how often each was needed."""

    def __init__(self) -> None:
        entries = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
        self._versions: dict[str, list[str]] = {entry["id"]: entry["etcd"] for entry in entries}
        self.used: Counter[tuple[str, str]] = Counter()

    @property
    def pairs(self) -> set[tuple[str, str]]:
        """(id, version) of every entry."""
        return {(name, version) for name, versions in self._versions.items() for version in versions}

    def permitted(self, version: str, step: Step, ours: Outcome, theirs: Outcome) -> bool:
        """Whether `ours` is what etcd of that version answers, but for entries of the table, which are then counted."""
        if ours == theirs:
            return True
        used = []
        for name, rewrite in REWRITES.items():
            if version in self._versions[name]:
                changed = rewrite(theirs)
                if changed != theirs:
                    used.append(name)
                    theirs = changed
        if ours != theirs:
            explained = [
                name
                for name, explains in EXPLANATIONS.items()
                if version in self._versions[name] and explains(step, ours, theirs)
            ]
            if not explained:
                return False
            used.append(explained[0])
        self.used.update((name, version) for name in used)
        return True

    def streams_permitted(self, version: str, ours: Told, theirs: Told, *, count: bool = True) -> bool:
        """The same for what a stream told: by watch, or one list."""
        used = []
        for name, reduce in REDUCTIONS.items():
            if ours != theirs and version in self._versions[name]:
                reduced = reduce(ours, theirs)
                if reduced != (ours, theirs):
                    used.append(name)
                    ours, theirs = reduced
        if ours != theirs:
            return False
        if count:
            self.used.update((name, version) for name in used)
        return True


def _with_details(theirs: Outcome) -> Outcome:
    error = theirs.json
    if not isinstance(error, dict) or error.keys() != _ERROR_FIELDS:
        return theirs
    ordered = {"error": error["error"], "code": error["code"], "message": error["message"], "details": []}
    return replace(theirs, text=json.dumps(ordered))


def _precondition_as_400(theirs: Outcome) -> Outcome:
    return replace(theirs, status=400) if theirs.status == 412 else theirs


def _without_cors(theirs: Outcome) -> Outcome:
    return replace(theirs, cors=False)


def _with_reason(theirs: Outcome) -> Outcome:
    if theirs.json != {"health": "true"}:
        return theirs
    return replace(theirs, text=json.dumps({"health": "true", "reason": ""}))


def _larger_than_grpc_takes(theirs: Outcome) -> Outcome:
    error = theirs.json
    if theirs.status != 429 or "larger than max" not in error["message"]:
        return theirs
    told = {"error": TOO_LARGE, "code": 3, "message": TOO_LARGE, "details": []}
    return replace(theirs, status=400, text=json.dumps(told))


def _preflight(step: Step, ours: Outcome, theirs: Outcome) -> bool:
    return isinstance(step, Page) and step.method == "OPTIONS" and (ours.status, theirs.status) == (405, 200)


def _from_elsewhere(step: Step, ours: Outcome, theirs: Outcome) -> bool:
    return isinstance(step, Page) and bool(step.fields) and (ours.status, theirs.status) == (403, 200)


def _other_version(step: Step, ours: Outcome, theirs: Outcome) -> bool:
    if step != Page("GET", "/version") or (ours.status, ours.content_type) != (theirs.status, theirs.content_type):
        return False
    return list(ours.json) == [*theirs.json, "balancer"]


def _not_served(step: Step, ours: Outcome, theirs: Outcome) -> bool:
    return ours.status == 501 and theirs.status in (200, 404) and isinstance(step, Call)


def _granted_to_the_expired(step: Step, ours: Outcome, theirs: Outcome) -> bool:
    return isinstance(step, Await) and theirs.status == 200 and "mutex: session is expired" in ours.text


def _won_by_the_expired(step: Step, ours: Outcome, theirs: Outcome) -> bool:
    return isinstance(step, Await) and theirs.status == 200 and "election: session expired" in ours.text


def _same_fault_in_other_words(step: Step, ours: Outcome, theirs: Outcome) -> bool:
    if (ours.status, ours.content_type) != (theirs.status, theirs.content_type) or not _is_json_error(theirs):
        return False
    return {**ours.json, "error": "", "message": ""} == {**theirs.json, "error": "", "message": ""}


def _only_we_read_the_base64(step: Step, ours: Outcome, theirs: Outcome) -> bool:
    return ours.status == 200 and theirs.status == 400 and "illegal base64" in theirs.text


def _only_we_refuse_the_number(step: Step, ours: Outcome, theirs: Outcome) -> bool:
    return ours.status == 400 and theirs.status == 200 and "expected one of" in ours.text


def _connection_died_of_null(step: Step, ours: Outcome, theirs: Outcome) -> bool:
    return theirs.status == 0 and ours.status == 400 and "None]" in str(step)


def _same_leases(step: Step, ours: Outcome, theirs: Outcome) -> bool:
    mine, other = ours.json, theirs.json
    if not isinstance(mine, dict) or not isinstance(other, dict) or "leases" not in mine or "leases" not in other:
        return False
    for one in (mine, other):
        one["leases"].sort(key=str)
    return ours.status == theirs.status and list(mine.items()) == list(other.items())


def _same_lease_keys(step: Step, ours: Outcome, theirs: Outcome) -> bool:
    mine, other = ours.json, theirs.json
    if not isinstance(mine, dict) or "grantedTTL" not in mine or not isinstance(other, dict):
        return False
    for one in (mine, other):
        one.get("keys", []).sort()
    return ours.status == theirs.status and list(mine.items()) == list(other.items())


def _same_but_for_ties(step: Step, ours: Outcome, theirs: Outcome) -> bool:
    sorting = "sort_target" in str(step) or "sortTarget" in str(step)
    return sorting and ours.status == theirs.status == 200 and _equal_but_for_ties(ours.json, theirs.json)


def _equal_but_for_ties(mine: Any, other: Any) -> bool:
    if isinstance(mine, dict) and isinstance(other, dict) and list(mine) == list(other):
        return all(
            _sorted_alike(mine[name], other[name], mine)
            if name == "kvs"
            else _equal_but_for_ties(mine[name], other[name])
            for name in mine
        )
    if isinstance(mine, list) and isinstance(other, list) and len(mine) == len(other):
        return all(map(_equal_but_for_ties, mine, other))
    return bool(mine == other)


def _sorted_alike(mine: list[Any], other: list[Any], response: Any) -> bool:
    if mine == other:
        return True
    if len(mine) != len(other) or int(response["count"]) < 7:
        return False
    if not response.get("more") and sorted(map(str, mine)) != sorted(map(str, other)):
        return False
    fields = ("version", "create_revision", "mod_revision", "value")
    return any([kv.get(field) for kv in mine] == [kv.get(field) for kv in other] for field in fields)


def _is_json_error(outcome: Outcome) -> bool:
    return isinstance(outcome.json, dict) and _GO_JSON.match(outcome.json.get("message", "")) is not None


def _without_repeated_progress(ours: Told, theirs: Told) -> tuple[Told, Told]:
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        return ours, theirs
    mine, other = ours.get(PROGRESS, []), theirs.get(PROGRESS, [])
    if not mine or len(mine) >= len(other):
        return ours, theirs
    return ours | {PROGRESS: _once(mine)}, theirs | {PROGRESS: _once(other)}


def _once(messages: list[Any]) -> list[Any]:
    return [one for at, one in enumerate(messages) if one not in messages[:at]]


def _without_deletions_at_the_start(ours: Told, theirs: Told) -> tuple[Told, Told]:
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        return ours, theirs
    return {watch: _cut(told, theirs.get(watch)) for watch, told in ours.items()}, theirs


def _cut(told: list[Any], theirs: list[Any] | None) -> list[Any]:
    """Without the deletions that come first, all of one revision, if that makes it `theirs`."""
    if told == theirs or len(told) < 2 or told[1].get("type") != "DELETE":
        return told
    first = told[1]["kv"]["mod_revision"]
    kept = [event for event in told if event.get("type") != "DELETE" or event["kv"]["mod_revision"] != first]
    return kept if kept == theirs else told


def _without_negative_starts(ours: Told, theirs: Told) -> tuple[Told, Told]:
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        return ours, theirs
    refused = [one for one in ours.get(NO_WATCH, []) if "has been compacted" in one.get("cancel_reason", "")]
    canceled = [watch for watch, told in theirs.items() if len(told) == 2 and "compact_revision" in told[1]]
    if not refused or len(refused) != len(canceled):
        return ours, theirs
    rest = [one for one in ours[NO_WATCH] if one not in refused]
    ours = {watch: told for watch, told in ours.items() if watch != NO_WATCH} | ({NO_WATCH: rest} if rest else {})
    return ours, {watch: told for watch, told in theirs.items() if watch not in canceled}


REDUCTIONS: dict[str, Callable[[Told, Told], tuple[Told, Told]]] = {
    "progress-answered-once": _without_repeated_progress,
    "deletions-at-the-compacted-revision": _without_deletions_at_the_start,
    "negative-start-revision": _without_negative_starts,
}
"""What two streams told, without that difference."""

REWRITES: dict[str, Callable[[Outcome], Outcome]] = {
    "no-cors": _without_cors,
    "error-details": _with_details,
    "failed-precondition-status": _precondition_as_400,
    "health-reason": _with_reason,
    "larger-than-grpc-takes": _larger_than_grpc_takes,
}
"""What their answer would be without the difference."""

EXPLANATIONS: dict[str, Callable[[Step, Outcome, Outcome], bool]] = {
    "json-error-texts": _same_fault_in_other_words,
    "base64-alphabets": _only_we_read_the_base64,
    "unknown-enum-numbers": _only_we_refuse_the_number,
    "null-in-arrays": _connection_died_of_null,
    "order-of-leases": _same_leases,
    "order-of-lease-keys": _same_lease_keys,
    "order-of-ties": _same_but_for_ties,
    "no-preflight": _preflight,
    "requests-from-elsewhere": _from_elsewhere,
    "version": _other_version,
    "not-served": _not_served,
    "lock-of-the-expired": _granted_to_the_expired,
    "election-of-the-expired": _won_by_the_expired,
}
"""Whether ours and theirs (rewritten) are those two sides of the difference."""
