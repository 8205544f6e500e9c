"""Frames on their way: lost, late, repeated, out of order, and links that are cut or clogged."""

from typing import TYPE_CHECKING

from balancer.consensus.peer_frames import Frame

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World

Link = tuple[int, int]


class Network:
    """Directed links between members. A cut one loses what is sent; what was under way before arrives."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._cuts: list[frozenset[Link]] = []
        self._closed: frozenset[Link] = frozenset()
        self._clogged: dict[Link, float] = {}  # until when
        self._latest: dict[Link, float] = {}
        self._gone: dict[int, float] = {}  # what a member sent up to then is lost, if it is still under way
        self.calm = False  # nothing is lost any more

    def send(self, sender: int, to: int, frame: Frame) -> None:
        """Delivers it some time, or not."""
        world = self._world
        link = (sender, to)
        if link in self._closed:
            return
        dials, rng = world.dials, world.rng
        if self.calm:
            world.timeline.after(0.001, self._arrive, link, frame, world.timeline.now)
            return
        if dials.loss and rng.random() < dials.loss:
            return
        copies = 2 if dials.repeats and rng.random() < dials.repeats else 1
        now = world.timeline.now
        clogged = max(self._clogged.get(link, 0.0) - now, 0.0) if self._clogged else 0.0
        for _ in range(copies):
            delay = clogged + dials.delay_least + rng.expovariate(1 / dials.delay_mean)
            if dials.in_order:
                at = self._latest[link] = max(now + delay, self._latest.get(link, 0.0))
                delay = at - now
            world.timeline.after(delay, self._arrive, link, frame, now)

    def _arrive(self, link: Link, frame: Frame, sent_at: float) -> None:
        member = self._world.members[link[1]]
        if member.up and sent_at > self._gone.get(link[0], -1.0):
            member.happen(member.life, "frame", member.receive, link[0], frame)

    def lose_sent_by(self, id: int) -> None:
        """What it has sent and nobody has received was in its own buffers."""
        self._gone[id] = self._world.timeline.now

    def cut(self, links: frozenset[Link]) -> None:
        """Until `mend`."""
        self._cuts.append(links)
        self._closed = frozenset().union(*self._cuts)

    def clog(self, links: frozenset[Link], seconds: float) -> None:
        """What is sent meanwhile arrives afterwards."""
        until = self._world.timeline.now + seconds
        self._clogged.update(dict.fromkeys(sorted(links), until))

    def mend(self, links: frozenset[Link]) -> None:
        """What another cut holds closed as well stays closed."""
        if links in self._cuts:
            self._cuts.remove(links)
        self._closed = frozenset().union(*self._cuts)

    def mend_all(self) -> None:
        """Every link delivers."""
        self._cuts.clear()
        self._closed = frozenset()
