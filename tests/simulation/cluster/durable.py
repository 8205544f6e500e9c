"""What a member's disk holds for certain: written down beside the code under test, from what it was told to write."""

from collections.abc import Iterable, Sequence

from balancer.consensus.wal_replay import Recovered
from balancer.raft.log_entry import SnapshotMark
from balancer.raft.ready import Ready


class DurableLog:
    """Terms of the entries above `base`. `reached`: the highest index that the last batch held on its way."""

    __slots__ = ("base", "base_term", "commit", "reached", "term", "terms", "vote")

    def __init__(self) -> None:
        self.term = self.vote = self.commit = self.base = self.base_term = self.reached = 0
        self.terms: list[int] = []

    @property
    def last(self) -> int:
        """Index of the last entry."""
        return self.base + len(self.terms)

    def holds(self, index: int, term: int) -> bool:
        """Whether this entry is on the disk, perhaps within a snapshot."""
        if index <= self.base:
            return True
        at = index - self.base - 1
        return at < len(self.terms) and self.terms[at] == term

    def written(self, readys: Sequence[Ready]) -> None:
        """These were written and synced."""
        self.reached = self.last
        for ready in readys:
            if ready.snapshot is not None:
                self._replace(ready.snapshot)
            if ready.entries:
                del self.terms[ready.entries[0].index - self.base - 1 :]
                self.terms += [entry.term for entry in ready.entries]
            if ready.hard_state is not None:
                self.term, self.vote = ready.hard_state.term, ready.hard_state.vote
            self.reached = max(self.reached, self.last)
        if any(ready.must_sync for ready in readys):
            states = [ready.hard_state for ready in readys if ready.hard_state is not None]
            self.commit = max(self.base, self.commit, *(state.commit for state in states))

    def _replace(self, mark: SnapshotMark) -> None:
        self.base, self.base_term, self.terms = mark.index, mark.term, []

    def after_crash(self, recovered: Recovered, unfinished: Iterable[Ready]) -> list[str]:
        """Compares what was found with what has to be there, and takes it over. What is missing, in words.

        `unfinished`: what was being written, or was about to; any part of it may be there.
        """
        missing = []
        state = recovered.hard_state
        if state.term < self.term or (state.term == self.term and self.vote and state.vote != self.vote):
            missing.append(f"term {self.term} with vote {self.vote} was durable, found {state}")
        certain = self.last
        for ready in unfinished:
            if ready.snapshot is not None:
                certain = 0
            elif ready.entries:
                certain = min(certain, ready.entries[0].index - 1)
        found = [entry.term for entry in recovered.entries]
        base = recovered.mark.index
        for index in range(max(self.base, base) + 1, certain + 1):
            at = index - base - 1
            if at >= len(found) or found[at] != self.terms[index - self.base - 1]:
                missing.append(f"entry {index} was durable up to {certain}, found up to {base + len(found)}")
                break
        if certain and base + len(found) < self.base:
            missing.append(f"the snapshot of {self.base} was durable, the log ends with {base + len(found)}")
        self.term, self.vote, self.commit = state.term, state.vote, state.commit
        self.base, self.base_term, self.terms = base, recovered.mark.term, found
        return missing
