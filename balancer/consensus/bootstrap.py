"""How a member with an empty data directory comes to belong to a cluster. Decisions only; first_start.py carries out.

What must never happen: two clusters from one list of members, or a voter that lost its memory and votes again.

Every data directory has a uuid, drawn and written when the directory is made. A node id is a hash of the cluster id
and that uuid. So a member that was wiped has another uuid, hence another node id: it cannot give the votes of its old
self a second time, whoever it reaches. What remains is to keep wiped members from founding a second cluster.

The listed members found a cluster in three steps, each written durably before anybody is told:
1. *Empty*: a member tells its uuid to whoever asks. Once it knows the uuids of ALL listed members, all empty, it
2. *agrees* to the cluster that consists of exactly these (its id is a hash of names, addresses and uuids), or agrees
   to the one that another member agreed to, if that has its own uuid and contradicts nothing it heard. It never
   agrees to another one. Once ALL of them told it that they agreed, or one that it has begun, it
3. *begins*: it may vote.

Safe, whatever is lost, repeated, late, or unreachable: suppose clusters X and Y of the same names have both begun.
Begun X means that each of its uuids agreed to X, begun Y that each of its uuids agreed to Y; nobody agrees twice; so
X and Y have no uuid in common: every single member was wiped in between. Then no memory of X exists anywhere, and no
protocol can tell that from a first start. One survivor is enough to prevent it. Old answers do no harm, since what
they promise is never taken back, and no clock takes part.

Why all and not a majority: with a majority, n1 and n2 found a cluster while n3 was never started; n1 is wiped; n1 and
n3, both empty and a majority, found a second one while n2 is cut off. The price: at the first start, once, all listed
members must be running. Who cannot wait takes the missing one out of the list and adds it later. Afterwards a
majority is enough, as ever.

- Three empty members that start at different times: the early ones wait. One that agreed goes on to wait for the
  others' word, over restarts of anybody.
- One wiped member of a running cluster: reaches nobody, only other wiped ones, or only stopped machines: it waits for
  ever. As soon as it reaches one that remembers: it refuses to start and says how to be added anew.
- Two of three wiped at once: the same, because they need the third. All three at once: a new cluster, as said above.
- A member that is wiped after it agreed and before all have begun: where nobody has begun, nobody can, because its
  old uuid will not speak again. Nothing is lost, as nothing was voted or written; the members say that the data
  directories have to be removed. This window is a round trip long unless somebody dies in it.
- A data directory that is restored from a backup is none of these: it is a voter that forgot without knowing it.
  Nobody can tell; it must never be done. What can be told, an origin without its log or the reverse, is refused.

With `join: true` a member founds nothing: it waits until a member of a cluster that has begun knows its uuid. Whoever
adds a member asks at its address first (`admitted`), so that the list gets name, address and uuid in one entry.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from balancer.consensus.peer_frames import INT_MAX, Answer, Listed, Member, encode
from balancer.consensus.peer_hello import REJOIN
from balancer.errors import BalancerError
from balancer.raft.log_entry import Membership, NodeId

_START_OVER = "nothing was voted or written yet: remove the data directories of all members and start them again"

_decode_members = msgspec.msgpack.Decoder(tuple[Member, ...]).decode


class Origin(msgspec.Struct, frozen=True):
    """What a member has written of where it comes from. Cluster id 0: empty. Else it agreed to that one for good.

    `members`: those who found the cluster, or of who joins: those it was told of. `begun`: it may have voted.
    """

    name: str
    uuid: bytes
    cluster_id: int = 0
    node_id: NodeId = 0
    members: tuple[Member, ...] = ()
    begun: bool = False
    joined: bool = False


@dataclass(frozen=True, slots=True)
class Own:
    """What a member knows of itself: its origin, and what its file says."""

    origin: Origin
    listed: tuple[Listed, ...]  # all members, itself included
    join: bool = False

    @property
    def address(self) -> str:
        """Where others reach it, as the file says."""
        return next((member.address for member in self.listed if member.name == self.origin.name), "ADDRESS")


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask again. The words say for what."""

    words: str


@dataclass(frozen=True, slots=True)
class Agree:
    """Write it, and found no other cluster from then on."""

    origin: Origin


@dataclass(frozen=True, slots=True)
class Begin:
    """Make the log, write this origin, and take part."""

    origin: Origin

    def membership(self) -> Membership:
        """With what the log begins: the founders' is the same on each; who joins gets it from the others."""
        return Membership() if self.origin.joined else membership_of(self.origin.members)


@dataclass(frozen=True, slots=True)
class Refuse:
    """Do not start. The words say why, and what to do."""

    words: str


Decision = Wait | Agree | Begin | Refuse


class NotAdmittedError(BalancerError):
    """Who answers there cannot be added to the cluster as it is. The text says why."""


# ---- numbers and lists


