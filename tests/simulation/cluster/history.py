"""What clients did and heard, and whether one copy of the data, used by one after the other, could have said it.

Answers carry the revision at which they hold, and what every revision changed is known from the first member that
applied it. So each answer is held against the state at its revision, and the order of revisions against that of time
(as etcd's robustness tests do). No knowledge of revisions is used by the second check, in linearizable.py.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf

from balancer.coordination.responses import KeyValue
from balancer.coordination.revision_log import Changes
from tests.simulation.cluster.laws import BrokenLawError


@dataclass(slots=True, eq=False)
class Operation:
    """`kind`: put, delete, cas, get. Times are true ones; `returned` is inf while nothing is known of the outcome.

    `wanted`: what a cas compares with, None = no such key. `found`: what a get, or a cas that failed, was answered.
    `revision`: of the answer; `done`: something changed.
    """

    client: int
    kind: str
    key: bytes
    called: float
    value: bytes | None = None
    wanted: bytes | None = None
    returned: float = inf
    revision: int = 0
    done: bool = False
    found: bytes | None = None


class Truth:
    """Every version of every key by revision, from the changes in their order."""

    def __init__(self, truth: Sequence[tuple[Changes, float]]) -> None:
        self._at = [when for _, when in truth]
        self._versions: dict[bytes, tuple[list[int], list[KeyValue]]] = {}
        self.writes: dict[bytes, int] = {}  # revision by value: values are never used twice
        for revision, (changes, _) in enumerate(truth, 2):
            for kv in changes:
                self._take(revision, kv)

    def _take(self, revision: int, kv: KeyValue) -> None:
        revisions, versions = self._versions.setdefault(kv.key, ([], []))
        before = versions[-1] if versions else KeyValue()
        if kv.version:
            new = not before.version
            due = (revision if new else before.create_revision, revision, before.version + 1)
            if (kv.create_revision, kv.mod_revision, kv.version) != due:
                raise BrokenLawError(f"revision {revision} makes {kv} of {before}")
            if b"." in kv.value and self.writes.setdefault(kv.value, revision) != revision:
                raise BrokenLawError(f"{kv.value!r} was written twice: in {self.writes[kv.value]} and {revision}")
        elif not before.version or kv.mod_revision != revision:
            raise BrokenLawError(f"revision {revision} deletes {kv.key!r}, which was {before}")
        revisions.append(revision)
        versions.append(kv)

    def versions(self, key: bytes) -> list[KeyValue]:
        """All of a key, in order; those with version 0 are deletions."""
        return self._versions.get(key, ([], []))[1]

    @property
    def last(self) -> int:
        """The newest revision."""
        return len(self._at) + 1

    def value(self, key: bytes, revision: int) -> bytes | None:
        """What a key held then."""
        revisions, versions = self._versions.get(key, ([], []))
        at = bisect_right(revisions, revision)
        return versions[at - 1].value if at and versions[at - 1].version else None

    def deleted_in(self, key: bytes, revision: int) -> bool:
        """Whether that revision took it away."""
        return self.value(key, revision) is None and self.value(key, revision - 1) is not None

    def applied_at(self, revision: int) -> float:
        """When the first member came to it."""
        return self._at[revision - 2] if revision > 1 else 0.0


def check_replay(operations: Iterable[Operation], truth: Truth) -> int:
    """Raises BrokenLawError for the first answer that is wrong. How many reads were compared."""
    reads = 0
    finished: list[tuple[float, int]] = []
    known: list[Operation] = []
    for operation in operations:
        if operation.returned == inf:
            _take_unknown(operation, truth)
        else:
            finished.append((operation.returned, operation.revision))
            reads += operation.kind == "get"
        if operation.revision:
            known.append(operation)
    finished.sort()
    _check_order(known, finished)
    for operation in known:
        problem = _problem(operation, truth)
        if problem:
            raise BrokenLawError(f"{problem}: {operation}")
    return reads


def _take_unknown(operation: Operation, truth: Truth) -> None:
    """A write whose outcome was not heard, but can be seen, has its revision as well."""
    if operation.value is not None and operation.value in truth.writes:
        operation.revision = truth.writes[operation.value]
        operation.done = True


def _check_order(operations: Iterable[Operation], finished: Sequence[tuple[float, int]]) -> None:
    """Nobody sees less than what was finished when he asked."""
    at, highest = 0, 0
    for operation in sorted(operations, key=lambda each: each.called):
        while at < len(finished) and finished[at][0] < operation.called:
            highest = max(highest, finished[at][1])
            at += 1
        if operation.revision < highest + operation.done:
            raise BrokenLawError(f"revision {highest} was answered before: {operation}")


def _problem(operation: Operation, truth: Truth) -> str:
    """What is wrong with the answer; "" = nothing."""
    key, revision = operation.key, operation.revision
    if revision > truth.last:
        return f"the last revision is {truth.last}"
    if truth.applied_at(revision) > operation.returned:
        return "nobody had come to that revision yet"
    held = truth.value(key, revision)
    if operation.done:
        if truth.applied_at(revision) < operation.called:
            return "it was done before it was asked for"
        if operation.kind == "delete":
            return "" if truth.deleted_in(key, revision) else "nothing was deleted in that revision"
        if truth.writes.get(operation.value or b"") != revision or held != operation.value:
            return f"that revision holds {held!r}"
        if operation.kind == "cas" and truth.value(key, revision - 1) != operation.wanted:
            return f"before was {truth.value(key, revision - 1)!r}"
        return ""
    if operation.kind == "cas" and held == operation.wanted:
        return "the comparison should have held"
    return "" if held == operation.found else f"the key held {held!r}"
