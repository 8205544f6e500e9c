"""What an operator may change while the daemon runs: the contract between the admin API and the supervisor."""

from collections.abc import Iterable
from itertools import islice
from typing import Annotated, Literal, Protocol

import msgspec

from balancer.config import addresses, model
from balancer.config.scalars import shown
from balancer.errors import BalancerError

WEIGHT_MAX = 65535  # as in the file
_NAMES_TOLD = 5

Weight = Annotated[int, msgspec.Meta(ge=0, le=WEIGHT_MAX)]
LiveWeight = Weight | Literal["file"]
"""What an operator may set: a weight, or the one that the backend's entry has, which ends a live one."""


class UnknownBackendError(BalancerError):
    """There is no such pool, or no such backend in it. The text tells a few of the names that there are.

    `known` are the names of the pools when `backend` is None, else those of the pool's backends.
    """

    def __init__(self, pool: str, backend: str | None, known: Iterable[str]) -> None:
        names = list(known)
        told = ", ".join(shown(name) for name in islice(names, _NAMES_TOLD)) or "none"
        more = f" and {len(names) - _NAMES_TOLD:,} more" if len(names) > _NAMES_TOLD else ""
        what = f"no pool {shown(pool)}" if backend is None else f"no backend {shown(backend)} in pool {shown(pool)}"
        super().__init__(f"there is {what}; there are: {told}{more}")
        self.code = "unknown_pool" if backend is None else "unknown_backend"


class RefusedChangeError(BalancerError):
    """The change cannot be made; nothing was changed. The text says why and what to do, in words for a person."""


class OutOfReachError(BalancerError):
    """Who would have to agree cannot be asked now; nothing was changed."""


class UncertainChangeError(BalancerError):
    """The change was asked for, and whether it was made is not known. The text says how to see."""


class NewBackend(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A backend to add: the keys of a backend in the file."""

    address: str
    name: str | None = None
    weight: Weight = 1
    max_connections: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] | None = None
    backup: bool = False

    def entry(self) -> model.Backend:
        """As the file would have it. Raises ValueError that says what is wrong."""
        host, port, path = "", 0, ""
        if self.address.startswith("unix:"):
            path = addresses.unix_path(self.address.removeprefix("unix:"))
            if not path.startswith("/"):
                raise ValueError(f"{shown(self.address)}: there is no folder to start from; write unix:/the/whole/path")
            if not path.isprintable():
                raise ValueError(f"{shown(self.address)} holds a control character; choose another path")
        else:
            host, port = addresses.backend_address(self.address)
        return model.Backend(
            name=self.address if self.name is None else addresses.name(self.name),
            host=host,
            port=port,
            path=path,
            weight=self.weight,
            max_connections=self.max_connections,
            backup=self.backup,
        )


class ReloadResult(msgspec.Struct, frozen=True):
    """What a reload, or its dry run, came to.

    `generation` is the one in use afterwards. `changes` tells in words what changed or would change, `problems` what
    is wrong with the file, each with its place; beside `ok` they are warnings.
    """

    ok: bool
    generation: int
    changes: list[str] = []
    problems: list[str] = []


class SupervisorChanges(Protocol):
    """What the API may ask of the supervisor. Each raises RefusedChangeError where it cannot be done now."""

    async def change(
        self, pool: str, name: str, *, weight: LiveWeight | None, drained: bool | None, everywhere: bool = False
    ) -> list[str]:
        """Set the live weight, begin or end a drain; None = leave it. Gives notes for the operator, in words.

        `everywhere`: at all balancers that share a coordination. Raises UnknownBackendError; `everywhere` also
        OutOfReachError and UncertainChangeError.
        """

    async def add(self, pool: str, spec: NewBackend) -> None:
        """Add a backend (`spec.entry()` was made without error). Raises UnknownBackendError for the pool."""

    async def delete(self, pool: str, name: str) -> None:
        """Take a backend away that was added here; one of the file is refused. Raises UnknownBackendError."""

    async def reload(self, *, dry_run: bool, discard_live: bool) -> ReloadResult:
        """Read the file again and put it to use, or tell what would change. `discard_live`: live changes end."""

    async def differs(self) -> list[str]:
        """How what is in use differs from the file, in words; empty = not at all."""
