"""What must hold of one request to the gateway and of what became of it. Each rule raises a FindingError."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from tests.fuzz.findings import check
from tests.fuzz.gateway_answers import JSON, TEXT_TYPE, check_error, check_error_in_stream, check_message, parse
from tests.fuzz.gateway_decoder import OBJECT_MAX, Reading, Verdict, read_body, read_objects
from tests.fuzz.gateway_messages import METHODS, STREAMS, UNSERVED, Message, Method
from tests.fuzz.gateway_requests import Given
from tests.fuzz.gateway_world import Call, Client, World

INVALID_ARGUMENT = 3
_READS = ("range", "lease_time_to_live", "leases", "leader", "status", "member_list")
_NOT_HERE = ("member_add", "member_remove", "member_promote", "move_leader")
_OPAQUE = ("lock", "unlock", "campaign", "proclaim", "leader", "resign")
_WAITS = ("lock", "campaign")


@dataclass(frozen=True, slots=True)
class Before:
    """What was there when the request came."""

    state: tuple[object, ...]
    without_sessions: tuple[object, ...]
    revision: int
    pairs: dict[bytes, Any]


async def judge(world: World, given: Given) -> str:
    """Send it and see; a label for the statistics."""
    before = Before(world.state(), world.state(sessions=False), world.revision, _pairs(world))
    world.asked.calls.clear()
    client = await world.begin(given)
    label = "left early"
    if given.leaves is None:
        if client.task.done():
            client.task.result()
        label = _judge(world, client, before)
        if given.stays and not client.task.done():
            world.clients.append(client)
        else:
            await client.leave()
            _check_withdrawn(world, client, before)
    if world.clients and (len(world.clients) > 4 or (given.pause and not given.stays)):
        one = world.clients.pop(0)
        await one.leave()
        check_shape(one)
    world.check_left()
    if given.pause:
        await world.let_pass(given.pause)
    return f"{label}, {given.path or 'no path'}"


def _pairs(world: World) -> dict[bytes, Any]:
    return {kv.key: kv for kv in world.member.machine.space.select(b"\0", b"\0")[0]}


def _judge(world: World, client: Client, before: Before) -> str:
    given = client.given
    calls = list(world.asked.calls)
    if not given.admitted:
        _check_refused(client, calls, 403, 7)
    elif not given.path:
        _check_plain(client, calls, 404, (b"Not Found\n", b"404 page not found\n"))
    elif given.path in ("/version", "/health"):
        return _judge_page(world, client, before)
    elif given.method != "POST":
        _check_plain(client, calls, 405, (b"Method Not Allowed\n",))
        check(client.response is not None and client.response.headers == (("allow", "POST"),), "405 without Allow")
    elif given.path in UNSERVED:
        _check_refused(client, calls, 501, 12)
    else:
        if given.path in METHODS:
            _judge_method(world, client, METHODS[given.path], before)
        elif given.path == "/v3/election/observe":
            _judge_observe(client, calls)
        else:
            _judge_stream(client, calls)
        if given.path in STREAMS:
            check(world.state() == before.state, "a stream changed the state")
        return "waits" if client.waits else f"{_status(client)}"
    check(world.state() == before.state, f"a request that got {_status(client)} changed the state")
    return f"{_status(client)}"


def _status(client: Client) -> int:
    return 0 if client.response is None else client.response.status


def check_shape(client: Client) -> None:
    """That what a client got so far is an answer, of whatever kind."""
    if client.response is None or client.given.path not in METHODS:
        return
    status, text = _whole(client)
    if status == 200:
        check_message(METHODS[client.given.path].answered, parse(text), client.given.path)
    else:
        check_error(status, client.response.content_type, text)


def _whole(client: Client) -> tuple[int, bytes]:
    response = client.response
    assert response is not None
    check(isinstance(response.body, bytes), "an answer in pieces")
    check(response.headers == () or response.status == 405, f"fields {response.headers}")
    return response.status, bytes(response.body)  # type: ignore[arg-type]


def _check_refused(client: Client, calls: list[Call], status: int, code: int) -> None:
    check(not calls, f"it was asked for {calls}, though it is to be refused with {status}")
    check(client.response is not None, "it is not answered, though it is to be refused")
    assert client.response is not None
    found, text = _whole(client)
    told = check_error(found, client.response.content_type, text)
    check((found, told) == (status, code), f"refused with {found} and code {told} instead of {status} and {code}")


def _check_plain(client: Client, calls: list[Call], status: int, texts: tuple[bytes, ...]) -> None:
    check(not calls, f"it was asked for {calls}, though it is to be answered with {status}")
    check(client.response is not None, "it is not answered")
    assert client.response is not None
    found, text = _whole(client)
    wanted = (status, TEXT_TYPE)
    check((found, client.response.content_type) == wanted and text in texts, f"{found} with {text!r:.100}")


def _judge_page(world: World, client: Client, before: Before) -> str:
    response = client.response
    check(response is not None, "a page is not answered")
    assert response is not None
    status, text = _whole(client)
    if client.given.method != "GET":
        check((status, text) == (405, b"Method Not Allowed\n"), f"{status} with {text!r:.100}")
    else:
        told = parse(text)
        check(status == 200 and all(type(part) is str for part in told.values()), f"a page: {status}, {told}")
        check(set(told) >= ({"health"} if client.given.path == "/health" else {"etcdserver"}), f"a page: {told}")
    check(world.state() == before.state, "a page changed the state")
    return f"{status}"


# ---- methods that are answered at once


def _judge_method(world: World, client: Client, method: Method, before: Before) -> None:
    reading = read_body(method, client.given.body)
    calls = list(world.asked.calls)
    if reading.verdict is Verdict.REFUSED or (reading.verdict is not Verdict.SURE and not calls):
        _check_refused(client, calls, 400, INVALID_ARGUMENT)
        check(world.state() == before.state, "a request that was refused changed the state")
        return
    _check_calls(calls, method, reading)
    if client.waits:
        check(method.call in _WAITS, "it waits")
        return
    assert client.response is not None
    status, text = _whole(client)
    if status == 200:
        told = parse(text)
        check(client.response.content_type == JSON, f"an answer as {client.response.content_type}")
        check_message(method.answered, told, client.given.path)
        check(method.call not in _NOT_HERE, "it was done, though nobody can")
        if reading.ticket is None and reading.message is not None:
            _check_done(world, method.call, reading.message, told, before)
    else:
        code = check_error(status, client.response.content_type, text)
        check(code in (2, 4, 8, 12, 14) or method.call not in _OPAQUE, f"code {code} of a lock or election")
    if status != 200 or method.call in _READS:
        numbered = reading.ticket is not None  # then the refusal is remembered
        same = world.state(sessions=not numbered) == (before.without_sessions if numbered else before.state)
        check(same, f"{method.call}, answered with {status}, changed the state")


def _check_calls(calls: list[Call], method: Method, reading: Reading) -> None:
    check(len(calls) == 1, f"{len(calls)} calls, though it is a good {method.call}: {reading.message}")
    name, asked, ticket = calls[0]
    check(name == method.call, f"{name} was called for a {method.call}")
    if reading.verdict is not Verdict.UNKNOWN:
        check(asked == reading.message, f"{name} was asked for {asked!r:.400}\nnot for {reading.message!r:.400}")
        check(ticket == reading.ticket, f"{name} was numbered {ticket}, not {reading.ticket}")


def _check_withdrawn(world: World, client: Client, before: Before) -> None:
    """Who waited and has gone left no claim behind."""
    method = METHODS.get(client.given.path)
    if client.waits and method is not None and method.call in _WAITS:
        new = {key for key, kv in _pairs(world).items() if key not in before.pairs}
        check(not new, f"a claim of somebody who has gone: {new}")


def _check_done(world: World, call: str, asked: Message, told: Any, before: Before) -> None:
    """That a change did what was asked for, and its answer says so."""
    machine = world.member.machine
    now = _pairs(world) if call in ("put", "delete_range", "range") else {}
    if call == "put":
        _check_put(now, asked, told, before)
    elif call == "delete_range":
        gone = _in_range(before.pairs, asked)
        check(now.keys() == before.pairs.keys() - gone, f"deleted {before.pairs.keys() - now.keys()}, not {gone}")
        check(int(told.get("deleted", 0)) == len(gone), f"{told.get('deleted')} deleted, not {len(gone)}")
        check(len(told.get("prev_kvs", ())) == (len(gone) if asked.get("prev_kv") else 0), "prev_kvs")
        check(world.revision == before.revision + bool(gone), f"revision {world.revision} after {before.revision}")
    elif call == "range" and asked.get("revision", 0) <= 0:
        found = len(_in_range(now, asked))
        check(int(told.get("count", 0)) == found, f"{told.get('count')} counted, not {found}")
    elif call == "lease_grant":
        lease, ttl = int(told["ID"]), max(asked.get("TTL", 0), 1)
        check(asked.get("ID", 0) in (0, lease) and int(told["TTL"]) == ttl, f"granted {told}, not {asked}")
        check(machine.leases.ttl(lease) == ttl, f"the lease has {machine.leases.ttl(lease)} s, not {ttl}")
    elif call == "lease_revoke":
        check(asked.get("ID", 0) not in machine.leases, "a lease that was revoked is there")
    elif call == "compact":
        check(machine.space.compacted == asked.get("revision", 0), f"compacted at {machine.space.compacted}")


def _check_put(now: dict[bytes, Any], asked: Message, told: Any, before: Before) -> None:
    key = asked.get("key", b"")
    old, new = before.pairs.get(key), now.get(key)
    check(new is not None, f"{key!r} is not there after its put")
    assert new is not None
    value = old.value if asked.get("ignore_value") and old is not None else asked.get("value", b"")
    lease = old.lease if asked.get("ignore_lease") and old is not None else asked.get("lease", 0)
    version = 1 if old is None else old.version + 1
    wanted = (key, value, lease, version, before.revision + 1)
    found = (new.key, new.value, new.lease, new.version, new.mod_revision)
    check(found == wanted, f"a put made {found!r:.300}\nnot {wanted!r:.300}")
    check(told["header"]["revision"] == str(new.mod_revision), f"a put's revision is told as {told['header']}")
    check(("prev_kv" in told) == (asked.get("prev_kv", False) and old is not None), "prev_kv")
    check(before.pairs.keys() | {key} == now.keys(), "another key came or went")


def _in_range(pairs: dict[bytes, Any], asked: Message) -> set[bytes]:
    key, end = asked.get("key", b""), asked.get("range_end", b"")
    if not end:
        return {key} & pairs.keys()
    return {one for one in pairs if key <= one and (end == b"\0" or one < end)}


# ---- streams


def _judge_observe(client: Client, calls: list[Call]) -> None:
    method = STREAMS["/v3/election/observe"]
    reading = read_body(method, client.given.body)
    if reading.verdict is Verdict.REFUSED or (reading.verdict is not Verdict.SURE and not calls):
        _check_refused(client, calls, 400, INVALID_ARGUMENT)
        return
    _check_calls(calls, method, reading)
    _check_lines(client, method)


def _judge_stream(client: Client, calls: list[Call]) -> None:
    given = client.given
    method = STREAMS[given.path]
    messages, certain = read_objects(method, given.body)
    wanted = [call for message in messages if (call := _wanted(given.path, message)) is not None]
    got = [(name, asked) for name, asked, _ in calls]
    if certain and given.reads:
        check(got == wanted, f"asked for {got!r:.500}\nnot for {wanted!r:.500}")
    else:  # it may be that not all was taken
        least = min(len(wanted), 16) if given.path == "/v3/watch" else min(len(wanted), 1)
        check(got[: len(wanted)] == wanted[: len(got)], f"asked for {got!r:.500}\nnot for {wanted!r:.500}")
        check(len(got) >= least, f"only {len(got)} of {len(wanted)} were taken")
    if messages or not certain:
        check(
            client.waits or _status(client) == 200 or not certain, f"a good stream is answered with {_status(client)}"
        )
    elif not given.body.strip(b" \t\r\n"):
        check(client.waits or _status(client) == 200, f"an empty stream is answered with {_status(client)}")
    elif given.ended or len(given.body) > OBJECT_MAX + (1 << 14):
        check(_status(client) == 500, "a stream that begins with no request is not refused")
    if _status(client) in (0, 200):
        _check_lines(client, method)
    else:
        _check_refused(client, calls, 500, 2)
    if given.path == "/v3/lease/keepalive" and given.reads and certain:
        check(len(client.pieces) == len(wanted), f"{len(client.pieces)} answers to {len(wanted)} keep-alives")


def _wanted(path: str, message: Message) -> tuple[str, Any] | None:
    if path == "/v3/lease/keepalive":
        return "lease_keep_alive", message.get("ID", 0)
    for name, part in message.items():
        return name, {"create_request": part, "cancel_request": part.get("watch_id", 0)}.get(name)
    return None


def _check_lines(client: Client, method: Method) -> None:
    """One object to a piece, each in a line; an error ends them."""
    response = client.response
    if response is None:
        check(not client.pieces, "pieces before a status")
        return
    check(response.status == 200 and response.content_type == JSON, f"a stream of {response.content_type}")
    if isinstance(response.body, bytes):
        check(not response.body, "a stream as a whole")
        return
    check(isinstance(response.body, AsyncIterator), "a stream that cannot be read")
    for piece in client.pieces:
        told = parse(piece[:-1] if piece.endswith(b"\n") else piece)
        if "error" in told:
            check(piece is client.pieces[-1], "something behind a stream's error")
            check_error_in_stream(told, None)
            continue
        check(list(told) == ["result"] and piece.endswith(b"\n"), f"a line of a stream: {piece!r:.200}")
        check_message(method.answered, told["result"], client.given.path)
