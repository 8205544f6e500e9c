"""What a process of the daemon does to itself: its signals, and how seldom its memory is walked."""

import gc
import signal

LARGE = 2
"""Collections of the young that say that much was made: 100,000 objects."""


def settle_memory() -> None:
    """Everything made at the start stays: keep the collector from walking it again and again.

    A collection of the young is then due after 50,000 allocations instead of 700: exchanges free what they use by
    reference counting, so there is little to find, and each pass costs every request that waits.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


class Settling:
    """Keeps a large configuration that came later out of the collector's way, too.

    Without it, one of the next passes would walk all of it at once: 200 ms for 10,000 backends.
    """

    def __init__(self) -> None:
        self._before = _young_collections()

    def begin(self) -> None:
        """Something is about to be made that will stay."""
        self._before = _young_collections()

    def settle(self) -> None:
        """It is made. A few milliseconds where it is large, else nothing."""
        if _young_collections() - self._before >= LARGE:
            gc.collect(0)
            gc.freeze()
        self._before = _young_collections()


def _young_collections() -> int:
    count: int = gc.get_stats()[0]["collections"]
    return count


def ignore_signals() -> None:
    """The supervisor decides. It held these back until now, so none was lost on us before."""
    held_back = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}
    for number in held_back:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, held_back)
