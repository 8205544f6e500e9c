"""Who waits for a lock or an election on this member, judged after every applied entry.

The judgement is made on the state as that entry left it. So nobody is given what it had already lost by then, and
nobody is overlooked between asking and waiting.
"""

from collections.abc import Iterator
from typing import NamedTuple

from balancer.coordination.key_space import KeySpace
from balancer.coordination.locks import Claim, Standing, first_revision, standing
from balancer.coordination.revision_log import Changes


class Verdict(NamedTuple):
    """A claim that waits no longer, since `revision`."""

    claim: Claim
    standing: Standing
    revision: int


class Waiters:
    """The claims that wait, by the prefix under which they do. Several may wait with one claim: it is judged once."""

    def __init__(self) -> None:
        self._claims: dict[bytes, dict[Claim, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._claims.values()))

    def wait(self, space: KeySpace, claim: Claim) -> Standing:
        """What the claim is worth now; where that is WAITING, a verdict will come."""
        now = standing(space, claim)
        if now is Standing.WAITING:
            self._claims.setdefault(claim.prefix, {})[claim] = None
        return now

    def give_up(self, claim: Claim) -> None:
        """No verdict is wanted any more. The claim itself is given up by `locks.release`."""
        claims = self._claims.get(claim.prefix, {})
        claims.pop(claim, None)
        if not claims:
            self._claims.pop(claim.prefix, None)

    def applied(self, space: KeySpace, changes: Changes) -> list[Verdict]:
        """Who waits no longer, after an entry with these changes. O(changes), and O(keys) for each prefix concerned.

        Only a deletion can end a wait: of the key before, or of the own one.
        """
        if not self._claims:
            return []
        concerned = {prefix: None for kv in changes if not kv.version for prefix in self._prefixes_of(kv.key)}
        return [verdict for prefix in concerned for verdict in self._judge(space, prefix)]

    def restored(self, space: KeySpace) -> list[Verdict]:
        """Who waits no longer, after the state was replaced by a snapshot's."""
        return [verdict for prefix in list(self._claims) for verdict in self._judge(space, prefix)]

    def _prefixes_of(self, key: bytes) -> Iterator[bytes]:
        """The prefixes with waiters that `key` is under: a name may have slashes, and so lie under another."""
        at = key.find(b"/")
        while at >= 0:
            if (prefix := key[: at + 1]) in self._claims:
                yield prefix
            at = key.find(b"/", at + 1)

    def _judge(self, space: KeySpace, prefix: bytes) -> list[Verdict]:
        first = first_revision(space, prefix)
        verdicts: list[Verdict] = []
        for claim in list(self._claims[prefix]):
            own = space.get(claim.key)
            if own is None or own.create_revision != claim.revision:
                verdicts.append(Verdict(claim, Standing.LOST, space.revision))
            elif claim.revision <= first:
                verdicts.append(Verdict(claim, Standing.HELD, space.revision))
            else:
                continue
            self.give_up(claim)
        return verdicts
