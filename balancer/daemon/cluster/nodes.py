"""Which balancers live: each keeps a key with a lease of its own, and hears of the keys of all.

    /balancer/nodes/NAME  {"version": 1, "pools": {"api": "3f2a..."}}

A balancer that ends gives its lease back, and the others hear of it within milliseconds. One that dies or is cut off is
gone when its lease ends: within TTL, and after an election of the cluster's, which gives every lease its time anew,
within that and the election. It finds out itself before that: `known` says so.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec
import structlog

from balancer.consensus.client_errors import LeaseLostError
from balancer.consensus.client_kv import created_at, get, missing, modified_at, put
from balancer.consensus.client_lease import Lease
from balancer.coordination.responses import Event, EventType, KeyValue, RangeResponse, TxnResponse
from balancer.daemon.cluster.link import ClusterLink, Reached
from balancer.telemetry import events

log = structlog.get_logger()

PREFIX = "/balancer/nodes/"
TTL = 2.0
"""Seconds: the least that an etcd grants, and short enough for somebody else to go on with what a dead one did."""

NODES_MAX = 256
"""Balancers that are taken notice of; many times what a cluster is made for."""

NAME_LOOK = 0.5
"""Seconds between two looks at a name that somebody else has."""
NAME_PATIENCE = 3 * TTL
"""Seconds before that is an error. After a crash the old key lives for its TTL, and an election gives it another."""

VERSION = 1
_OWN_LEASES = 8  # that are remembered: the last one matters, and those before it whose end is not known


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a balancer says of itself. `pools`: a digest of each pool's configuration by name, as `tell` was told."""

    pools: dict[str, str] = {}
    version: int = VERSION


