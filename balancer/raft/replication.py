"""Replication of the log (Raft section 5.3; extended Raft figure 2, AppendEntries RPC)."""

from balancer.raft import commit, snapshots
from balancer.raft.core import Core
from balancer.raft.log import UNKNOWN
from balancer.raft.log_entry import Entry, EntryKind
from balancer.raft.message import Append, AppendReply
from balancer.raft.progress import Pace, Progress
from balancer.raft.refusals import SafetyBrokenError

# The leader's side.


def begin_term(core: Core) -> None:
    """A leader begins with an empty entry: only by committing it does it learn what is committed (section 8).

    It goes to everybody at once and serves as the first heartbeat.
    """
    add(core, b"", EntryKind.COMMAND)


def add(core: Core, data: bytes, kind: EntryKind) -> int:
    """Appends an entry of the own term and gives its index; the next Ready sends it."""
    index = core.log.last_index + 1
    core.log.append((Entry(index, core.term, kind, data),))
    core.replication_due = True
    return index


def flush(core: Core) -> None:
    """Sends every peer what it lacks and its window takes. Once per Ready, so that one Append takes many proposals."""
    core.replication_due = False
    for progress in core.peers:
        while _send_append(core, progress):
            pass


def _send_append(core: Core, progress: Progress) -> bool:
    """Sends at most one Append. Whether another may follow at once."""
    log = core.log
    if progress.pace is Pace.SNAPSHOT or (progress.pace is Pace.PROBE and progress.probe_sent):
        return False
    if progress.next <= log.base_index:
        snapshots.begin(core, progress)
        return False
    entries: tuple[Entry, ...] = ()
    if progress.next <= log.last_index and not window_full(core, progress):
        entries = log.take(progress.next, log.last_index, core.limits.append_bytes_max)
    elif core.commit <= progress.sent_commit and not progress.poke:
        return False
    previous = progress.next - 1
    message = Append(
        sender=core.id,
        to=progress.id,
        term=core.term,
        previous_index=previous,
        previous_term=log.term_at(previous),
        commit=core.commit,
        entries=entries,
    )
    core.send(message)
    progress.sent_commit = core.commit
    progress.poke = False
    if progress.pace is Pace.PROBE:
        progress.probe_sent = True
        return False
    if entries:
        progress.next += len(entries)
        progress.in_flight.add(progress.next - 1, log.bytes_of(previous + 1, progress.next - 1))
    return progress.next <= log.last_index and not window_full(core, progress)


def window_full(core: Core, progress: Progress) -> bool:
    """Whether a peer must answer before it is sent more entries. It still learns the commit index, by empty Appends."""
    if progress.pace is not Pace.REPLICATE:
        return False
    in_flight = progress.in_flight
    return len(in_flight) >= core.limits.in_flight_max or in_flight.bytes >= core.limits.in_flight_bytes_max


def on_append_reply(core: Core, message: AppendReply) -> None:
    """ "If successful: update nextIndex and matchIndex; if it fails: decrement nextIndex and retry"."""
    progress = core.progress.get(message.sender)
    if progress is None:
        return
    progress.active = True
    if message.rejected:
        _on_rejected(core, progress, message)
    elif message.index <= core.log.last_index:  # nobody can hold more of this leader's log than there is
        _on_accepted(core, progress, message.index)


def _on_accepted(core: Core, progress: Progress, index: int) -> None:
    news = progress.matched(index)
    if progress.pace is Pace.REPLICATE:
        progress.in_flight.free_to(index)
    elif progress.match == index if progress.pace is Pace.PROBE else snapshots.is_superfluous(core, progress):
        progress.replicate()
    core.replication_due = True
    if news:
        commit.advance(core)


def _on_rejected(core: Core, progress: Progress, message: AppendReply) -> None:
    """Tries next where, by both logs, they may agree: one probe per term that differs, at most (end of section 5.3)."""
    if not 0 <= message.hint_index <= message.index:
        return
    may_match = message.hint_index
    if message.hint_term > 0:
        may_match, _ = core.log.last_not_after(message.hint_index, message.hint_term)
    if progress.rejected(message.index, may_match):
        core.replication_due = True


# The follower's side.


def on_append(core: Core, message: Append) -> None:
    """AppendEntries, receiver implementation, steps 2 to 5."""
    if message.previous_index < core.commit:
        _accept(core, message.sender, core.commit)  # what is committed here is in every leader's log
        return
    if not well_formed(message):
        return
    log = core.log
    if log.term_at(message.previous_index) != message.previous_term:
        _reject(core, message)
        return
    take(core, message.entries)
    last_new = message.previous_index + len(message.entries)
    commit.raise_to(core, min(message.commit, last_new))
    _accept(core, message.sender, last_new)


def well_formed(message: Append) -> bool:
    """Whether the entries follow each other, with terms that never fall nor exceed the sender's."""
    index, term = message.previous_index, message.previous_term
    if term < 0:
        return False
    for entry in message.entries:
        index += 1
        if entry.index != index or entry.term < term:
            return False
        term = entry.term
    return term <= message.term


def take(core: Core, entries: tuple[Entry, ...]) -> None:
    """Steps 3 and 4: "if an existing entry conflicts with a new one, delete the existing entry and all that follow it;
    append any new entries not already in the log". Only a conflict deletes: a late message may well end before the log.
    """
    log = core.log
    for position, entry in enumerate(entries):
        term = log.term_at(entry.index)
        if term == entry.term:
            continue
        if term != UNKNOWN:
            truncate_from(core, entry.index)
        log.append(entries[position:])
        return


def truncate_from(core: Core, index: int) -> None:
    """Drops entries that another leader's replaced. What is committed is never replaced (Leader Completeness)."""
    if index <= core.commit:
        raise SafetyBrokenError(f"a leader's log differs at {index}, but everything up to {core.commit} is committed")
    core.log.truncate_from(index)
    core.durable.forget_from(index)


def _accept(core: Core, leader: int, index: int) -> None:
    """Promises `index`. A promise that waits for the same sync already, to the same leader, is raised instead."""
    waiting = core.messages_after_sync
    reply = AppendReply(sender=core.id, to=leader, term=core.term, index=index)
    if waiting:
        last = waiting[-1]
        if type(last) is AppendReply and not last.rejected and last.to == leader and last.term == core.term:
            if last.index < index:
                waiting[-1] = reply
            return
    waiting.append(reply)


def _reject(core: Core, message: Append) -> None:
    hint_index, hint_term = core.log.last_not_after(message.previous_index, message.previous_term)
    reply = AppendReply(
        sender=core.id,
        to=message.sender,
        term=core.term,
        index=message.previous_index,
        rejected=True,
        hint_index=hint_index,
        hint_term=hint_term,
    )
    core.promise(reply)
