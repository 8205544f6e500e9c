"""What a real cluster did, as every member told it, and whether what its clients were told fits that.

One watch per member, from the first revision on, notes what each revision changed: through its member's crashes and
its absences. All members must tell the same, without a gap. What the clients did is then checked in the two ways of
tests/simulation/cluster: each answer against the state at its revision, and, without any knowledge of revisions, by
the search for an order in which all answers are right.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from balancer.consensus.client import Coordination
from balancer.consensus.client_errors import NotReachedError, RefusedError
from balancer.coordination.responses import Event, RangeResponse
from balancer.coordination.revision_log import FIRST, Changes
from tests.integration.coordination.real_clients import PAIR, PREFIX, History, partner
from tests.integration.coordination.real_lockers import LOCKS
from tests.simulation.cluster.history import Operation, Truth, check_replay
from tests.simulation.cluster.laws import BrokenLawError
from tests.simulation.cluster.linearizable import check_key
from tests.simulation.cluster.lock_laws import check_fencing


class Tellers:
    """What every revision changed, as the members tell it; raises BrokenLawError where two tell different things."""

    def __init__(self, names: Iterable[str]) -> None:
        self.told = dict.fromkeys(names, FIRST - 1)  # up to which revision, by member
        self._revisions: list[Changes] = []

    @property
    def least(self) -> int:
        """What all have told."""
        return min(self.told.values())

    @property
    def revisions(self) -> list[Changes]:
        """Of the revisions FIRST, FIRST + 1, ..., as far as anybody told."""
        return self._revisions

    def tell(self, name: str, changes: Changes) -> None:
        """This member's next revision."""
        due = self.told[name] + 1
        if {kv.mod_revision for kv in changes} != {due}:
            raise BrokenLawError(f"{name} tells {changes} where revision {due} is due")
        if due - FIRST == len(self._revisions):
            self._revisions.append(changes)
        elif self._revisions[due - FIRST] != changes:
            raise BrokenLawError(f"revision {due}: {name} tells {changes}, others {self._revisions[due - FIRST]}")
        self.told[name] = due

    async def listen(self, name: str, client: Coordination) -> None:
        """For ever. `client` asks this member only."""
        while True:
            try:
                async with client.watch(b"", prefix=True, start_revision=self.told[name] + 1, idle=2.0) as watch:
                    batch: list[Event] = []
                    async for event in watch:
                        batch.append(event)
                        if watch.revision == event.kv.mod_revision:  # the last event of what came together
                            self._take(name, batch)
                            batch = []
            except NotReachedError:
                await asyncio.sleep(0.1)
            except RefusedError as error:
                raise BrokenLawError(f"{name} refuses a watch from {self.told[name] + 1} on: {error}") from None

    def _take(self, name: str, batch: Sequence[Event]) -> None:
        by_revision = defaultdict(list)
        for event in batch:
            by_revision[event.kv.mod_revision].append(event.kv)
        for changes in by_revision.values():
            self.tell(name, tuple(changes))


@dataclass(frozen=True, slots=True)
class Finding:
    """What was compared."""

    revisions: int
    operations: int
    reads: int
    keys: int
    guarded_writes: int


def check(
    history: History, revisions: Sequence[Changes], finals: Mapping[str, RangeResponse], ended: tuple[float, float]
) -> Finding:
    """Raises BrokenLawError for the first thing that does not fit.

    `finals`: what each member answered in the calm at the end, within the times `ended`, to a read of all
    keys under PREFIX.
    """
    truth = truth_of(history.operations, revisions)
    check_nothing_undone(history, truth)
    check_pairs(revisions)
    check_finals(finals, revisions, truth)
    operations = [*history.operations, *_last_reads(revisions, finals, ended)]
    check_explained(operations, revisions)
    reads = check_replay(operations, truth)
    keys = check_keys(operations, truth)
    return Finding(len(revisions), len(operations), reads, keys, check_fencing(truth, LOCKS))


def truth_of(operations: Iterable[Operation], revisions: Sequence[Changes]) -> Truth:
    """With the earliest time at which each revision can have been applied: when it, or one before it, was asked for.

    So `check_replay` finds a revision that was answered before one below it was even asked for.
    """
    called = {each.value: each.called for each in operations if each.value is not None}
    deleted = {each.revision: each.called for each in operations if each.kind == "delete" and each.done}
    timed: list[tuple[Changes, float]] = []
    at = 0.0
    for revision, changes in enumerate(revisions, FIRST):
        at = max((at, deleted.get(revision, 0.0), *(called.get(kv.value, 0.0) for kv in changes if kv.version)))
        timed.append((changes, at))
    return Truth(timed)


