"""What the supervisor decided about a backend: whether it is picked, and how much of the traffic it gets."""

import msgspec


class Standing(msgspec.Struct, frozen=True, array_like=True):
    """The standing of the backend in `slot`.

    `weight` is the live one (0 = no new traffic), before `share`. `share` in (0, 1] is what slow start and a latency
    outlier leave of it. `trial`: an ejected backend's one real request: this worker sends it its next suitable request
    and tells the outcome, whatever `eligible` says. `doubtful`: it is eligible only because too few are usable (panic,
    or not checked yet): a further attempt goes to others first.
    """

    slot: int
    eligible: bool
    weight: int
    share: float = 1.0
    trial: bool = False
    doubtful: bool = False
