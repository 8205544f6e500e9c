"""What outlives a generation in this worker: the supervisor's standings, the retry budgets, the lines of who waits.

Kept by slot and by pool name. A new generation's plans are given them when it is committed, so that a reload neither
forgets who is ejected, nor refills a budget, nor drops who waits.
"""

from collections.abc import Iterable

import msgspec

from balancer.balancing.backend import BackendState, LoadTable
from balancer.clock import monotonic
from balancer.config import model
from balancer.proxy.snapshot import PoolPlan, Snapshot
from balancer.proxy.waiting import WaitingLine
from balancer.resilience.retry_budget import RetryBudget
from balancer.resilience.standing import Standing
from balancer.transport.timers import Deadlines


class LiveStates:
    """The states of one worker."""

    def __init__(self, tokens: LoadTable, deadlines: Deadlines) -> None:
        """`tokens`: the table of retry tokens that all workers share, by slot."""
        self._tokens = tokens
        self._deadlines = deadlines
        self._standings: dict[int, Standing] = {}
        self._down: frozenset[str] = frozenset()
        self._budgets: dict[str, tuple[int, RetryBudget]] = {}  # by pool; with the column in which it stands
        self._lines: dict[str, WaitingLine] = {}
        self._plans: dict[str, PoolPlan] = {}
        self._backends: dict[int, BackendState] = {}

    def take_over(self, snapshot: Snapshot) -> None:
        """`snapshot` is about to serve. O(backends)."""
        self._plans = dict(snapshot.pools)
        self._backends = {backend.slot: backend for backend in snapshot.backends.values()}
        self._standings = {slot: each for slot, each in self._standings.items() if slot in self._backends}
        for pool in snapshot.config.pools:
            plan = snapshot.pools[pool.name]
            plan.budget = self._budget(pool, plan, snapshot.config.workers)
            plan.line = self._line(pool, plan)
        self._budgets = {name: each for name, each in self._budgets.items() if name in self._plans}
        self._lines = {name: each for name, each in self._lines.items() if name in self._plans or len(each)}
        self._apply(self._standings.values(), all_pools=True)
        now = monotonic()
        for line in self._lines.values():  # there may be room now, or no waiting any more
            if len(line):
                line.wake(now)

    def _budget(self, pool: model.Pool, plan: PoolPlan, workers: int) -> RetryBudget | None:
        if pool.retry is None or not plan.state.backends:
            return None
        column = plan.state.backends[0].slot  # no other pool has it
        share, reserve = pool.retry.budget, pool.retry.budget_min / workers
        known = self._budgets.get(pool.name)
        if known is not None and known[0] == column:
            known[1].configure(share=share, reserve=reserve)
            return known[1]
        now = monotonic()
        budget = RetryBudget(self._tokens, column, share=share, reserve=reserve, now=now)
        if known is not None:  # it only stands elsewhere: another backend is the first one
            known[1].tick(now)
            own = self._tokens.own
            own[column], own[known[0]] = own[known[0]], 0
        self._budgets[pool.name] = (column, budget)
        return budget

    def _line(self, pool: model.Pool, plan: PoolPlan) -> WaitingLine | None:
        line = self._lines.get(pool.name)
        if line is not None:
            line.configure(plan, seconds=pool.queue_timeout or 0.0, most=pool.queue_max)
        if pool.queue_timeout is None or not any(backend.max_connections for backend in pool.backends):
            return None  # who waits is served, or told, as the generation comes into use
        if line is None:
            line = WaitingLine(plan, self._deadlines, seconds=pool.queue_timeout, most=pool.queue_max)
            self._lines[pool.name] = line
        return line

    def told(self, changes: Iterable[Standing], down: Iterable[str]) -> None:
        """The supervisor decided. Standings of slots that no backend has yet are kept for the next generation."""
        changes = list(changes)
        self._standings.update((standing.slot, standing) for standing in changes)
        before, self._down = self._down, frozenset(down)
        for name in before ^ self._down:
            if name in self._plans:
                self._plans[name].state.down = name in self._down
        self._apply(changes)

    def _apply(self, changes: Iterable[Standing], *, all_pools: bool = False) -> None:
        """`all_pools`: another generation takes over what was decided before."""
        for name, plan in self._plans.items() if all_pools else ():
            plan.state.down = name in self._down
        touched: dict[str, None] = {}
        for standing in list(changes):
            backend = self._backends.get(standing.slot)
            if backend is None:
                continue
            before = backend.eligible, backend.weight, backend.share, backend.doubtful
            decided = standing.eligible, standing.weight, standing.share, standing.doubtful
            if decided != before:  # a rebuild costs O(n log n), and a reload replays everything
                backend.eligible, backend.weight, backend.share, backend.doubtful = decided
                touched[backend.pool] = None
            state = self._plans[backend.pool].state
            if standing.trial and backend not in state.trials:
                state.trials.append(backend)
                state.trials_since = monotonic()
                # A reload replays standings: it must not offer the one request again.
                self._standings[standing.slot] = msgspec.structs.replace(standing, trial=False)
            elif not standing.trial and not all_pools and backend in state.trials:
                state.trials.remove(backend)
        now = monotonic()
        for name in touched:
            plan = self._plans[name]
            plan.state.rebuild()
            if plan.line is not None and len(plan.line):
                plan.line.wake(now)

    def each_second(self, now: float) -> None:
        """Deposit into the budgets. O(pools)."""
        for _, budget in self._budgets.values():
            budget.tick(now)
