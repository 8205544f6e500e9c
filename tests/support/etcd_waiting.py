"""Random sequences with watches, and with locks and elections. Their revisions are counted exactly."""

import json
from typing import Any

from tests.support.etcd_sequences import ENDS, Sequence
from tests.support.etcd_steps import Await, Call, Leave, Observe, Observed, Rev, Step, Wait, Watch

_BODY_MAX = 480  # see `Watch`


class WatchSequence(Sequence):
    """Changes, and watches of them: from now, from the past, from what is compacted, from the future.

    etcd looks after watches of the past ten times a second. So that nothing depends on when it does, there is no
    compaction once somebody watches, and a stream with a watch of the past has no cancellations, and no ids of its own
    that might be in use or not.
    """

    def __init__(self, seed: int, length: int = 30) -> None:
        super().__init__(seed, length)
        self.watched = False

    def step(self) -> Step:
        make = self.rng.choices(
            [self.put, self.delete, self.txn, self.compaction, self.lease, self.watch],
            [30, 14, 14, 6, 8, 15 if self.revision > 3 else 3],
        )[0]
        return make()

    def compaction(self) -> Step:
        if self.watched:
            return self.put()
        # Else it depends on the time whether a watch that begins at that very revision sees its deletions.
        return Call("/v3/kv/compaction", {"revision": self.some_revision(), "physical": True})

    def watch(self) -> Step:
        """A stream with a few watches; some are ended at once, some are asked for twice."""
        self.watched = True
        of_the_past = self.rng.random() < 0.5
        made: list[Any] = []
        for _ in range(self.rng.randint(1, 4)):
            kinds = [self.create, self.progress, self.cancel]
            request = self.rng.choices(kinds, [70, 10, 0 if of_the_past else 20])[0]()
            for body in request.values():
                left_out = ("watch_id", "watchId") if of_the_past else ("start_revision", "startRevision")
                for name in left_out:
                    body.pop(name, None)
            if len(json.dumps([*made, request], default=str)) < _BODY_MAX:
                made.append(request)
        made = made or [{"create_request": {}}]
        names = [name for one in made for name in one]
        # Requests for progress may be answered together.
        answers = sum("create" in name for name in names) + any("progress" in name for name in names)
        return Watch(f"stream {next(self.numbers)}", tuple(made), answers)

    def create(self) -> Any:
        rng = self.rng
        body: dict[str, Any] = {"key": self.key()} if rng.random() < 0.9 else {}
        if rng.random() < 0.7:
            body[self.name("range_end")] = self.data(rng.choice(ENDS))
        if rng.random() < 0.4:
            body[self.name("start_revision")] = Rev(rng.randint(0, self.revision + 3), rng.random() < 0.7)
        if rng.random() < 0.3:
            body[self.name("prev_kv")] = True
        if rng.random() < 0.25:
            body["filters"] = rng.choice([["NOPUT"], ["NODELETE"], [0], [1, "NOPUT"], []])
        if rng.random() < 0.3:
            body[self.name("watch_id")] = self.number(rng.choice([0, 1, 2, 3, 7, -3]))
        if rng.random() < 0.2:
            body[self.name("progress_notify")] = True
        if rng.random() < 0.1:
            body["fragment"] = True
        return {self.name("create_request"): body}

    def cancel(self) -> Any:
        return {self.name("cancel_request"): {self.name("watch_id"): self.number(self.rng.choice([0, 0, 1, 2, 7, 55]))}}

    def progress(self) -> Any:
        return {self.name("progress_request"): {}}


