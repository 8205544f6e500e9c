"""What a seed decides about its history before it begins (swarm testing: in each one some faults are off)."""

from dataclasses import dataclass
from random import Random

from balancer.raft.limits import Limits

TICK = 0.05
MAX_RATE = 1.05
"""No clock runs faster or slower than true time by more than this factor."""

FAULTS = ("crash", "restart", "pause", "partition", "slow", "fail", "wipe", "change")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dials:
    """Times in seconds, chances from 0 to 1."""

    size: int
    span: float  # of the faults
    fault_mean: float  # between two of them
    weights: dict[str, int]  # of the faults
    delay_least: float
    delay_mean: float
    loss: float
    repeats: float
    in_order: bool  # as connections deliver
    disk_mean: float
    garble: float
    lag: float  # between an input and its pump: inputs of that time share it; 0 = none
    drift: bool
    election_ticks: int
    heartbeat_ticks: int
    snapshot_every: int
    segment_bytes: int
    limits: Limits
    writers: int
    lockers: int


def drawn(rng: Random) -> Dials:
    """The dials of a history."""
    weights = {fault: rng.choice((0, 1, 1, 3)) for fault in FAULTS}
    weights["crash"] += 3
    weights["change"] *= 2
    weights["wipe"] = min(weights["wipe"], 1)
    return Dials(
        size=rng.choice((3, 3, 5)),
        span=12.0,
        fault_mean=rng.choice((0.4, 0.6, 1.0)),
        weights=weights,
        delay_least=rng.choice((0.0001, 0.001, 0.005)),
        delay_mean=rng.choice((0.0005, 0.003, 0.02)),
        loss=rng.choice((0.0, 0.0, 0.01, 0.1)),
        repeats=rng.choice((0.0, 0.0, 0.02, 0.2)),
        in_order=rng.random() < 0.5,
        disk_mean=rng.choice((0.0003, 0.002, 0.01)),
        garble=rng.choice((0.0, 0.3)),
        lag=rng.choice((0.0, 0.0, 0.002)),
        drift=rng.random() < 0.7,
        election_ticks=rng.choice((6, 8)),
        heartbeat_ticks=rng.choice((1, 2, 2)),
        snapshot_every=rng.choice((15, 40, 1_000)),
        segment_bytes=rng.choice((4_096, 16_384)),
        limits=Limits(
            append_bytes_max=rng.choice((300, 2_000, 1 << 20)),
            in_flight_max=rng.choice((2, 16)),
            committed_bytes_max=rng.choice((400, 4 << 20)),
            chunk_bytes=rng.choice((300, 1_500, 8_000)),
            kept_entries_max=rng.choice((0, 5, 30)),
            promote_lag_max=10,
        ),
        writers=rng.choice((3, 4, 5)),
        lockers=rng.choice((1, 2, 3)),
    )
