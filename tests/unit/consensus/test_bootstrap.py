"""First starts: whatever a member hears, in whatever order, there is one cluster and no vote of a wiped voter."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec
import pytest

from balancer.consensus.bootstrap import (
    Agree,
    Begin,
    Decision,
    NotAdmittedError,
    Origin,
    Own,
    Refuse,
    Wait,
    admitted,
    answer_of,
    decide,
    decode_members,
    encode_members,
    founding_id,
    membership_of,
    node_id_of,
)
from balancer.consensus.peer_frames import INT_MAX, Answer, Listed, Member
from balancer.raft.log_entry import Membership

Decide = Callable[[Own, Mapping[str, Answer]], Decision]


def uuid(name: str, incarnation: int = 0) -> bytes:
    return f"{name}/{incarnation}".encode().ljust(16, b".")


def address(name: str) -> str:
    return f"10.0.0.{name[1:]}:7001"


def names(count: int) -> list[str]:
    return [f"n{number + 1}" for number in range(count)]


def listed(of: Iterable[str]) -> tuple[Listed, ...]:
    return tuple(Listed(name, address(name)) for name in of)


def founders(uuids: Mapping[str, bytes]) -> tuple[Member, ...]:
    """As members write them: with the node ids of the cluster that they found."""
    plain = [Member(0, name, address(name), of) for name, of in uuids.items()]
    number = founding_id(plain)
    return tuple(Member(node_id_of(number, one.uuid), one.name, one.address, one.uuid) for one in plain)


def agreed(name: str, uuids: Mapping[str, bytes], *, begun: bool = False) -> Origin:
    members = tuple(sorted(founders(uuids), key=lambda member: member.node_id))
    number = founding_id(members)
    return Origin(name, uuids[name], number, node_id_of(number, uuids[name]), members, begun)


def first(count: int) -> dict[str, bytes]:
    return {name: uuid(name) for name in names(count)}


def own_empty(count: int, *, join: bool = False, me: str = "n1") -> Own:
    return Own(Origin(me, uuid(me)), listed(names(count)), join)


# ---- numbers


def test_whoever_computes_the_id_of_a_founding_gets_the_same() -> None:
    members = founders(first(3))
    assert len({founding_id(order) for order in itertools.permutations(members)}) == 1
    changed = [founding_id(founders({**first(3), "n2": uuid("n2", 1)})), founding_id(founders(first(2)))]
    assert founding_id(members) not in changed
    assert 1 <= founding_id(members) <= INT_MAX


def test_another_data_directory_or_another_cluster_gives_another_node_id() -> None:
    ids = {node_id_of(number, uuid("n1", incarnation)) for number in (1, 2) for incarnation in range(50)}
    assert len(ids) == 100
    assert all(1 <= node_id <= INT_MAX for node_id in ids)


def test_the_founders_begin_with_the_same_membership() -> None:
    begins = [Begin(agreed(name, first(3), begun=True)).membership() for name in names(3)]
    assert begins[0] == begins[1] == begins[2]
    assert len(begins[0].voters) == 3
    assert list(begins[0].voters) == sorted(begins[0].voters)
    assert {member.name for member in decode_members(begins[0].context)} == set(names(3))
    assert msgspec.msgpack.encode(begins[0]) == msgspec.msgpack.encode(begins[2])


def test_who_joins_begins_with_no_membership_of_its_own() -> None:
    joined = Origin("n4", uuid("n4"), 7, 8, founders(first(3)), begun=True, joined=True)
    assert Begin(joined).membership() == Membership()


def test_members_travel_in_the_context_of_a_membership() -> None:
    members = founders(first(3))
    assert set(decode_members(encode_members(members))) == set(members)
    assert encode_members(members) == encode_members(tuple(reversed(members))) == membership_of(members).context
    assert decode_members(b"") == ()


# ---- one decision, for every subset and state of the others


def other_states(name: str, count: int) -> dict[str, Answer | None]:
    """Everything that `n1`, in the cluster of the first incarnations or before it, may hear of another member."""
    all_first = first(count)
    me_wiped = {**all_first, "n1": uuid("n1", 9)}
    it_wiped = {**all_first, name: uuid(name, 1)}
    third = next((one for one in reversed(names(count)) if one not in ("n1", name)), None)
    lists = listed(names(count))

    def begun(uuids: Mapping[str, bytes], number: int = 0) -> Answer:
        members = founders(uuids)
        return Answer(name, uuids[name], number or founding_id(founders(all_first)), True, members, lists)

    states: dict[str, Answer | None] = {
        "silent": None,
        "empty": Answer(name, uuid(name), listed=lists),
        "wiped": Answer(name, uuid(name, 1), listed=lists),
        "joins": Answer(name, uuid(name), listed=lists, join=True),
        "lists others": Answer(name, uuid(name), listed=(*lists, Listed("n9", address("n9")))),
        "agreed": answer_of(Own(agreed(name, all_first), lists)),
        "agreed, itself wiped before": answer_of(Own(agreed(name, it_wiped), lists)),
        "agreed with another me": answer_of(Own(agreed(name, me_wiped), lists)),
        "agreed among others": answer_of(Own(agreed(name, {**all_first, "n9": uuid("n9")}), lists)),
        "begun": begun(all_first),
        "begun with another me": begun(me_wiped),
        "begun without me": begun({one: all_first[one] for one in names(count)[1:]}),
        "begun elsewhere": begun({one: uuid(one, 5) for one in names(count)[1:]}, number=77),
    }
    if third is not None:
        wiped_third = {**all_first, third: uuid(third, 1)}
        states["agreed with a wiped third"] = answer_of(Own(agreed(name, wiped_third), lists))
    return states


def views(count: int, *, ordered: bool = True) -> Iterator[tuple[dict[str, str], dict[str, Answer]]]:
    """Every combination of what the others say, by state and as answers; not `ordered`: who says what is one order."""
    others = names(count)[1:]
    tables = [other_states(name, count) for name in others]
    some = itertools.combinations_with_replacement(tables[0], count - 1) if not ordered else itertools.product(*tables)
    for chosen in some:
        states = dict(zip(others, chosen, strict=True))
        answers = {name: table[states[name]] for name, table in zip(others, tables, strict=True)}
        yield states, {name: answer for name, answer in answers.items() if answer is not None}


SIZES = [
    *(pytest.param(count, True, id=str(count)) for count in (1, 2, 3, 4)),
    pytest.param(5, False, id="5, who says what in one order"),
    pytest.param(5, True, id="5", marks=pytest.mark.full),
]
FOUNDABLE = {"empty", "wiped"}


def due_when_empty(count: int, states: dict[str, str], answers: dict[str, Answer]) -> Origin | type[Decision]:
    """What an empty member must do: agree to this, or a kind of decision. Written from the rules, not from the code."""
    if any(state.startswith("begun") for state in states.values()):
        return Refuse
    speakers = [answers[name] for name, state in states.items() if state.startswith("agreed")]
    if not speakers:
        if set(states.values()) <= FOUNDABLE:
            return agreed("n1", {"n1": uuid("n1"), **{name: answer.uuid for name, answer in answers.items()}})
        return Wait
    theirs = {member.name: member.uuid for member in speakers[0].members}
    consistent = (
        len({answer.cluster_id for answer in speakers}) == 1
        and set(theirs) == set(names(count))
        and theirs["n1"] == uuid("n1")
        and all(theirs[name] == answer.uuid for name, answer in answers.items())
    )
    return agreed("n1", theirs) if consistent else Wait


@pytest.mark.parametrize(("count", "ordered"), SIZES)
def test_an_empty_member_founds_only_with_all_and_refuses_where_a_cluster_is_known(count: int, ordered: bool) -> None:
    own = own_empty(count)
    seen: Counter[str] = Counter()
    for states, answers in views(count, ordered=ordered):
        decision = decide(own, answers)
        due = due_when_empty(count, states, answers)
        if isinstance(due, Origin):
            assert decision == Agree(due), states
        else:
            assert type(decision) is due, (states, decision)
        seen[type(decision).__name__] += 1
    assert seen["Begin"] == 0
    assert count == 1 or (seen["Agree"] and seen["Wait"] and seen["Refuse"]), seen


@pytest.mark.parametrize(("count", "ordered"), SIZES)
def test_who_agreed_begins_only_when_all_agreed_or_one_has_begun(count: int, ordered: bool) -> None:
    own = Own(agreed("n1", first(count)), listed(names(count)))
    for states, answers in views(count, ordered=ordered):
        decision = decide(own, answers)
        said = set(states.values())
        same = [name for name, answer in answers.items() if answer.uuid == uuid(name)]
        elsewhere = [name for name in same if answers[name].cluster_id not in (0, own.origin.cluster_id)]
        if said & {"begun with another me", "begun without me"}:
            assert isinstance(decision, Refuse), states
            assert "removed from its cluster" in decision.words
        elif "begun" in said or said <= {"agreed"}:
            assert decision == Begin(msgspec.structs.replace(own.origin, begun=True)), states
        elif elsewhere:
            assert isinstance(decision, Refuse), states
        else:
            assert isinstance(decision, Wait), states


@pytest.mark.parametrize(("count", "ordered"), SIZES)
def test_who_joins_begins_only_when_a_cluster_knows_its_data_directory(count: int, ordered: bool) -> None:
    own = own_empty(count, join=True)
    for states, answers in views(count, ordered=ordered):
        decision = decide(own, answers)
        clusters = {answer.cluster_id for answer in answers.values() if answer.begun}
        if len(clusters) > 1:
            assert isinstance(decision, Refuse), states
        elif "begun" in states.values():
            known = next(member for member in founders(first(count)) if member.name == "n1")
            assert isinstance(decision, Begin), states
            assert (decision.origin.node_id, decision.origin.joined) == (known.node_id, True)
        else:
            assert isinstance(decision, Wait), states


@pytest.mark.parametrize("count", [1, 3])
def test_who_has_begun_asks_nobody(count: int) -> None:
    own = Own(agreed("n1", first(count), begun=True), listed(names(count)))
    assert all(decide(own, answers) == Begin(own.origin) for _, answers in views(count))


def test_a_wiped_voter_founds_nothing_under_any_subset_of_reachable_members() -> None:
    """n1 of three was wiped; each of the others runs, was wiped as well, or cannot be reached."""
    own = own_empty(3, me="n1")
    old = {**first(3), "n1": uuid("n1", 9)}
    lists = listed(names(3))
    running = {name: answer_of(Own(agreed(name, old, begun=True), lists)) for name in ("n2", "n3")}
    wiped = {name: Answer(name, uuid(name, 1), listed=lists) for name in ("n2", "n3")}
    for two, three in itertools.product((None, "running", "wiped"), repeat=2):
        answers = {}
        for name, state in (("n2", two), ("n3", three)):
            if state:
                answers[name] = (running if state == "running" else wiped)[name]
        decision = decide(own, answers)
        if "running" in (two, three):
            assert isinstance(decision, Refuse)
            for word in ("`balancer cluster members remove n1`", "add http://10.0.0.1:7001`", "`join: true`"):
                assert word in decision.words
        elif (two, three) == ("wiped", "wiped"):
            assert isinstance(decision, Agree)  # nobody is left who could know better
        else:
            assert isinstance(decision, Wait)


@pytest.mark.parametrize(
    ("own", "answers", "words"),
    [
        (own_empty(3), {}, "for n2 and n3: at the first start all listed members must have been there once"),
        (own_empty(2, me="n7"), {}, "n7 is not among `members`: n1 and n2"),
        (own_empty(2), {"n2": Answer("n5", uuid("n5"))}, "the address of n2 answers as n5"),
        (own_empty(2), {"n2": Answer("n2", uuid("n1"), listed=listed(names(2)))}, "a data directory was copied"),
        (own_empty(2), {"n2": Answer("n2", uuid("n2"))}, "the file of n2 lists other members"),
        (own_empty(2), {"n2": Answer("n2", uuid("n2"), listed=listed(names(2)), join=True)}, "founded without it"),
        (
            own_empty(2),
            {"n2": msgspec.structs.replace(answer_of(Own(agreed("n2", first(2)), ())), cluster_id=5)},
            "id is not that of its members",
        ),
        (
            own_empty(2),
            {"n2": Answer("n2", uuid("n2"), 5, True, founders({"n2": uuid("n2")}))},
            "`balancer cluster members add http://10.0.0.1:7001`",
        ),
        (
            own_empty(2),
            {"n2": Answer("n2", uuid("n2"), 5, True, founders(first(2)))},
            "must not vote again; at a running member: `balancer cluster members remove n1`",
        ),
        (own_empty(2, join=True), {}, "for a member of the cluster that is to be joined"),
        (
            own_empty(2, join=True),
            {"n2": Answer("n2", uuid("n2"), 5, True, founders({"n1": uuid("n1", 9), "n2": uuid("n2")}))},
            "`balancer cluster members remove n1`, which is another data directory's, and `balancer",
        ),
        (Own(agreed("n1", first(3)), ()), {}, "for n2 and n3 to agree to the new cluster"),
        (
            Own(agreed("n1", first(2)), ()),
            {"n2": Answer("n2", uuid("n2", 1))},
            "remove the data directories of all members and start them again",
        ),
    ],
    ids=range(13),
)
def test_the_words_say_what_is_missing_or_to_be_done(own: Own, answers: dict[str, Answer], words: str) -> None:
    decision = decide(own, answers)
    assert isinstance(decision, Wait | Refuse)
    assert words in decision.words


# ---- many decisions: every order of hearing, agreeing, beginning and being wiped

Places = tuple[tuple[Origin, frozenset[Origin], int], ...]
"""Of each member: its origin now, all that it ever was (so all that it may have answered), and how often it was wiped.

