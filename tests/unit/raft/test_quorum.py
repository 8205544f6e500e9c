"""Majorities, against slower words for the same."""

from itertools import product
from random import Random

import pytest

from balancer.raft.quorum import VoteResult, agreed, majority, vote_result


@pytest.mark.parametrize(("voters", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)])
def test_two_majorities_always_share_a_voter(voters: int, needed: int) -> None:
    assert majority(voters) == needed
    assert 2 * majority(voters) > voters


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_an_election_is_decided_when_the_missing_votes_cannot_change_it(size: int) -> None:
    voters = tuple(range(1, size + 1))
    for answers in product((True, False, None), repeat=size):
        votes = {voter: answer for voter, answer in zip(voters, answers, strict=True) if answer is not None}
        ends = {
            sum(ending) > size / 2
            for ending in product((True, False), repeat=size)
            if all(votes.get(voter, end) == end for voter, end in zip(voters, ending, strict=True))
        }
        expected = VoteResult.PENDING if len(ends) == 2 else VoteResult.WON if ends == {True} else VoteResult.LOST
        assert vote_result(voters, votes) is expected, votes


def test_answers_of_others_do_not_count() -> None:
    assert vote_result((1, 2, 3), {1: True, 4: True, 5: True}) is VoteResult.PENDING
    assert vote_result((1, 2, 3), {1: True, 4: False, 5: False}) is VoteResult.PENDING


def test_nobody_is_elected_by_nobody() -> None:
    assert vote_result((), {1: True}) is not VoteResult.WON
    assert agreed([]) == 0


def test_what_is_agreed_is_the_highest_value_that_a_majority_has_reached() -> None:
    rng = Random(1)
    for _ in range(2_000):
        values = [rng.randrange(6) for _ in range(rng.randrange(1, 8))]
        reached = [value for value in range(6) if sum(each >= value for each in values) > len(values) / 2]
        assert agreed(list(values)) == max(reached), values
