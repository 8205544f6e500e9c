"""A machine that is watched: every applied entry is published, as a member does."""

from balancer.coordination.command import Request
from balancer.coordination.requests import WatchCreateRequest
from balancer.coordination.responses import Event, EventType, WatchResponse
from balancer.coordination.state_machine import Applied
from balancer.coordination.watches import QUEUE_SIZE_MAX, WatchHub, WatchStream
from tests.unit.coordination.machine import Machine


class Watched(Machine):
    """With a hub, and one stream that tests may use."""

    def __init__(self, *, queue_size_max: int = QUEUE_SIZE_MAX) -> None:
        super().__init__()
        self.hub = WatchHub(self.state.space, queue_size_max=queue_size_max)
        self.stream = self.hub.open()

    def apply(self, request: Request, **command: int) -> Applied:
        applied = super().apply(request, **command)
        self.hub.publish(applied.changes)
        return applied

    def watch(self, key: bytes = b"\0", range_end: bytes = b"\0", start: int = 0, **fields: object) -> int:
        """Create a watch and take the answer to that; its number."""
        self.stream.create(WatchCreateRequest(key, range_end, start, **fields))  # type: ignore[arg-type]
        created = self.stream.take()
        assert created is not None
        assert created.created
        return created.watch_id

    def taken(self, stream: WatchStream | None = None, limit: int = 100_000) -> list[WatchResponse]:
        """All that there is to take now."""
        stream = stream or self.stream
        found: list[WatchResponse] = []
        for _ in range(limit):
            if not stream.ready:
                return found
            if (response := stream.take()) is not None:
                found.append(response)
        raise AssertionError("the stream never comes to an end")

    def events(self, watch_id: int | None = None) -> list[Event]:
        """The events of all that there is to take now."""
        return [
            event for response in self.taken() if watch_id in (None, response.watch_id) for event in response.events
        ]


def told(events: list[Event]) -> list[tuple[str, bytes, int]]:
    """Events in short."""
    return [
        ("put" if event.type is EventType.PUT else "delete", event.kv.key, event.kv.mod_revision) for event in events
    ]
