"""All members of a cluster go down at once, again and again, and start at the same moment: each time it serves again.

PySyncObj issue 201: of some twenty such restarts one left a member that did not start, or members that differed.
"""

from dataclasses import replace

import pytest

from tests.simulation.cluster.laws import BrokenLawError
from tests.simulation.cluster.member import Member
from tests.simulation.cluster.world import World

TIMES = 5
SECONDS = 8.0
"""Between two of them: enough for an election in which a tenth of the messages is lost."""


class Restarting(World):
    """A history without other faults, except that one start in twenty is cut short by another loss of power."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        weights = {**self.dials.weights, "wipe": 0}
        self.dials = replace(self.dials, weights=weights, fault_mean=1e9, span=SECONDS * (TIMES + 1.5))
        self._written = 0
        self.timeline.after(SECONDS, self._strike)

    def restart_later(self, member: Member) -> None:
        self.timeline.after(0.05, member.restart)

    def _strike(self) -> None:
        """Between two of these something was written."""
        written, self._written = self._written, self.clients.done["write"]
        if self._written <= written:
            raise BrokenLawError(f"nothing was written in {SECONDS} s, after {self.counts['all went down']} restarts")
        if self.healing or self.counts["all went down"] == TIMES:
            return
        self.counts["all went down"] += 1
        how = self.rng.choice((Member.crash, Member.crash, Member.kill, Member.stop))
        for member in [each for each in self.members.values() if each.up]:
            how(member)
        self.timeline.after(SECONDS, self._strike)


@pytest.mark.parametrize("seed", range(6))
def test_bug_21_a_whole_cluster_that_goes_down_serves_again(seed: int) -> None:
    """With everything that was acknowledged, and of one mind: see `laws`, `calm` and the judgement of a history."""
    counts = Restarting(seed).run()
    assert counts["all went down"] == TIMES


def test_members_that_never_come_back_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Restarting, "restart_later", lambda world, member: None)
    with pytest.raises(BrokenLawError, match=r"nothing was written in 8\.0 s, after 1 restarts"):
        Restarting(0).run()
