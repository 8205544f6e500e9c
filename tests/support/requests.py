"""A request as routes see it, for tests of routing."""

from collections.abc import Mapping, Sequence

from balancer.http1.target import normalise_path, split_query


class FakeRequest:
    """Satisfies routing's Request; `touched` records what was asked for beyond method and host."""

    def __init__(
        self,
        target: bytes = b"/",
        *,
        method: bytes = b"GET",
        host: bytes = b"",
        fields: Mapping[bytes, Sequence[bytes]] | None = None,
    ) -> None:
        self.method = method
        self.host = host
        self.touched: set[str] = set()
        self._target = target
        self._fields = fields or {}

    @property
    def path(self) -> bytes:
        """The path in its normal form."""
        self.touched.add("path")
        return normalise_path(split_query(self._target)[0])

    @property
    def query(self) -> bytes:
        """The raw query."""
        self.touched.add("query")
        return split_query(self._target)[1]

    def field(self, name: bytes) -> list[bytes]:
        """All values of a field."""
        self.touched.add("field")
        return list(self._fields.get(name, ()))
