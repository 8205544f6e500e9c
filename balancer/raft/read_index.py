"""Linearizable reads without writing to the log (thesis section 6.4, ReadIndex).

A leader that committed an entry of its term knows what is committed. A read notes that commit index; when a majority
answered a heartbeat that was sent after the read came, nobody else led in between, and the read sees everything that
was finished before it. All that came before a heartbeat share it, and one round is under way at a time.

A heartbeat carries the position of the newest read, and its answer confirms all up to there. Positions and ids are
never used twice, so that a late answer cannot confirm a read that came after its question.
"""

from balancer.raft import commit
from balancer.raft.core import Core, Read, Role
from balancer.raft.message import ReadIndexReply, ReadIndexRequest
from balancer.raft.progress import Progress
from balancer.raft.quorum import agreed
from balancer.raft.ready import ReadState


def ask(core: Core) -> int:
    """A read asked for here. Its id comes back in a Ready, among `reads` or `refused_reads`."""
    reads = core.reads
    reads.last_id += 1
    if core.role is Role.LEADER:
        _take_up(core, Read(0, reads.last_id))
    elif core.leader == 0 or len(reads.forwarded) >= core.limits.reads_max:
        reads.refused.append(reads.last_id)
    else:
        reads.forwarded.append(reads.last_id)
    return reads.last_id


# The leader's side.


def _take_up(core: Core, read: Read) -> None:
    reads = core.reads
    if len(reads.waiting) + len(reads.postponed) >= core.limits.reads_max:
        _answer(core, read, 0)
    elif not commit.in_own_term(core):  # step 1: its predecessors may have committed more than it knows
        reads.postponed.append(read)
    else:
        reads.position += 1
        read.index, read.position = core.commit, reads.position
        reads.waiting.append(read)


def flush(core: Core) -> bool:
    """Once per Ready. Whether a round of heartbeats is due, for reads that came since the last one.

    (Step 3.) Not while that is still under way: those who come meanwhile share the next.
    """
    reads = core.reads
    if reads.postponed and commit.in_own_term(core):
        postponed, reads.postponed = reads.postponed, []
        for read in postponed:
            _take_up(core, read)
    if not reads.waiting:
        return False
    if core.membership.voters == (core.id,):
        _release(core, reads.position)  # its own majority
    return reads.position > reads.asked and reads.confirmed >= reads.asked


def confirmed(core: Core, progress: Progress, position: int) -> None:
    """A peer still took us for its leader when it read a heartbeat with this position."""
    reads = core.reads
    if not progress.read_position < position <= reads.position:
        return
    progress.read_position = position
    if reads.waiting:
        _release(core, quorum_position(core))


def quorum_position(core: Core) -> int:
    """The newest position that a majority of the voters confirmed."""
    progress = core.progress
    newest = core.reads.position
    return agreed([newest if voter == core.id else progress[voter].read_position for voter in core.membership.voters])


def _release(core: Core, position: int) -> None:
    reads = core.reads
    reads.confirmed = max(reads.confirmed, position)
    while reads.waiting and reads.waiting[0].position <= position:
        read = reads.waiting.popleft()
        _answer(core, read, read.index)


def _answer(core: Core, read: Read, index: int) -> None:
    """`index` 0: refused. (A commit index in the own term is never 0.)"""
    if read.asker:
        core.send(ReadIndexReply(sender=core.id, to=read.asker, term=core.term, read_id=read.read_id, index=index))
    elif index:
        core.reads.done.append(ReadState(read.read_id, index))
    else:
        core.reads.refused.append(read.read_id)


def on_request(core: Core, message: ReadIndexRequest) -> None:
    """A follower's reads up to `read_id`."""
    read = Read(message.sender, message.read_id)
    if core.role is not Role.LEADER:
        _answer(core, read, 0)
    elif message.sender in core.progress:
        _take_up(core, read)


# The follower's side.


def forward(core: Core) -> None:
    """Asks the leader on behalf of all reads that wait, unless a question is under way."""
    reads = core.reads
    if reads.forwarded and reads.asked_id < reads.forwarded[0]:
        reads.asked_id = reads.forwarded[-1]
        reads.waited = 0
        _send_request(core)


def _send_request(core: Core) -> None:
    core.send(ReadIndexRequest(sender=core.id, to=core.leader, term=core.term, read_id=core.reads.asked_id))


def tick(core: Core) -> None:
    """Of a follower: question or answer may be lost. Asks again, and gives up after an election timeout."""
    reads = core.reads
    if not reads.forwarded or reads.asked_id < reads.forwarded[0]:
        return
    reads.waited += 1
    if reads.waited >= core.election_ticks:
        _settle(core, reads.asked_id, 0)
    elif reads.waited % (2 * core.heartbeat_ticks) == 0:
        _send_request(core)


def on_reply(core: Core, message: ReadIndexReply) -> None:
    """All reads up to `read_id` were asked for before the leader was asked: they may read at `index`."""
    if message.sender == core.leader and message.read_id <= core.reads.asked_id:
        _settle(core, message.read_id, message.index)


def _settle(core: Core, upto: int, index: int) -> None:
    reads = core.reads
    while reads.forwarded and reads.forwarded[0] <= upto:
        read_id = reads.forwarded.popleft()
        if index > 0:
            reads.done.append(ReadState(read_id, index))
        else:
            reads.refused.append(read_id)


def refuse_all(core: Core) -> None:
    """Role, term or leader changed: who asked here asks again. Others notice the change themselves."""
    reads = core.reads
    for read in (*reads.postponed, *reads.waiting):
        if not read.asker:
            reads.refused.append(read.read_id)
    reads.refused.extend(reads.forwarded)
    reads.postponed.clear()
    reads.waiting.clear()
    reads.forwarded.clear()
    reads.asked = reads.confirmed = reads.position