def founding_id(founders: Sequence[Member]) -> int:
    """The id of the cluster that exactly these found: 1 to 2**63 - 1, the same whoever computes it."""
    parts = sorted((member.name, member.address, member.uuid) for member in founders)
    return _number(b"balancer cluster", encode(parts))


def node_id_of(cluster_id: int, uuid: bytes) -> NodeId:
    """A member's number: another data directory never gets the same one."""
    return _number(b"balancer member", cluster_id.to_bytes(8, "little") + uuid)


def _number(kind: bytes, data: bytes) -> int:
    digest = hashlib.blake2b(data, digest_size=8, person=kind).digest()
    return (int.from_bytes(digest, "little") & INT_MAX) or 1


def membership_of(members: Sequence[Member]) -> Membership:
    """All as voters, with names, addresses and uuids in the context."""
    return Membership(tuple(sorted(member.node_id for member in members)), (), encode_members(members))


def encode_members(members: Sequence[Member]) -> bytes:
    """The context of a Membership: the same bytes for the same members."""
    return encode(sorted(members, key=lambda member: member.node_id))


def decode_members(context: bytes) -> tuple[Member, ...]:
    """What `encode_members` made; none for b"". Raises msgspec.MsgspecError."""
    return _decode_members(context) if context else ()


def answer_of(own: Own, members: Sequence[Member] = ()) -> Answer:
    """What a member says of itself; one that runs gives the `members` of its membership as it is now."""
    origin = own.origin
    told = tuple(members) or origin.members
    return Answer(origin.name, origin.uuid, origin.cluster_id, origin.begun, told, own.listed, own.join)


def admitted(answer: Answer, name: str, address: str, cluster_id: int) -> Member:
    """The member to add, from what answered at its address. NotAdmittedError."""
    if answer.name != name:
        raise NotAdmittedError(f"{address} answers as {answer.name}, not as {name}")
    if answer.cluster_id:
        raise NotAdmittedError(
            f"{name} belongs to cluster {answer.cluster_id:x} already; start it with an empty data directory"
        )
    if not answer.join:
        raise NotAdmittedError(f"{name} was not started with `join: true`")
    return Member(node_id_of(cluster_id, answer.uuid), name, address, answer.uuid)


# ---- the decision


def decide(own: Own, answers: Mapping[str, Answer]) -> Decision:
    """What to do now. `answers`: the last one from each other listed member that ever answered, by the listed name.

    Pure, and sure whatever subset has answered and however old an answer is. O(members squared).
    """
    origin = own.origin
    if origin.begun:
        return Begin(origin)
    misplaced = next((name for name, answer in sorted(answers.items()) if answer.name != name), None)
    if misplaced is not None:
        return Wait(f"the address of {misplaced} answers as {answers[misplaced].name}: correct `members`")
    if origin.cluster_id:
        return _decide_agreed(own, answers)
    begun = {name: answer for name, answer in sorted(answers.items()) if answer.begun}
    if len({answer.cluster_id for answer in begun.values()}) > 1:
        return Refuse(f"{_and(begun)} belong to different clusters: list the members of one")
    if own.join:
        return _decide_join(own, begun)
    if begun:
        return _refuse_begun(own, *next(iter(begun.items())))
    if own.origin.name not in {member.name for member in own.listed}:
        return Refuse(f"{own.origin.name} is not among `members`: {_and(member.name for member in own.listed)}")
    return _decide_empty(own, answers)


def _decide_join(own: Own, begun: Mapping[str, Answer]) -> Decision:
    told = [(answer, member) for answer in begun.values() for member in answer.members]
    for answer, member in told:
        if member.uuid == own.origin.uuid:
            return Begin(_origin(own, answer.cluster_id, answer.members, member.node_id))
    if any(member.name == own.origin.name for _, member in told):
        remove = f"`balancer cluster members remove {own.origin.name}`, which is another data directory's, and "
        return Wait(_to_be_added(own, remove))
    return Wait(_to_be_added(own) if begun else "for a member of the cluster that is to be joined")


def _to_be_added(own: Own, first: str = "") -> str:
    return f"to be added: at a running member, {first}`balancer cluster members add http://{own.address}`"


def _refuse_begun(own: Own, teller: str, answer: Answer) -> Refuse:
    name, address = own.origin.name, own.address
    known = next((member for member in answer.members if member.name == name), None)
    told = f"{teller} belongs to cluster {answer.cluster_id:x}"
    if known is None:
        return Refuse(
            f"{told}, and {name} is no member of it. To add it, start it with `join: true` and, at a running member, "
            f"`balancer cluster members add http://{address}`"
        )
    if known.uuid == own.origin.uuid:
        return Refuse(
            f"{told}, which knows this very data directory. If {name} has just been added, start it with `join: true`. "
            f"If not, its log was lost or an old copy restored, and it must not vote again; "
            f"{_rejoin(own)}"
        )
    return Refuse(
        f"{told} and knows {name} with another data directory. This one is empty: {name} no longer knows how it voted, "
        f"and must not vote again; {_rejoin(own)}"
    )


