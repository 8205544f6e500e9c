"""The handshake: two members of one cluster accept each other, and everybody else is refused with a reason."""

import dataclasses
from collections.abc import Callable
from itertools import count

import msgspec
import pytest

from balancer.consensus import peer_hello
from balancer.consensus.peer_frames import FrameReader, Member, encode, frame_bytes
from balancer.consensus.peer_hello import (
    HELLO_MAX,
    NONCE_SIZE,
    OLDEST,
    VERSION,
    Accepted,
    Handshake,
    Hello,
    HelloError,
    PeerIdentity,
    Proof,
    check_secret,
    objection,
    printable,
    refusal,
)

SECRET = b"a secret of some length"
N1 = PeerIdentity(0xC1, 11, b"1" * 16, "n1")
N2 = PeerIdentity(0xC1, 12, b"2" * 16, "n2")
MEMBERS = {
    11: Member(11, "n1", "10.0.0.1:7001", b"1" * 16),
    12: Member(12, "n2", "10.0.0.2:7001", b"2" * 16),
}
_nonces = count(1)


def side(own: PeerIdentity, secret: bytes = SECRET, **more: object) -> Handshake:
    nonce = next(_nonces).to_bytes(NONCE_SIZE, "little")
    return Handshake(own, nonce, secret, **more)  # type: ignore[arg-type]


def caller(own: PeerIdentity = N1, secret: bytes = SECRET, **more: object) -> Handshake:
    return side(own, secret, known=MEMBERS, **({"expected": MEMBERS[12]} | more))


def callee(own: PeerIdentity = N2, secret: bytes = SECRET, **more: object) -> Handshake:
    return side(own, secret, known=MEMBERS, **more)


def payloads(data: bytes) -> list[bytes]:
    reader = FrameReader(HELLO_MAX)
    reader.feed(data)
    found = []
    while (payload := reader.take()) is not None:
        found.append(payload)
    return found


def run(first: Handshake, second: Handshake) -> str:
    """Let them talk; "" when both accepted, else who refused and why. What is refused reaches the other side."""
    sides = (first, second)
    waiting = [(1, payload) for payload in payloads(first.begin())]
    while waiting:
        at, payload = waiting.pop(0)
        try:
            waiting += [(1 - at, answer) for answer in payloads(sides[at].take(payload))]
        except HelloError as error:
            refused = error
            break
    else:
        assert first.accepted
        assert second.accepted
        return ""
    with pytest.raises(HelloError) as told:
        sides[1 - at].take(payloads(refusal(refused.reason))[0])
    assert (refused.by_peer, told.value.by_peer, told.value.reason) == (False, True, refused.reason)
    assert not (first.accepted and second.accepted)
    return f"{sides[at].own.name}: {refused.reason}"


