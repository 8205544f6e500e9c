"""Frames between members under fuzz: a short campaign on every run, the long one on request; and that both can fail."""

from collections.abc import Callable

import pytest

from balancer.consensus import peer_frames, peer_hello
from balancer.consensus.peer_frames import FrameReader, Seal
from balancer.consensus.peer_hello import Handshake
from tests.fuzz.peer_frames import FindingError, run

SEED = 20261121


def check_variety(labels: dict[str, int], count: int) -> None:
    """Every kind of input occurs, good ones and bad ones."""
    assert sum(labels.values()) == count
    assert {label.partition(",")[0] for label in labels} >= {"sealed", "plain"}
    assert labels["handshake: accepted, good"] > count / 200
    assert labels["handshake: refused"] > count / 50
    assert labels["sealed, none: read"] > count / 50
    assert labels["plain, none: read"] > count / 50
    assert len({label.partition(":")[0] for label in labels}) > 20


def test_a_short_campaign_finds_nothing() -> None:
    check_variety(run(SEED, 6_000), 6_000)


@pytest.mark.full
@pytest.mark.timeout(0)
def test_a_long_campaign_finds_nothing() -> None:
    check_variety(run(SEED + 1, 500_000, jobs=2), 500_000)


def test_a_number_names_an_input_for_good() -> None:
    assert run(5, 300) == run(5, 300)
    assert run(5, 300) != run(6, 300)


def _raw(decode: Callable[[bytes], object], payload: bytes) -> object:
    return decode(payload)


def _cut_short(reader: FrameReader) -> bytes | None:
    payload = _TAKE(reader)
    return payload[:-1] if payload else payload


_TAKE = FrameReader.take
_FEED = FrameReader.feed


def _forgetful(reader: FrameReader, data: bytes) -> None:
    reader._data, reader._position = b"", 0
    _FEED(reader, data)


PLANTS: dict[str, tuple[object, str, object]] = {
    "a mac that is not looked at": (Seal, "verify", lambda seal, payload, mac: bool(seal.mac(payload)) or True),
    "frames that are not numbered": (Seal, "mac", lambda seal, payload: bytes(peer_frames.MAC_SIZE)),
    "errors of the decoder that get through": (peer_frames, "_decoded", _raw),
    "entries that are not looked at": (peer_frames, "_check_entries", lambda append: None),
    "snapshots' parts that are not looked at": (peer_frames, "_check_chunk", lambda chunk: None),
    "numbers that are not looked at": (peer_frames, "INT_MAX", 2**64),
    "a payload that loses its end": (FrameReader, "take", _cut_short),
    "a reader that forgets the beginning of a frame": (FrameReader, "feed", _forgetful),
    "a proof that is not looked at": (Handshake, "_mac", lambda handshake, role: b"constant"),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_fault_is_found(plant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, name, what = PLANTS[plant]
    monkeypatch.setattr(where, name, what)
    with pytest.raises(FindingError, match="--replay"):
        run(SEED, 6_000)


def test_hellos_are_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_hello, "_decode", lambda payload: peer_frames.decode_frame(payload))
    with pytest.raises(FindingError, match="handshake"):
        run(SEED, 300)
