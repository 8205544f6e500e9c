"""What host names meant when they were looked up last: for a change that is not about names, and must not wait."""

from collections.abc import Iterable, Mapping

import structlog

from balancer.config.model import Config, ResolvedBackend
from balancer.daemon.resolve import Lookup, look_up
from balancer.telemetry import events

log = structlog.get_logger()

ASK_AGAIN = 10.0
"""Seconds for which a name that could not be resolved is not asked for again: its server may be silent, not wrong."""


class KnownNames:
    """Which names could not be resolved, and until when that is taken for granted."""

    def __init__(self) -> None:
        self._failed: dict[str, tuple[float, str]] = {}

    def tell_failed(self, config: Config, failures: Mapping[str, str], now: float) -> None:
        """These names of `config` have no address. The log is told of those that were asked for. O(backends)."""
        asked = {name for name in failures if self._failed.get(name, (0.0, ""))[0] <= now}
        self._failed = {
            name: (now + ASK_AGAIN, why) if name in asked else self._failed[name] for name, why in failures.items()
        }
        for pool in config.pools if asked else ():
            for backend in pool.backends:
                if backend.host in asked:
                    about = log.bind(pool=pool.name, backend=backend.name, host=backend.host)
                    about.warning(events.NAME_FAILED, error=failures[backend.host])

    def forget(self) -> None:
        """Everything is to be asked for again."""
        self._failed = {}

    def lookup(self, backends: Iterable[ResolvedBackend], now: float, ask: Lookup = look_up) -> Lookup:
        """Names that `backends` have mean what they mean there, only others are asked for. O(backends)."""
        known: dict[str, dict[str, None]] = {}
        for one in backends:
            if one.host != one.address[0]:
                known.setdefault(one.host, {})[one.address[0]] = None

        async def found(host: str) -> list[str]:
            if host in known:
                return list(known[host])
            until, why = self._failed.get(host, (0.0, ""))
            if until > now:
                raise OSError(0, why)
            return list(await ask(host))

        return found