def other(identity: PeerIdentity, **changes: object) -> PeerIdentity:
    return dataclasses.replace(identity, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("secret", [SECRET, b""])
def test_two_members_accept_each_other(secret: bytes) -> None:
    one, two = caller(secret=secret), callee(secret=secret)
    assert run(one, two) == ""
    assert (one.peer, two.peer) == (N2, N1)
    assert (one.outgoing is None) == (not secret)


def test_the_seals_of_a_connection_fit_and_only_these() -> None:
    one, two = caller(), callee()
    run(one, two)
    third, fourth = caller(), callee()
    run(third, fourth)
    assert one.outgoing is not None
    mac = one.outgoing.mac(b"frame")
    fits = [
        seal is not None and seal.verify(b"frame", mac)
        for seal in (two.incoming, two.outgoing, one.incoming, third.outgoing, fourth.incoming)
    ]
    assert fits == [True, False, False, False, False]


@pytest.mark.parametrize("asking", [PeerIdentity(0, 0, b"3" * 16, "n3"), N1])
def test_anybody_with_the_secret_may_ask(asking: PeerIdentity) -> None:
    two = callee(own=PeerIdentity(0xC2, 9, b"9" * 16, "n9"))
    assert run(caller(own=asking, purpose="ask", expected=None), two) == ""
    assert two.purpose == "ask"


@pytest.mark.parametrize(
    ("one", "two", "reason"),
    [
        (caller(secret=b"another long secret"), callee(), "n1: the peer secrets of n1 and n2 differ"),
        (caller(secret=b""), callee(), "n2: n2 has a peer_secret_file and n1 has none"),
        (caller(), callee(secret=b""), "n2: n1 has a peer_secret_file and n2 has none"),
        (caller(), callee(own=other(N2, cluster_id=0xC2)), "n1: n2 belongs to cluster c2 and n1 to c1"),
        (
            caller(),
            callee(own=other(N2, cluster_id=0, node_id=0)),
            "n1: n2 belongs to no cluster: its data directory is empty",
        ),
        (
            caller(own=other(N1, cluster_id=0, node_id=0)),
            callee(),
            "n1: n1 belongs to no cluster: its data directory is empty",
        ),
        (caller(), callee(own=N1), "n1 is this member itself"),
        (caller(), callee(own=other(N2, node_id=11)), "n2 has the node id of n1 (b) and another data directory"),
        (
            caller(),
            callee(own=PeerIdentity(0xC1, 13, b"3" * 16, "n3")),
            "n1: 10.0.0.2:7001 answers as n3 (d), not as n2 (c)",
        ),
        (
            caller(),
            callee(own=other(N2, uuid=b"8" * 16)),
            "`balancer cluster members remove n2`; then start n2 with an empty data directory and `join: true`; then",
        ),
        (caller(own=other(N1, uuid=b"8" * 16)), callee(), "n2: n1 (b) is known with another data directory"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_who_does_not_belong_here_is_refused_and_both_learn_why(one: Handshake, two: Handshake, reason: str) -> None:
    assert reason in run(one, two)


def test_a_member_that_is_not_known_yet_may_talk() -> None:
    newcomer = PeerIdentity(0xC1, 77, b"7" * 16, "n7")
    assert objection(N1, newcomer, MEMBERS, None) == ""


@pytest.mark.parametrize(("version", "oldest"), [(OLDEST - 1, OLDEST - 1), (VERSION + 5, VERSION + 1)])
def test_a_version_that_is_too_old_for_either_side_is_refused(
    version: int, oldest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = callee()
    monkeypatch.setattr(peer_hello, "VERSION", version)
    monkeypatch.setattr(peer_hello, "OLDEST", oldest)
    hello = payloads(caller().begin())[0]
    monkeypatch.undo()
    with pytest.raises(HelloError, match="install the same release on both"):
        two.take(hello)


def test_a_later_version_that_understands_ours_is_welcome(monkeypatch: pytest.MonkeyPatch) -> None:
    two = callee()
    monkeypatch.setattr(peer_hello, "VERSION", VERSION + 1)
    hello = payloads(caller().begin())[0]
    monkeypatch.undo()
    longer = encode([*msgspec.msgpack.decode(hello), "what later versions add"])
    assert len(payloads(two.take(longer))) == 2


def test_the_secret_is_never_sent() -> None:
    one, two = caller(), callee()
    said = [one.begin()]
    said.append(two.take(payloads(said[0])[0]))
    for payload in payloads(said[1]):
        said.append(one.take(payload))
    said.append(two.take(payloads(said[-1])[0]))
    assert one.take(payloads(said[-1])[0]) == b""
    assert one.accepted
    assert SECRET not in b"".join(said)


def test_a_proof_that_was_recorded_is_worth_nothing_later() -> None:
    one, two = caller(), callee()
    hello = payloads(one.begin())[0]
    for payload in payloads(two.take(hello)):
        answer = one.take(payload)
    proof = payloads(answer)[0]
    again = callee()
    again.take(hello)
    with pytest.raises(HelloError, match="secrets"):
        again.take(proof)
    assert not again.accepted


def test_a_proof_sent_back_to_its_maker_is_worth_nothing() -> None:
    two = callee()
    _, proof = payloads(two.take(payloads(caller().begin())[0]))
    with pytest.raises(HelloError, match="secrets"):
        two.take(proof)
    assert not two.accepted


def talk(alter: Callable[[int, bytes], bytes]) -> tuple[Handshake, list[bytes]]:
    """A handshake up to the callee's verdict; `alter` may change each of the four payloads on its way."""
    one, two = caller(), callee()
    said = payloads(one.begin())
    said += payloads(two.take(alter(0, said[0])))
    one.take(alter(1, said[1]))
    said += payloads(one.take(alter(2, said[2])))
    two.take(alter(3, said[3]))
    return two, said


@pytest.mark.parametrize("which", range(4), ids=["the caller's hello", "the other hello", "its proof", "ours"])
def test_every_bit_of_the_handshake_counts(which: int) -> None:
    two, said = talk(lambda _, payload: payload)
    assert two.accepted
    for bit in range(8 * len(said[which])):

        def flip(number: int, payload: bytes, bit: int = bit) -> bytes:
            flipped = bytearray(payload)
            if number == which:
                flipped[bit // 8] ^= 1 << bit % 8
            return bytes(flipped)

        with pytest.raises(HelloError):
            talk(flip)


@pytest.mark.parametrize(
    "payload",
    [
        encode(Accepted()),
        encode(Proof(b"")),
        encode(["beat", 1, 2, 3, 4, 5]),
        b"GET / HTTP/1.1\r\n",
        encode(["hello", 1, 1, "rule", 1, 1, bytes(16), "n", bytes(32), True]),
        encode(["hello", 1, 1, "link", 1, 1, bytes(15), "n", bytes(32), True]),
        encode(["hello", 1, 1, "link", -1, 1, bytes(16), "n", bytes(32), True]),
    ],
    ids=range(7),
)
def test_anything_but_a_hello_at_the_beginning_is_refused(payload: bytes) -> None:
    two = callee()
    with pytest.raises(HelloError):
        two.take(payload)
    assert not two.accepted


def test_a_step_out_of_turn_is_refused() -> None:
    one, two = caller(secret=b""), callee(secret=b"")
    hello = payloads(one.begin())[0]
    two.take(hello)
    with pytest.raises(HelloError, match="Hello out of turn"):
        two.take(hello)
    with pytest.raises(HelloError, match="Accepted out of turn"):
        one.take(encode(Accepted()))
    run(caller(), second := callee())
    with pytest.raises(HelloError, match="out of turn"):
        second.take(encode(Proof(b"")))


def test_the_words_of_a_stranger_are_fit_for_a_log() -> None:
    one = caller()
    one.begin()
    with pytest.raises(HelloError) as refused:
        one.take(payloads(refusal("bad\nnews\x1b[31m"))[0])
    assert refused.value.reason == "bad?news?[31m"
    assert len(printable("x" * 5000)) == 1000
    assert len(refusal("x" * 5000)) < HELLO_MAX
    hello = Hello(1, 1, "link", 0xC1, 12, b"2" * 16, "n2\n", bytes(32), True)
    one.take(encode(hello))
    assert one.peer is not None
    assert one.peer.name == "n2?"


def test_a_short_secret_is_no_secret() -> None:
    assert check_secret(b"0123456789abcdef\n") == b"0123456789abcdef"
    with pytest.raises(ValueError, match="15 bytes"):
        check_secret(b"0123456789abcde\r\n")


def test_a_frame_of_the_handshake_is_not_sealed() -> None:
    assert payloads(frame_bytes(encode(Accepted()), None)) == [encode(Accepted())]
