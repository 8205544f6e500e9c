"""Answering a range: limit, filters, order, count, with etcd's oddities (etcdserver/txn/range.go).

- `count` is that of the whole range, before filters and limit; `more` says that the limit cut something.
- A target other than KEY without an order means ASCEND, but the limit is then applied before the sort.
- A bound of 0 on a revision is none. `keys_only` drops the values after the sort, so one may sort by value.
"""

from collections.abc import Callable

from balancer.coordination.key_space import KeySpace
from balancer.coordination.requests import RangeRequest, SortOrder, SortTarget
from balancer.coordination.responses import KeyValue, RangeResponse, ResponseHeader

_SORT_KEYS: dict[SortTarget, Callable[[KeyValue], bytes | int]] = {
    SortTarget.KEY: lambda kv: kv.key,
    SortTarget.VERSION: lambda kv: kv.version,
    SortTarget.CREATE: lambda kv: kv.create_revision,
    SortTarget.MOD: lambda kv: kv.mod_revision,
    SortTarget.VALUE: lambda kv: kv.value,
}


def answer(space: KeySpace, request: RangeRequest) -> RangeResponse:
    """The answer at the newest revision, that of a running transaction included, or at the one asked for.

    Raises CoordinationError for a revision that is compacted or still to come.
    """
    space.check_revision(request.revision)
    header = ResponseHeader(revision=space.reading_revision)
    if request.count_only:
        return RangeResponse(header, count=space.count(request.key, request.range_end, request.revision))
    filtered = _has_filter(request)
    early = request.limit > 0 and not filtered and request.sort_order == SortOrder.NONE
    limit = request.limit + 1 if early else 0  # one more, to see whether there is more
    found, count = space.select(request.key, request.range_end, request.revision, limit)
    if filtered:
        found = [kv for kv in found if _passes(request, kv)]
    if request.sort_order != SortOrder.NONE or request.sort_target != SortTarget.KEY:
        # Stable in both directions: equal ones stay in the order of their keys.
        found.sort(key=_SORT_KEYS[request.sort_target], reverse=request.sort_order == SortOrder.DESCEND)
    more = 0 < request.limit < len(found)
    if more:
        found = found[: request.limit]
    if request.keys_only:
        found = [_without_value(kv) for kv in found]
    return RangeResponse(header, tuple(found), more, count)


def _has_filter(request: RangeRequest) -> bool:
    return bool(
        request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    )


def _passes(request: RangeRequest, kv: KeyValue) -> bool:
    return (
        (not request.max_mod_revision or kv.mod_revision <= request.max_mod_revision)
        and (not request.min_mod_revision or kv.mod_revision >= request.min_mod_revision)
        and (not request.max_create_revision or kv.create_revision <= request.max_create_revision)
        and (not request.min_create_revision or kv.create_revision >= request.min_create_revision)
    )


def _without_value(kv: KeyValue) -> KeyValue:
    return KeyValue(kv.key, kv.create_revision, kv.mod_revision, kv.version, b"", kv.lease)