def check_nothing_undone(history: History, truth: Truth) -> None:
    """Who is told that nothing was done can rely on it."""
    done = sorted(history.undone & truth.writes.keys())
    if done:
        raise BrokenLawError(
            f"{done[0]!r} was written in revision {truth.writes[done[0]]}; its writer heard it was not"
        )


def check_pairs(revisions: Sequence[Changes]) -> None:
    """Both keys of a pair change in one revision, to one value."""
    for revision, changes in enumerate(revisions, FIRST):
        values = {kv.key: kv.value for kv in changes}
        for key in values:
            other = partner(key)
            if other is not None and values[key] != values.get(other):
                raise BrokenLawError(f"revision {revision} holds half a transaction: {changes}")
            if key.endswith(b"/" + PAIR[1]) and key[: -len(PAIR[1])] + PAIR[0] not in values:
                raise BrokenLawError(f"revision {revision} holds half a transaction: {changes}")


def check_finals(finals: Mapping[str, RangeResponse], revisions: Sequence[Changes], truth: Truth) -> None:
    """Each member holds what the revisions led to, and nothing else."""
    due = {key: value for key in _keys(revisions) if (value := truth.value(key, truth.last)) is not None}
    for name, answer in finals.items():
        if answer.header.revision < truth.last:
            raise BrokenLawError(f"{name} reads at {answer.header.revision}, after {truth.last} was told of")
        found = {kv.key: kv.value for kv in answer.kvs}
        if found != due:
            wrong = min(key for key in {*found, *due} if found.get(key) != due.get(key))
            raise BrokenLawError(f"{name} holds {found.get(wrong)!r} for {wrong!r}, not {due.get(wrong)!r}")


def _keys(revisions: Sequence[Changes]) -> list[bytes]:
    """All that clients ever wrote but for locks."""
    return sorted({kv.key for changes in revisions for kv in changes if kv.key.startswith(PREFIX)})


def _last_reads(
    revisions: Sequence[Changes], finals: Mapping[str, RangeResponse], ended: tuple[float, float]
) -> list[Operation]:
    """A read of every key that clients ever used, at each member: nothing that was acknowledged is lost."""
    last = len(revisions) + FIRST - 1
    reads = []
    for answer in finals.values():
        found = {kv.key: kv.value for kv in answer.kvs}
        for key in _keys(revisions):
            if not key.endswith(b"/" + PAIR[1]):
                read = Operation(-1, "get", key, ended[0], returned=ended[1], revision=last, found=found.get(key))
                reads.append(read)
    return reads


def check_explained(operations: Iterable[Operation], revisions: Sequence[Changes]) -> None:
    """Every value is one that somebody wrote, and every deletion one that somebody asked for."""
    written = {each.value for each in operations if each.value is not None}
    deleted = {each.revision for each in operations if each.kind == "delete" and each.done}
    open_deletes = Counter(each.key for each in operations if each.kind == "delete" and each.returned == inf)
    for revision, changes in enumerate(revisions, FIRST):
        for kv in changes:
            if not kv.key.startswith(PREFIX):
                continue
            if kv.version and kv.value not in written:
                raise BrokenLawError(f"nobody wrote {kv}")
            if not kv.version and revision not in deleted:
                open_deletes[kv.key] -= 1
                if open_deletes[kv.key] < 0:
                    raise BrokenLawError(f"nobody deleted {kv.key!r} in revision {revision}")


def check_keys(operations: Iterable[Operation], truth: Truth) -> int:
    """Each key's history is linearizable by itself. How many keys there are.

    The search would try each change of which nothing was heard at each place. So those that were never done are left
    out, unless somebody read them, and the others end when somebody was first told of their revision, or a later one.
    """
    by_key: dict[bytes, list[Operation]] = defaultdict(list)
    found = {each.found for each in operations}
    first_told = _first_told(operations, truth.last)
    for each in operations:
        if each.returned == inf and each.kind != "delete":
            revision = truth.writes.get(each.value or b"")
            if revision is not None:
                each = replace(each, returned=first_told[revision], done=True)
            elif each.kind == "get" or each.value not in found:
                continue
        by_key[each.key].append(each)
    for key, of_key in by_key.items():
        if not check_key(of_key):
            raise BrokenLawError(f"the history of {key!r} is not linearizable:\n" + "\n".join(map(str, of_key)))
    return len(by_key)


def _first_told(operations: Iterable[Operation], last: int) -> list[float]:
    """For each revision, when somebody was first told of it or of one after it; inf where nobody was."""
    times = [inf] * (last + 2)
    for each in operations:
        if each.returned < inf and each.revision <= last:
            times[each.revision] = min(times[each.revision], each.returned)
    for revision in range(last, -1, -1):
        times[revision] = min(times[revision], times[revision + 1])
    return times
