"""Elections as keys (etcd's client/v3/concurrency): a campaign is a lock whose key has a value that others read."""

from typing import NamedTuple

from balancer.coordination.locks import Claim, owner_key, prefix_of, still_there
from balancer.coordination.refusals import ELECTION_NO_LEADER, ELECTION_NOT_LEADER
from balancer.coordination.requests import (
    Compare,
    CompareTarget,
    DeleteRangeRequest,
    LeaderKey,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
    WatchCreateRequest,
)
from balancer.coordination.responses import Event, EventType, KeyValue, RangeResponse, TxnResponse
from balancer.coordination.watch_index import prefix_end


class News(NamedTuple):
    """Who leads with which value since `revision`, at the latest."""

    revision: int
    leader: KeyValue


def campaign(name: bytes, lease: int, value: bytes) -> TxnRequest:
    """Stand for the office with this lease, or find that one does already (or even leads)."""
    key = owner_key(name, lease)
    return TxnRequest(
        compare=(Compare(target=CompareTarget.CREATE, key=key, create_revision=0),),
        success=(RequestOp(request_put=PutRequest(key, value, lease)),),
        failure=(RequestOp(request_range=RangeRequest(key)),),
    )


def campaigned(name: bytes, lease: int, value: bytes, response: TxnResponse) -> tuple[Claim, bool]:
    """What `campaign` came to: the claim, and whether its key has another value, so that `proclaim` is due.

    Then it waits as a lock does: see `waiters`.
    """
    key = owner_key(name, lease)
    if response.succeeded:
        return Claim(prefix_of(name), key, response.header.revision), False
    own = response.responses[0].response_range
    assert own is not None
    return Claim(prefix_of(name), key, own.kvs[0].create_revision), own.kvs[0].value != value


def leader_key(name: bytes, lease: int, claim: Claim) -> LeaderKey:
    """What the winner of an election is given, to proclaim and to resign with."""
    return LeaderKey(name, claim.key, claim.revision, lease)


def proclaim(leader: LeaderKey, value: bytes) -> TxnRequest:
    """A new value without a new election, if the claim is still there."""
    return TxnRequest(
        compare=(still_there(leader.key, leader.rev),),
        success=(RequestOp(request_put=PutRequest(leader.key, value, leader.lease)),),
    )


def check_proclaimed(response: TxnResponse) -> None:
    """Raises CoordinationError where the claim was gone."""
    if not response.succeeded:
        raise ELECTION_NOT_LEADER.error()


def resign(leader: LeaderKey) -> TxnRequest:
    """Give the office up; nothing is done, and nothing refused, if it was lost before."""
    return TxnRequest(
        compare=(still_there(leader.key, leader.rev),),
        success=(RequestOp(request_delete_range=DeleteRangeRequest(leader.key)),),
    )


def leader_of(response: RangeResponse) -> KeyValue:
    """Who leads, from the answer to `locks.first_of`. Raises CoordinationError where nobody does."""
    if not response.kvs:
        raise ELECTION_NO_LEADER.error()
    return response.kvs[0]


class Observer:
    """Follows an election: tells of every leader and of every value that a leader proclaims, in order.

    Ask `everybody`, give the answer to `begin`, watch as it says, give the events to `follow`. Where the watch ends
    because of a compaction, begin again: what was told before is not told twice.
    """

    def __init__(self, name: bytes) -> None:
        self._prefix = prefix_of(name)
        self._claims: dict[bytes, KeyValue] = {}
        self._told = (b"", 0)

    def everybody(self) -> RangeRequest:
        """Asks for everybody who leads or stands for the office."""
        return RangeRequest(self._prefix, prefix_end(self._prefix))

    def begin(self, response: RangeResponse) -> tuple[WatchCreateRequest, list[News]]:
        """The watch to open, and who leads now."""
        self._claims = {kv.key: kv for kv in response.kvs}
        revision = response.header.revision
        watch = WatchCreateRequest(self._prefix, prefix_end(self._prefix), revision + 1)
        return watch, self._news(revision)

    def follow(self, events: tuple[Event, ...]) -> list[News]:
        """What events of that watch, whole revisions in order, mean for the office."""
        news: list[News] = []
        for at, event in enumerate(events):
            kv = event.kv
            if event.type is EventType.PUT:
                self._claims[kv.key] = kv
            else:
                self._claims.pop(kv.key, None)
            if at + 1 == len(events) or events[at + 1].kv.mod_revision != kv.mod_revision:
                news += self._news(kv.mod_revision)
        return news

    def _news(self, revision: int) -> list[News]:
        leader = min(self._claims.values(), key=lambda kv: (kv.create_revision, kv.key), default=None)
        if leader is None or (leader.key, leader.mod_revision) == self._told:
            return []
        self._told = (leader.key, leader.mod_revision)
        return [News(revision, leader)]
