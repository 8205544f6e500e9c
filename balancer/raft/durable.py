"""What the own disk is known to hold.

The core goes on while the disk writes, so that an acknowledgement may come when its entries are in the log no more, or
when others with the same index and term stand there again that were handed out later (the ABA problem). Hence:
`persisted(number)` counts only for what was in that Ready and never left the log since.
"""

from collections import deque

from balancer.raft.log_entry import HardState, NodeId


class Durable:
    """`index`: the log up to here is on the disk. `term` and `vote`: as on the disk."""

    __slots__ = ("_writing", "index", "term", "vote")

    def __init__(self, index: int, hard_state: HardState) -> None:
        self.index = index
        self.term = hard_state.term
        self.vote = hard_state.vote
        self._writing: deque[list[int]] = deque()  # [number, up to which index, term, vote]

    def writing(self, number: int, last_index: int, term: int, vote: NodeId) -> None:
        """A Ready that must be synced was handed out."""
        self._writing.append([number, last_index, term, vote])

    def persisted(self, number: int) -> bool:
        """The disk has everything up to the Ready of this number. Whether that tells anything new."""
        writing = self._writing
        if not writing or writing[0][0] > number:
            return False
        while writing and writing[0][0] <= number:
            _, index, self.term, self.vote = writing.popleft()
            self.index = max(self.index, index)
        return True

    def forget_from(self, index: int) -> None:
        """The entries from `index` on left the log: no acknowledgement under way is about their successors."""
        self.index = min(self.index, index - 1)
        for write in self._writing:
            write[1] = min(write[1], index - 1)