class LockSequence(Sequence):
    """One lock or one election: who holds it, who waits, who leaves, whose lease ends.

    The first of `queue` holds it; the others wait, each as a call with a name. Whoever lost its key while waiting stays
    in the queue with lease 0: it finds out when its turn would have come.
    """

    def __init__(self, seed: int, length: int = 14, *, election: bool = False) -> None:
        super().__init__(seed, length)
        self.election = election
        self.queue: list[tuple[str, int]] = []  # (call, lease)
        self.created: dict[int, int] = {}  # lease -> revision of its key
        self.values: dict[int, bytes] = {}  # lease -> its value
        self.observing = 0
        self.free = [201, 202, 203, 204, 205, 206]

    def steps(self) -> list[Step]:
        grants: list[Step] = [Call("/v3/lease/grant", {"TTL": "3600", "ID": lease}) for lease in self.free]
        rest = [step for _ in range(self.length) for step in self.some()]
        return grants + rest

    def some(self) -> list[Step]:
        """One event, and what follows from it."""
        moves = [(self.enter, 30), (self.refused, 6), (self.again, 6), (self.look, 10)]
        if self.queue:
            moves += [(self.release, 20), (self.revoke_holder, 6), (self.delete_holder, 5)]
        if len(self.queue) > 1:
            moves += [(self.leave, 8), (self.revoke_waiter, 6)]
        if self.election:
            moves += [(self.proclaim, 14), (self.observe, 4)]
        return self.rng.choices([move for move, _ in moves], [share for _, share in moves])[0]()

    # ---- entering

    def enter(self) -> list[Step]:
        if not self.free:
            return self.look()
        lease = self.free.pop(self.rng.randrange(len(self.free)))
        self.revision += 1
        self.created[lease] = self.revision
        self.values[lease] = b"v%d" % next(self.numbers) if self.election else b""
        path, body = self._entry(lease, self.values[lease])
        if not self.queue:
            self.queue.append(("", lease))
            return [Call(path, body), *self._told()]
        name = f"call {next(self.numbers)}"
        self.queue.append((name, lease))
        return [Wait(name, path, body, self._prefix)]

    def again(self) -> list[Step]:
        """Who holds it asks for it again; a candidate's other value is a proclamation."""
        if not self.queue:
            return self.look()
        lease = self.queue[0][1]
        value = self.values[lease]
        if self.election and self.rng.random() < 0.5:
            value = self.values[lease] = b"v%d" % next(self.numbers)
            self.revision += 1
        path, body = self._entry(lease, value)
        return [Call(path, body), *self._told()]

    def refused(self) -> list[Step]:
        return [Call(*self._entry(self.rng.choice([999, -5]), b"v"))]

    # ---- leaving

    def release(self) -> list[Step]:
        _, lease = self.queue[0]
        if self.election:
            step = Call("/v3/election/resign", {"leader": self._leader(lease)})
        else:
            step = Call("/v3/lock/unlock", {"key": self.data(self._key(lease))})
        self.revision += 1
        self.free.append(lease)
        return [step, *self._next()]

    def delete_holder(self) -> list[Step]:
        lease = self.queue[0][1]
        self.revision += 1
        self.free.append(lease)
        return [Call("/v3/kv/deleterange", {"key": self.data(self._key(lease))}), *self._next()]

    def revoke_holder(self) -> list[Step]:
        self.revision += 1
        return [Call("/v3/lease/revoke", {"ID": self.queue[0][1]}), *self._next()]

    def revoke_waiter(self) -> list[Step]:
        place = self.rng.randrange(1, len(self.queue))
        name, lease = self.queue[place]
        if not lease:
            return self.look()
        self.queue[place] = (name, 0)
        self.revision += 1
        return [Call("/v3/lease/revoke", {"ID": lease})]

    def leave(self) -> list[Step]:
        place = self.rng.randrange(1, len(self.queue))
        name, lease = self.queue[place]
        if not lease:
            return self.look()
        del self.queue[place]
        self.revision += 1
        self.free.append(lease)
        return [Leave(name)]

    def _next(self) -> list[Step]:
        """The holder is gone: the next one with a key has it, and those before it find out that they have none."""
        self.queue.pop(0)
        steps: list[Step] = []
        while self.queue:
            name, lease = self.queue[0]
            steps.append(Await(name))
            if lease:
                return [*steps, *self._told()]
            self.queue.pop(0)
        return steps

    # ---- looking

    def look(self) -> list[Step]:
        if self.election and self.rng.random() < 0.7:
            return [Call("/v3/election/leader", {"name": self.data(self._name)})]
        end = self._prefix[:-1] + bytes([self._prefix[-1] + 1])
        body = {"key": self.data(self._prefix), "range_end": self.data(end), "sort_target": "CREATE"}
        return [Call("/v3/kv/range", body | {"sort_order": "ASCEND"})]

    def observe(self) -> list[Step]:
        if self.observing >= 2:
            return self.look()
        self.observing += 1
        return [Observe(f"observer {self.observing}", {"name": self.data(self._name)}), *self._told()]

    def proclaim(self) -> list[Step]:
        if not self.queue or self.rng.random() < 0.25:
            leader: Any = self.rng.choice([None, self._leader(201) | {"rev": Rev(self.revision + 5)}])
            body = {"value": self.data(b"x")} | ({"leader": leader} if leader else {})
            return [Call("/v3/election/proclaim", body)]
        lease = self.queue[0][1]
        self.values[lease] = b"v%d" % next(self.numbers)
        self.revision += 1
        body = {"leader": self._leader(lease), "value": self.data(self.values[lease])}
        return [Call("/v3/election/proclaim", body), *self._told()]

    def _told(self) -> list[Step]:
        """Every observer hears of the holder before anything else happens."""
        if not self.queue:
            return []
        value = self.values[self.queue[0][1]]
        return [Observed(f"observer {number + 1}", value) for number in range(self.observing)]

    # ---- parts

    @property
    def _name(self) -> bytes:
        return b"elect" if self.election else b"lock"

    @property
    def _prefix(self) -> bytes:
        return self._name + b"/"

    def _key(self, lease: int) -> bytes:
        return self._prefix + b"%x" % lease

    def _leader(self, lease: int) -> dict[str, Any]:
        return {
            "name": self.data(self._name),
            "key": self.data(self._key(lease)),
            "rev": Rev(self.created.get(lease, 0)),
            "lease": str(lease),
        }

    def _entry(self, lease: int, value: bytes) -> tuple[str, dict[str, Any]]:
        body: dict[str, Any] = {"name": self.data(self._name), "lease": self.number(lease)}
        if self.election:
            return "/v3/election/campaign", body | {"value": self.data(value)}
        return "/v3/lock/lock", body
