"""Elections (Raft section 5.2 and 5.4.1), with PreVote (thesis 9.6) and CheckQuorum (thesis 6.2, 4.2.3)."""

from balancer.raft import commit, replication, roles
from balancer.raft.core import Core, Role
from balancer.raft.log_entry import NodeId
from balancer.raft.message import VoteReply, VoteRequest
from balancer.raft.quorum import VoteResult, majority, vote_result


def tick(core: Core) -> None:
    """Of everybody but a leader: "if election timeout elapses, start new election"."""
    core.elapsed += 1
    if core.elapsed < core.timeout:
        return
    if may_campaign(core):
        campaign(core)
    else:
        roles.become_follower(core, core.term, 0)  # it cannot help itself, but it need not believe in that leader


def campaign(core: Core, *, transfer: bool = False) -> None:
    """Asks first whether it could win; at once for the office when its leader hands that over (thesis 3.10)."""
    if core.role is Role.LEADER or not may_campaign(core):
        return
    if not transfer:
        roles.become_pre_candidate(core)
        core.votes[core.id] = True
        if _result(core) is not VoteResult.WON:
            _ask_votes(core, pre=True, transfer=False)
            return
    _stand(core, transfer=transfer)


def may_campaign(core: Core) -> bool:
    """A voter, by the membership in use, that knows of no later one: a membership counts from when it is applied."""
    if not core.is_voter:
        return False
    return not any(core.applied < index <= core.commit for index in core.log.membership_indexes)


def _stand(core: Core, *, transfer: bool) -> None:
    """A candidate. Its own vote counts when it is on the disk (`count_own_vote`), not before."""
    roles.become_candidate(core)
    _ask_votes(core, pre=False, transfer=transfer)


def _ask_votes(core: Core, *, pre: bool, transfer: bool) -> None:
    for voter in core.membership.voters:
        if voter == core.id:
            continue
        request = VoteRequest(
            sender=core.id,
            to=voter,
            term=core.term + 1 if pre else core.term,
            last_index=core.log.last_index,
            last_term=core.log.last_term,
            pre=pre,
            transfer=transfer,
            commit=core.commit,
            commit_term=core.log.term_at(core.commit),
        )
        # Others' votes alone may elect it: were its own term not on the disk by then, it could begin that term twice.
        if pre:
            core.send(request)
        else:
            core.promise(request)


def count_own_vote(core: Core) -> None:
    """To be called when the disk took something: a candidate's vote for itself may be among it."""
    if core.role is Role.CANDIDATE and core.durable.term == core.term and core.durable.vote == core.id:
        record_vote(core, core.id, granted=True)


def hears_leader(core: Core) -> bool:
    """Whether a leader was heard of within the shortest election timeout, so that no election is needed.

    Then requests for votes are ignored: members that were removed, or see only some of us, could else depose leaders
    that do their work (thesis 4.2.3). On a leader, CheckQuorum keeps `elapsed` below the election timeout.
    """
    return core.leader != 0 and core.elapsed < core.election_ticks


def on_vote_request(core: Core, message: VoteRequest) -> None:
    """RequestVote, receiver implementation; `message.term` is not lower than ours, and for a real vote equal."""
    granted = may_vote(core, message) and core.log.up_to_date(message.last_index, message.last_term)
    if granted and not message.pre:
        core.vote = message.sender
        core.elapsed = 0
    reply = VoteReply(
        sender=core.id,
        to=message.sender,
        term=message.term if granted else core.term,
        granted=granted,
        pre=message.pre,
        commit=core.commit,
        commit_term=core.log.term_at(core.commit),
    )
    core.promise(reply)
    if not granted:
        learn_commit(core, message)


def learn_commit(core: Core, message: VoteRequest | VoteReply) -> None:
    """What the sender knows to be committed is committed here, if it is here.

    Otherwise a member that was removed, or no voter knows it yet, could keep the others from electing anybody: they
    need its vote by the membership they use, its log is longer, and only it knows that its removal is committed.
    """
    index, term = message.commit, message.commit_term
    if index <= core.commit or term <= 0 or core.log.term_at(index) != term or core.role is Role.LEADER:
        return
    commit.raise_to(core, index)
    if election_goes_on(core) and not may_campaign(core):
        roles.become_follower(core, core.term, 0)  # the majority that it asked may be the wrong one


def may_vote(core: Core, message: VoteRequest) -> bool:
    """ "votedFor is null or candidateId": one vote per term, and none while somebody leads it.

    Learners vote as well when asked: they may have become voters without knowing it yet.
    """
    if core.vote == message.sender:
        return True
    if core.vote == 0 and core.leader == 0:
        return True
    return message.pre and message.term > core.term


def on_vote_reply(core: Core, message: VoteReply) -> None:
    """Counts only what answers the election that goes on: its kind, and for a granted pre-vote the term asked for."""
    if core.role is not (Role.PRE_CANDIDATE if message.pre else Role.CANDIDATE):
        return
    if message.granted and message.term != core.term + message.pre:
        return
    learn_commit(core, message)
    if election_goes_on(core):
        record_vote(core, message.sender, granted=message.granted)


def election_goes_on(core: Core) -> bool:
    """Whether this member still wants to be elected."""
    return core.role in (Role.PRE_CANDIDATE, Role.CANDIDATE)


def record_vote(core: Core, voter: NodeId, *, granted: bool) -> None:
    """Each voter's first answer stands: messages may arrive twice."""
    core.votes.setdefault(voter, granted)
    match _result(core):
        case VoteResult.LOST:
            roles.become_follower(core, core.term, 0)
        case VoteResult.WON if core.role is Role.PRE_CANDIDATE:
            _stand(core, transfer=False)
        case VoteResult.WON:
            roles.become_leader(core)
            replication.begin_term(core)


def _result(core: Core) -> VoteResult:
    return vote_result(core.membership.voters, core.votes)


def check_quorum(core: Core) -> bool:
    """CheckQuorum, to be called on a leader once per election timeout: whether it heard from a majority since the last.

    A leader that did not steps down, lest clients wait for one that can do nothing (thesis 6.2).
    """
    active = 1 if core.is_voter else 0
    for progress in core.peers:
        if progress.active and progress.id in core.membership.voters:
            active += 1
        progress.active = False
    if active >= majority(len(core.membership.voters)):
        return True
    roles.become_follower(core, core.term, 0)
    return False
