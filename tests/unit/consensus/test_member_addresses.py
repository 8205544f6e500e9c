"""Client addresses in the membership: kept beside what was there, and only told where others can use them."""

import pytest

from balancer.consensus.bootstrap import decode_members, encode_members
from balancer.consensus.member_addresses import PublishedMember, advertised, decode_published, with_client
from balancer.consensus.peer_frames import Member

ONE = Member(1, "n1", "10.0.0.1:7001", b"1" * 16)
TWO = Member(2, "n2", "10.0.0.2:7001", b"2" * 16)
URL = "http://10.0.0.2:2379"


def test_a_membership_from_before_has_no_addresses() -> None:
    assert [(each.name, each.client) for each in decode_published(encode_members([TWO, ONE]))] == [
        ("n1", ""),
        ("n2", ""),
    ]
    assert decode_published(b"") == ()


def test_one_address_is_set_and_the_rest_stays() -> None:
    context = encode_members(with_client(decode_published(encode_members([ONE, TWO])), 2, URL))
    assert [(each.name, each.client) for each in decode_published(context)] == [("n1", ""), ("n2", URL)]
    again = encode_members(with_client(decode_published(context), 1, "http://10.0.0.1:2379"))
    assert [each.client for each in decode_published(again)] == ["http://10.0.0.1:2379", URL]


def test_who_does_not_care_for_addresses_reads_the_members_as_they_were() -> None:
    """Links are made anew when a Member differs."""
    context = encode_members(with_client(decode_published(encode_members([ONE, TWO])), 2, URL))
    assert decode_members(context) == (ONE, TWO)
    assert {type(member) for member in decode_members(context)} == {Member}


def test_a_newcomer_stands_among_those_that_have_published() -> None:
    published = PublishedMember(1, "n1", "10.0.0.1:7001", b"1" * 16, "http://10.0.0.1:2379")
    assert [each.client for each in decode_published(encode_members([TWO, published]))] == ["http://10.0.0.1:2379", ""]


@pytest.mark.parametrize(
    ("url", "peer", "told"),
    [
        ("http://10.0.0.1:2379", "10.0.0.1:7001", "http://10.0.0.1:2379"),
        ("http://10.9.9.9:2379", "10.0.0.1:7001", "http://10.9.9.9:2379"),
        ("http://0.0.0.0:2379", "10.0.0.1:7001", "http://10.0.0.1:2379"),
        ("http://0.0.0.0:2379", "n1.example:7001", "http://n1.example:2379"),
        ("http://[::]:2379", "[fd00::1]:7001", "http://[fd00::1]:2379"),
        ("http://0.0.0.0:2379", "no address", ""),
        ("http://127.0.0.1:2379", "10.0.0.1:7001", ""),
        ("http://127.0.0.1:2379", "n1.example:7001", ""),
        ("http://[::1]:2379", "10.0.0.1:7001", ""),
        ("http://127.0.0.1:2379", "127.0.0.1:7001", "http://127.0.0.1:2379"),
        ("http://127.0.0.1:2379", "localhost:7001", "http://127.0.0.1:2379"),
        ("http://[::1]:2379", "[::1]:7001", "http://[::1]:2379"),
        ("http://0.0.0.0:2379", "127.0.0.1:7001", "http://127.0.0.1:2379"),
        (f"http://{'a' * 300}:1", "10.0.0.1:7001", ""),
    ],
)
def test_what_is_told_is_what_others_can_use(url: str, peer: str, told: str) -> None:
    assert advertised(url, peer) == told