class Nodes:
    """The balancers that live, by name, this one included.

    `live` stays as it was last known while the cluster cannot be asked; look at `known` first where that matters.
    """

    def __init__(self, link: ClusterLink) -> None:
        self.name = link.name
        self._link = link
        self._key = f"{PREFIX}{link.name}"
        self._info = NodeInfo()
        self._live: dict[str, NodeInfo] = {}
        self._following = False
        self._hearers: list[Callable[[], None]] = []
        self._complained: set[str] = set()
        # This balancer's own key.
        self._lease: Lease | None = None
        self._own_leases: deque[int] = deque(maxlen=_OWN_LEASES)
        self._said = self._info  # what stands in it
        self._written = 0  # the revision of the last change of it that was ours
        self._deleted = 0  # a revision at which it was not there
        self._wake = asyncio.Event()  # something is to be written, or it is gone

    # ---- what others need

    @property
    def live(self) -> Mapping[str, NodeInfo]:
        """Every balancer that lives, as last known. What was asked for once does not change afterwards."""
        return MappingProxyType(self._live)

    @property
    def known(self) -> bool:
        """Whether `live` is up to date: this balancer is one of them, by its own clock, and hears of the others.

        False at the start, while the cluster cannot be asked, and while somebody else has this balancer's name.
        """
        return self.lease is not None and self._following and self.name in self._live

    @property
    def lease(self) -> Lease | None:
        """What this balancer's life is bound to; further keys may be bound to it. None: it has none now.

        Another one after it was lost: whatever was bound to that one ends with it within TTL, unless it is put anew.
        """
        return self._lease if self._lease is not None and self._lease.held else None

    def on_change(self, tell: Callable[[], None]) -> None:
        """Call `tell` whenever `live`, `known` or `lease` may have changed. It must not wait, nor raise."""
        self._hearers.append(tell)

    def tell(self, pools: Mapping[str, str]) -> None:
        """Say this of the pools of this balancer, now and after a reconnection. Nothing is awaited."""
        if self._info.pools != pools:
            self._info = NodeInfo(pools=dict(pools))
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled; then this balancer's key is given back as far as that is quick."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._link.keep("node", self._belong))
            tasks.create_task(self._link.keep("nodes", self._follow))

    # ---- this balancer's key

    async def _belong(self, reached: Reached) -> None:
        """One lease's life."""
        await self._link.client.get(self._key)  # a lease's time counts from when it is asked for, so wait before that
        lease = await self._link.client.lease(TTL).start()
        self._own_leases.append(lease.id)
        try:
            async with lease.while_held():
                while True:
                    created = await self._enter(lease, reached)
                    self._lease = lease
                    self._changed()
                    await self._stay(lease, created)
                    self._lease = None
        except LeaseLostError:
            raise  # and not given back: the key may live on and go over to the next one, so that nobody sees a gap
        except BaseException:
            await lease.give_up()
            raise
        finally:
            self._lease = None
            self._changed()

    async def _enter(self, lease: Lease, reached: Reached) -> int:
        """Put the key, once nobody else has the name. Its create_revision."""
        client = self._link.client
        while True:
            info = self._info
            mine = put(self._key, msgspec.json.encode(info), lease=lease)
            answer = await client.txn([missing(self._key)], then=[mine], otherwise=[get(self._key)])
            reached()
            there = None if answer.succeeded else _only(answer)
            if there is not None:
                if there.lease not in self._own_leases:
                    await self._until_free()
                    continue
                answer = await client.txn([modified_at(self._key, there.mod_revision)], then=[mine])
            if answer.succeeded:
                self._written, self._said = answer.header.revision, info
                return self._written if there is None else there.create_revision

    async def _until_free(self) -> None:
        """Wait until nobody has the name. By looking: who hears nothing shall not wait for ever."""
        now = asyncio.get_running_loop().time
        patient_until, complained = now() + NAME_PATIENCE, False
        while await self._link.client.get(self._key) is not None:
            if not complained and now() >= patient_until:
                complained = True
                log.error(events.NODE_NAME_TAKEN, node=self.name, key=self._key)
            await asyncio.sleep(NAME_LOOK)

    async def _stay(self, lease: Lease, created: int) -> None:
        """Keep the key up to date until it is gone: somebody deleted it."""
        while self._deleted <= self._written:
            info = self._info
            if info == self._said:
                self._wake.clear()
                await self._wake.wait()
                continue
            mine = put(self._key, msgspec.json.encode(info), lease=lease)
            answer = await self._link.client.txn([created_at(self._key, created)], then=[mine])
            if not answer.succeeded:
                return
            self._written, self._said = answer.header.revision, info

    def _own_is_gone(self, revision: int) -> None:
        self._deleted = max(self._deleted, revision)
        self._wake.set()

    # ---- those of all

    async def _follow(self, reached: Reached) -> None:
        def begun() -> None:
            self._following = True
            reached()
            self._changed()

        try:
            await self._link.follow(PREFIX, read=self._read, heard=self._heard, reached=begun)
        finally:
            self._following = False
            self._changed()

    def _read(self, answer: RangeResponse) -> None:
        found = {kv.key.decode("utf-8", "replace"): kv for kv in answer.kvs}
        if self._key not in found:
            self._own_is_gone(answer.header.revision)
        if len(found) > NODES_MAX:
            self._complain(PREFIX, f"more than {NODES_MAX} balancers: the others are not taken notice of")
        live = {}
        for key, kv in list(found.items())[:NODES_MAX]:
            if (info := self._info_in(key, kv)) is not None:
                live[key.removeprefix(PREFIX)] = info
        self._become(live)

    def _heard(self, event: Event) -> None:
        key = event.kv.key.decode("utf-8", "replace")
        live = dict(self._live)
        if event.type is EventType.DELETE:
            self._complained.discard(key)
            live.pop(key.removeprefix(PREFIX), None)
            if key == self._key:
                self._own_is_gone(event.kv.mod_revision)
        elif len(live) >= NODES_MAX and key.removeprefix(PREFIX) not in live:
            self._complain(PREFIX, f"more than {NODES_MAX} balancers: the others are not taken notice of")
        elif (info := self._info_in(key, event.kv)) is not None:
            live[key.removeprefix(PREFIX)] = info
        else:
            live.pop(key.removeprefix(PREFIX), None)
        self._become(live)

    def _info_in(self, key: str, kv: KeyValue) -> NodeInfo | None:
        """None where it cannot be read, which is logged once."""
        try:
            info = msgspec.json.decode(kv.value, type=NodeInfo)
        except msgspec.MsgspecError as error:
            self._complain(key, str(error))
            return None
        if info.version != VERSION:
            self._complain(key, f"version {info.version}; this balancer reads version {VERSION}")
            return None
        self._complained.discard(key)
        return info

    def _complain(self, key: str, reason: str) -> None:
        if key not in self._complained and len(self._complained) < NODES_MAX:
            self._complained.add(key)
            log.warning(events.KEY_IGNORED, part="nodes", key=key, reason=reason)

    def _become(self, live: dict[str, NodeInfo]) -> None:
        if live == self._live:
            return
        before, self._live = self._live, live
        for name in live.keys() - before.keys():
            log.info(events.NODE_JOINED, node=name)
        for name in before.keys() - live.keys():
            log.info(events.NODE_LEFT, node=name)
        self._changed()

    def _changed(self) -> None:
        for tell in self._hearers:
            tell()


def _only(answer: TxnResponse) -> KeyValue | None:
    """What the transaction found at its one key."""
    found = answer.responses[0].response_range if answer.responses else None
    return found.kvs[0] if found is not None and found.kvs else None