What a member has heard is not part of it: at every step it may have heard, of each other one, nothing or any answer
that one ever gave. That is more than can really happen, and makes the number of states small.
"""


def moves(places: Places, at: int, rule: Decide) -> Iterator[Origin]:
    """Every other origin that this member may write next."""
    own = Own(places[at][0], listed(names(len(places))))
    if own.origin.begun:
        return
    heard = [
        [None, *(answer_of(Own(origin, own.listed)) for origin in places[other][1])]
        for other in range(len(places))
        if other != at
    ]
    found = set()
    for answers in itertools.product(*heard):
        decision = rule(own, {answer.name: answer for answer in answers if answer is not None})
        if isinstance(decision, Agree | Begin):
            found.add(decision.origin)
    yield from found


def explore(count: int, wipes: int, rule: Decide = decide) -> tuple[int, set[frozenset[int]], Places | None]:
    """Visit every state with so many wipes in all, not of every member. States, the sets of clusters that began, and
    a state in which two have, if there is one.
    """
    start = tuple((Origin(name, uuid(name)), frozenset({Origin(name, uuid(name))}), 0) for name in names(count))
    seen, waiting, outcomes = {start}, [start], set()
    while waiting:
        places = waiting.pop()
        began = frozenset(origin.cluster_id for _, history, _ in places for origin in history if origin.begun)
        outcomes.add(began)
        if len(began) > 1:
            return len(seen), outcomes, places
        for at, (origin, history, wiped) in enumerate(places):
            following = [(new, wiped) for new in moves(places, at, rule)]
            others_wiped = sum(place[2] for number, place in enumerate(places) if number != at)
            never = sum(not place[2] for number, place in enumerate(places) if number != at)
            if others_wiped + wiped < wipes and never:
                following.append((Origin(origin.name, uuid(origin.name, wiped + 1)), wiped + 1))
            for new, times in following:
                place = (new, history | {new}, times)
                state = (*places[:at], place, *places[at + 1 :])
                if state not in seen:
                    seen.add(state)
                    waiting.append(state)
    return len(seen), outcomes, None


@pytest.mark.parametrize(
    ("count", "wipes"),
    [
        (1, 0),
        (2, 0),
        (2, 3),
        (3, 1),
        pytest.param(3, 2, marks=[pytest.mark.full, pytest.mark.timeout(0)]),
        pytest.param(4, 1, marks=[pytest.mark.full, pytest.mark.timeout(0)]),
    ],
)
def test_there_is_one_cluster_as_long_as_one_member_was_never_wiped(count: int, wipes: int) -> None:
    states, outcomes, two = explore(count, wipes)
    assert two is None
    assert states > 2
    assert {len(began) for began in outcomes} == {0, 1}  # and it does come about


def test_a_node_id_votes_for_one_data_directory_only() -> None:
    """Over every founding that can come about: no two data directories share a node id of one cluster."""
    voters: dict[tuple[int, int], bytes] = {}
    uuids = {name: [uuid(name, incarnation) for incarnation in range(3)] for name in names(3)}
    for chosen in itertools.product(*uuids.values()):
        for member in founders(dict(zip(names(3), chosen, strict=True))):
            number = founding_id(founders(dict(zip(names(3), chosen, strict=True))))
            assert voters.setdefault((number, member.node_id), member.uuid) == member.uuid
    assert len(voters) == 27 * 3


def begins_at_once(own: Own, answers: Mapping[str, Answer]) -> Decision:
    """Careless: whoever agreed votes, without hearing that the others agreed."""
    if own.origin.cluster_id:
        return Begin(msgspec.structs.replace(own.origin, begun=True))
    return decide(own, answers)


def takes_it_back(own: Own, answers: Mapping[str, Answer]) -> Decision:
    """Careless: an agreement is given up for another one."""
    decision = decide(own, answers)
    if own.origin.cluster_id and not own.origin.begun and not isinstance(decision, Begin):
        anew = Own(Origin(own.origin.name, own.origin.uuid), own.listed)
        return decide(anew, {name: answer for name, answer in answers.items() if not answer.begun})
    return decision


def majority(own: Own, answers: Mapping[str, Answer]) -> Decision:
    """Careless: those who are there found the cluster when they are more than half; the others may come later."""
    if own.origin.cluster_id or len(answers) + 1 <= len(own.listed) / 2:
        return decide(own, answers)
    if any(answer.begun for answer in answers.values()):
        return decide(own, answers)
    there = {own.origin.name: own.origin.uuid, **{name: answer.uuid for name, answer in answers.items()}}
    return Begin(agreed(own.origin.name, there, begun=True))


@pytest.mark.parametrize("rule", [begins_at_once, takes_it_back, majority])
def test_a_careless_rule_is_found_out(rule: Decide) -> None:
    _, _, two = explore(3, 1, rule)
    assert two is not None


def test_three_members_that_find_each_other_all_begin_in_one_cluster() -> None:
    lists = listed(names(3))
    owns = {name: Own(Origin(name, uuid(name)), lists) for name in names(3)}
    for _ in range(4):
        answers = {name: answer_of(own) for name, own in owns.items()}
        for name, own in owns.items():
            decision = decide(own, {other: answer for other, answer in answers.items() if other != name})
            assert isinstance(decision, Agree | Begin)
            owns[name] = Own(decision.origin, lists)
    assert len({own.origin.cluster_id for own in owns.values()}) == 1
    assert all(own.origin.begun for own in owns.values())


# ---- being added


def test_a_member_is_added_as_what_answers_at_its_address() -> None:
    answer = Answer("n4", uuid("n4"), join=True)
    assert admitted(answer, "n4", "10.0.0.4:7001", 7) == Member(
        node_id_of(7, uuid("n4")), "n4", "10.0.0.4:7001", uuid("n4")
    )


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Answer("n5", uuid("n5"), join=True), "answers as n5"),
        (Answer("n4", uuid("n4"), cluster_id=9, join=True), "belongs to cluster 9 already"),
        (Answer("n4", uuid("n4")), "not started with `join: true`"),
    ],
)
def test_who_cannot_be_added_is_not(answer: Answer, why: str) -> None:
    with pytest.raises(NotAdmittedError, match=why):
        admitted(answer, "n4", "10.0.0.4:7001", 7)