def _decide_empty(own: Own, answers: Mapping[str, Answer]) -> Decision:
    listed = {member.name: member.address for member in own.listed}
    others = [name for name in listed if name != own.origin.name]
    agreed = {name: answer for name, answer in sorted(answers.items()) if answer.cluster_id}
    for name, answer in agreed.items():
        if {Listed(member.name, member.address) for member in answer.members} != set(own.listed):
            return Wait(f"{name} agreed to found a cluster of other members: {_list_of(answer.members)}")
        stale = _contradicted(own, answers, answer.members)
        if stale:
            return Wait(_words_for_stuck(name, stale))
    if len({answer.cluster_id for answer in agreed.values()}) > 1:
        return Wait(f"{_and(agreed)} agreed to found different clusters; {_START_OVER}")
    for name, answer in agreed.items():
        if answer.cluster_id != founding_id(answer.members) or len(answer.members) != len(listed):
            return Wait(f"{name} agreed to a cluster whose id is not that of its members")
        return Agree(_origin(own, answer.cluster_id, answer.members))
    for name in others:
        if name in answers and set(answers[name].listed) != set(own.listed):
            return Wait(f"the file of {name} lists other members, or other addresses: make them equal")
        if name in answers and answers[name].join:
            return Wait(f"{name} has `join: true`; a cluster is founded without it")
    missing = [name for name in others if name not in answers]
    if missing:
        return Wait(f"for {_and(missing)}: at the first start all listed members must have been there once")
    uuids = {own.origin.name: own.origin.uuid, **{name: answers[name].uuid for name in others}}
    if len(set(uuids.values())) < len(uuids):
        return Wait("two members have the same uuid: a data directory was copied; remove one")
    founders = tuple(Member(0, name, address, uuids[name]) for name, address in listed.items())
    return Agree(_origin(own, founding_id(founders), founders))


def _decide_agreed(own: Own, answers: Mapping[str, Answer]) -> Decision:
    origin = own.origin
    others = {member.name: member.uuid for member in sorted(origin.members, key=_name) if member.uuid != origin.uuid}
    given = {name: answers[name] for name in others if name in answers}
    begun = [answer for answer in given.values() if answer.begun and answer.cluster_id == origin.cluster_id]
    if any(answer.members and origin.uuid not in {member.uuid for member in answer.members} for answer in begun):
        return Refuse(f"{origin.name} was removed from its cluster before it began there. To return, {_rejoin(own)}")
    if begun:
        return Begin(msgspec.structs.replace(origin, begun=True))
    same = {name: answer for name, answer in given.items() if answer.uuid == others[name]}
    elsewhere = [name for name, answer in same.items() if answer.cluster_id not in (0, origin.cluster_id)]
    if elsewhere:
        return Refuse(
            f"{_and(elsewhere)} agreed to found another cluster, so that the one of {origin.name} can never begin: "
            f"nothing is lost, remove the data directory of {origin.name}"
        )
    stale = [name for name in given if name not in same]
    if stale:
        return Wait(_words_for_stuck(origin.name, stale))
    missing = [name for name in others if name not in same or not same[name].cluster_id]
    if missing:
        return Wait(f"for {_and(missing)} to agree to the new cluster {origin.cluster_id:x}")
    return Begin(msgspec.structs.replace(origin, begun=True))


def _rejoin(own: Own) -> str:
    return REJOIN.format(name=own.origin.name, address=own.address)


def _contradicted(own: Own, answers: Mapping[str, Answer], founders: Sequence[Member]) -> list[str]:
    """Founders whose data directory is another one by now, as they say themselves."""
    uuids = {own.origin.name: own.origin.uuid, **{name: answer.uuid for name, answer in answers.items()}}
    return [member.name for member in founders if uuids.get(member.name, member.uuid) != member.uuid]


def _words_for_stuck(name: str, stale: Sequence[str]) -> str:
    return (
        f"{name} agreed to found a cluster with a data directory of {_and(stale)} that is no longer there. Should no "
        f"member say that it has begun, {_START_OVER}"
    )


def _origin(own: Own, cluster_id: int, members: Sequence[Member], joined: NodeId = 0) -> Origin:
    """Of who agreed, or of who joins and begins with that."""
    if not joined:
        members = [
            Member(node_id_of(cluster_id, member.uuid), member.name, member.address, member.uuid) for member in members
        ]
    return Origin(
        own.origin.name,
        own.origin.uuid,
        cluster_id,
        joined or node_id_of(cluster_id, own.origin.uuid),
        tuple(sorted(members, key=lambda member: member.node_id)),
        begun=bool(joined),
        joined=bool(joined),
    )


def _and(names: Iterable[str]) -> str:
    parts = list(names)
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def _list_of(members: Sequence[Member]) -> str:
    return ", ".join(f"{member.name} at {member.address}" for member in sorted(members, key=_name))


def _name(member: Member) -> str:
    return member.name
