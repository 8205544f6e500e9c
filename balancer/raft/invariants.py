"""What always holds of one member, between any two calls. For tests and simulators: O(log entries)."""

from collections.abc import Iterator

from balancer.raft.core import Core, Role
from balancer.raft.log_entry import EntryKind
from balancer.raft.progress import Pace
from balancer.raft.refusals import SafetyBrokenError


def check_invariants(core: Core, *, log: bool = True) -> None:
    """Raises SafetyBrokenError with everything that does not hold. Without the sweep over the log: O(members)."""
    broken = [*_indexes(core), *_role(core), *_peers(core)]
    if log:
        broken += _log(core)
    if broken:
        raise SafetyBrokenError(f"member {core.id}: " + "; ".join(broken))


def _indexes(core: Core) -> Iterator[str]:
    log = core.log
    if not core.applied <= core.handed <= core.commit <= log.last_index:
        yield f"applied {core.applied} <= handed {core.handed} <= commit {core.commit} <= last {log.last_index}"
    if not log.base_index <= core.mark.index <= core.applied:
        yield f"base {log.base_index} <= snapshot {core.mark.index} <= applied {core.applied}"
    if not log.given <= log.last_index:
        yield f"given {log.given} <= last {log.last_index}"
    if core.durable.index > log.given:
        yield f"on the disk {core.durable.index} <= given {log.given}"
    if core.durable.term > core.term:
        yield f"the disk's term {core.durable.term} <= term {core.term}"


def _log(core: Core) -> Iterator[str]:
    log = core.log
    term = log.base_term
    memberships = []
    for index in range(log.first_index, log.last_index + 1):
        entry = log.entry(index)
        if entry.index != index:
            yield f"entry {entry.index} stands at {index}"
        if entry.term < term:
            yield f"entry {index} is of term {entry.term}, the one before it of {term}"
        term = entry.term
        if entry.kind is EntryKind.MEMBERSHIP:
            memberships.append(index)
    if term > core.term:
        yield f"the log's last term {term} <= term {core.term}"
    if memberships != log.membership_indexes:
        yield f"memberships are at {memberships}, not at {log.membership_indexes}"


def _role(core: Core) -> Iterator[str]:
    if (core.leader == core.id) != (core.role is Role.LEADER):
        yield f"a {core.role.value} takes {core.leader} for the leader"
    if core.role in (Role.CANDIDATE, Role.LEADER) and core.vote != core.id:
        yield f"a {core.role.value} voted for {core.vote}"
    if core.role is Role.LEADER and core.log.last_term != core.term:
        yield f"a leader of term {core.term} whose log ends in term {core.log.last_term}"
    if core.role is not Role.LEADER and (core.peers or core.transfer_to or core.reads.waiting or core.reads.postponed):
        yield f"a {core.role.value} keeps what only leaders need"


def _peers(core: Core) -> Iterator[str]:
    for peer in core.peers:
        if not 0 <= peer.match < peer.next <= core.log.last_index + 1:
            yield f"peer {peer.id}: match {peer.match} < next {peer.next} <= last {core.log.last_index} + 1"
        if (peer.sending is not None) != (peer.pace is Pace.SNAPSHOT):
            yield f"peer {peer.id}: {peer.pace.name} and a snapshot do not go together"
        if peer.in_flight and peer.pace is not Pace.REPLICATE:
            yield f"peer {peer.id}: {peer.pace.name} with a window"
        if peer.read_position > core.reads.position:
            yield f"peer {peer.id}: confirmed read {peer.read_position} of {core.reads.position}"
