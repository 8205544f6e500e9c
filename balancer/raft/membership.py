"""Changes of the membership, one voter at a time (thesis chapter 4, with the correction of 2015).

A membership counts from when its entry is applied, on each member for itself. That majorities of two leaders still
meet rests on three rules, each with a function here: at most one voter differs; the change before it is applied; and
the leader committed an entry of its own term, so that no change of another leader can be under way unknown to it.
Learners hold the log and do not count. A voter comes from a learner that has nearly all of the log.
"""

import msgspec

from balancer.raft import commit, replication, roles
from balancer.raft.core import Core, Role
from balancer.raft.log_entry import EntryKind, Membership
from balancer.raft.progress import Pace
from balancer.raft.refusals import MembershipRefusedError, NotLeaderError, SafetyBrokenError, TransferringError

NODE_ID_MAX = 2**63 - 1

_decoder = msgspec.msgpack.Decoder(Membership)


def encode(membership: Membership) -> bytes:
    """As the data of an entry."""
    return msgspec.msgpack.encode(membership)


def decode(data: bytes) -> Membership:
    """From the data of an entry."""
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise SafetyBrokenError(f"a committed membership cannot be read: {error}") from error


def propose(core: Core, membership: Membership) -> int:
    """Appends the change and gives its index. Raises RefusedError."""
    if core.role is not Role.LEADER:
        raise NotLeaderError("only a leader changes the membership", core.leader)
    if core.transfer_to:
        raise TransferringError("leadership is being handed over", core.transfer_to)
    for problem in (
        malformed(membership),
        two_at_once(core.membership, membership),
        unsettled(core),
        lagging(core, membership),
    ):
        if problem:
            raise MembershipRefusedError(problem, core.id)
    index = replication.add(core, encode(membership), EntryKind.MEMBERSHIP)
    core.pending_membership_index = index
    return index


def malformed(membership: Membership) -> str:
    """Why this is no membership at all; "" = it is one."""
    voters, learners = membership.voters, membership.learners
    if not voters:
        return "a cluster needs a voter"
    for ids in (voters, learners):
        if list(ids) != sorted(set(ids)):
            return "voters and learners must be sorted, none of them twice"
    if not all(0 < member <= NODE_ID_MAX for member in (*voters, *learners)):
        return f"ids of members are 1 to {NODE_ID_MAX}"
    if set(voters) & set(learners):
        return "nobody is voter and learner at once"
    return ""


def two_at_once(old: Membership, new: Membership) -> str:
    """Any majority of the one must meet any majority of the other: not more than one voter may differ (section 4.1)."""
    if len(set(old.voters) ^ set(new.voters)) > 1:
        return "voters come and go one at a time"
    return ""


def unsettled(core: Core) -> str:
    """Whether another change may still be under way, here or, unknown to this leader, elsewhere."""
    if not commit.in_own_term(core):
        return "this leader committed no entry of its term yet"
    if core.applied < core.pending_membership_index:
        return "the change before this one is not applied yet"
    return ""


def lagging(core: Core, new: Membership) -> str:
    """A new voter that lacks much of the log would hold up every commit that needs it (section 4.2.1)."""
    for voter in new.voters:
        if voter in core.membership.voters:
            continue
        progress = core.progress.get(voter)
        if progress is None:
            return f"member {voter} must be a learner first"
        lag = core.log.last_index - progress.match
        if progress.pace is not Pace.REPLICATE or lag > core.limits.promote_lag_max:
            return f"member {voter} has not caught up: it lacks {lag} entries"
    return ""


def apply_through(core: Core, index: int) -> None:
    """The memberships among the entries up to `index`, which are applied now, come into use one after the other."""
    for at in core.log.membership_indexes:
        if core.applied < at <= index:
            use(core, decode(core.log.entry(at).data))


def use(core: Core, membership: Membership) -> None:
    """This membership counts from now on."""
    core.membership = membership
    if core.role is Role.LEADER:
        roles.follow_membership(core)
        if not core.is_voter:
            roles.become_follower(core, core.term, 0)  # it led until its removal was committed (section 4.2.2)
            return
        if core.transfer_to not in membership.voters:
            core.transfer_to = 0
        commit.advance(core)  # fewer may be needed now
    elif core.role is not Role.FOLLOWER and not core.is_voter:
        roles.become_follower(core, core.term, 0)
