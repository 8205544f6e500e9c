"""The log's reader under fuzz: a short campaign on every run, the long one on request; and that both can fail."""

from collections.abc import Callable
from typing import Any

import pytest

from balancer.consensus import wal_record, wal_replay, wal_tail
from balancer.consensus.wal_replay import Replayed
from tests.fuzz.damaged_logs import CHANGES, SAMPLES, sample
from tests.fuzz.log_reader import FindingError, run

SEED = 20261121


def check_variety(labels: dict[str, int], count: int) -> None:
    """Every kind of damage occurs, in sealed logs and in others, and not all of it is refused."""
    assert sum(labels.values()) == count
    kinds = {label.partition(":")[0] for label in labels}
    assert kinds == {f"{how}, {kind}" for how in ("sealed", "open") for kind in [*CHANGES, "several", "undamaged"]}
    read = {label.partition(": ")[2]: 0 for label in labels}
    for label, number in labels.items():
        read[label.partition(": ")[2]] += number
    assert read["read, all"] > count / 10
    assert read["read, some"] > count / 50
    assert read["read, all that was durable"] > count / 200
    assert read["read, forged"] > count / 500
    assert read["refused"] > count / 2


def test_a_short_campaign_finds_nothing() -> None:
    check_variety(run(SEED, 6_000), 6_000)


@pytest.mark.full
@pytest.mark.timeout(0)
def test_a_long_campaign_finds_nothing() -> None:
    check_variety(run(SEED + 1, 500_000, jobs=2), 500_000)


def test_a_number_names_an_input_for_good() -> None:
    assert run(5, 300) == run(5, 300)
    assert run(5, 300) != run(6, 300)


def _without_checksums(data: bytes, start: int, crc: int) -> tuple[list[wal_record.Record], int, int]:
    """`decode` that believes every head."""
    records: list[wal_record.Record] = []
    while start + wal_record.SMALLEST <= len(data):
        length, type_, kind, check, index, term = wal_record.HEAD.unpack_from(data, start)
        end = start + wal_record.record_size(length)
        if end > len(data) or not check:
            break
        body = start + wal_record.HEAD.size
        records.append((type_, kind, index, term, data[body : body + length], start))
        start, crc = end, int.from_bytes(data[end - 4 : end], "little")
    return records, start, crc


def _overlooking(name: str) -> Callable[..., None]:
    """A rule of the log that lets pass what breaks it."""
    rule = getattr(wal_replay, name)

    def apply(state: Replayed, *given: Any, **named: Any) -> None:
        try:
            rule(state, *given, **named)
        except ValueError:
            if name == "_append":
                state.entries.append(given[0])
            else:
                state.hard_state = given[0]

    return apply


PLANTS: dict[str, tuple[object, str, object]] = {
    "seals that are not looked for": (wal_tail, "find_seal", lambda *_: -1),
    "every damage taken for a torn write": (wal_tail, "_torn", lambda *_: True),
    "lengths that are not checked": (wal_tail, "check_of", lambda *_: wal_tail),
    "checksums that are not looked at": (wal_replay, "decode", _without_checksums),
    "a torn write taken for damage": (wal_replay, "end_of_tail", lambda data, header, stop, name: stop),
    "entries that may leave a gap": (wal_replay, "_append", _overlooking("_append")),
    "terms and commits that may be anything": (wal_replay, "_set_hard_state", _overlooking("_set_hard_state")),
    "errors that get through": (wal_replay, "decode_mark", lambda index, term, data: data[1000]),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_fault_is_found(plant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(SAMPLES):
        sample(number)  # is made by what is not broken yet
    where, name, what = PLANTS[plant]
    monkeypatch.setattr(where, name, what)
    with pytest.raises(FindingError, match="--replay"):
        run(SEED, 6_000)
