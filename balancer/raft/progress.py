"""How far one peer is, as its leader knows it (Raft section 5.3: nextIndex and matchIndex)."""

import enum
from collections import deque

from balancer.raft.log_entry import NodeId, SnapshotMark


class Pace(enum.Enum):
    """How a peer is sent entries."""

    PROBE = enum.auto()  # one Append at a time, until one matches
    REPLICATE = enum.auto()  # as many as the window takes, without waiting
    SNAPSHOT = enum.auto()  # chunks, no entries


class InFlight:
    """Appends with entries that were sent and not answered. Order of sending is order of indexes."""

    __slots__ = ("_sent", "bytes")

    def __init__(self) -> None:
        self._sent: deque[tuple[int, int]] = deque()  # (last index, bytes)
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._sent)

    def add(self, last_index: int, size: int) -> None:
        """An Append with entries up to `last_index` left."""
        self._sent.append((last_index, size))
        self.bytes += size

    def free_to(self, index: int) -> None:
        """The peer has everything up to `index`."""
        sent = self._sent
        while sent and sent[0][0] <= index:
            self.bytes -= sent.popleft()[1]

    def clear(self) -> None:
        """What was sent is not waited for any longer."""
        self._sent.clear()
        self.bytes = 0


class Sending:
    """A snapshot on its way to a peer: the chunk at `offset` was sent and not answered."""

    __slots__ = ("beats", "mark", "offset", "size")

    def __init__(self, mark: SnapshotMark, size: int) -> None:
        self.mark = mark
        self.size = size
        self.offset = 0
        self.beats = 0  # of the heart since that chunk was sent


class Progress:
    """Invariant: 0 <= match < next. `match` never goes back (within a leader's term, which is as long as this lives).

    `sent_commit` is the highest commit index that an Append told; `poke` asks for an Append even if that says nothing
    new. `read_position` is the newest read round that the peer confirmed.
    """

    __slots__ = (
        "active",
        "id",
        "in_flight",
        "match",
        "next",
        "pace",
        "poke",
        "probe_sent",
        "read_position",
        "sending",
        "sent_commit",
    )

    def __init__(self, peer: NodeId, next_index: int) -> None:
        self.id = peer
        self.match = 0
        self.next = next_index
        self.pace = Pace.PROBE
        self.in_flight = InFlight()
        self.probe_sent = False
        self.poke = False
        self.sent_commit = 0
        self.read_position = 0
        self.active = True  # heard of since the last look; a new one gets the benefit of the doubt
        self.sending: Sending | None = None

    def probe(self) -> None:
        """Finds out with single Appends where the logs agree, beginning behind what certainly does."""
        self._pace(Pace.PROBE)
        self.next = self.match + 1
        self.sent_commit = 0  # what was sent may be lost

    def replicate(self) -> None:
        """The logs agree up to `match`: send without waiting."""
        self._pace(Pace.REPLICATE)
        self.next = self.match + 1

    def send_snapshot(self, sending: Sending) -> None:
        """It lacks entries that are here no longer."""
        self._pace(Pace.SNAPSHOT)
        self.sending = sending
        self.sent_commit = 0

    def _pace(self, pace: Pace) -> None:
        self.pace = pace
        self.probe_sent = self.poke = False
        self.sending = None
        self.in_flight.clear()

    def matched(self, index: int) -> bool:
        """The peer has everything up to `index`. Whether that is news: answers may be late, twice or out of order."""
        if index <= self.match:
            return False
        self.match = index
        self.next = max(self.next, index + 1)
        return True

    def rejected(self, index: int, may_match: int) -> bool:
        """The peer's log did not match at `index`, and may at `may_match`. Whether that is news."""
        if self.pace is Pace.REPLICATE:
            if index <= self.match:
                return False
            self.probe()
            return True
        if self.pace is Pace.SNAPSHOT or index != self.next - 1:
            return False  # the answer to an earlier probe
        self.next = max(min(index, may_match + 1), self.match + 1)
        self.probe_sent = False
        return True
