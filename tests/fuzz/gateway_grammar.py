"""Requests of every method of etcd's API, in every spelling that JSON and the mapping allow, and damaged as JSON.

`make_message` draws the fields, `spelled` writes them as a tree whose leaves are JSON texts, `damage` changes the tree,
`written` makes bytes of it.
"""

import base64
import json
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.fuzz.gateway_decoder import CLIENTS_FROM, camel
from tests.fuzz.gateway_messages import (
    BOOL,
    BYTES,
    CREATE_WATCH,
    INT,
    OPERATION,
    TXN,
    UINT,
    Message,
    Method,
)

SESSION = CLIENTS_FROM + 1  # that of a client which every world begins with
LEASES = (7, 8, 1 << 40, -9)  # those that every world begins with

_KEYS = (b"foo", b"bar", b"a/b", b"a/c", b"lock/7", b"\0", b"\xff\xfe", b"", b"k" * 300, "ключ".encode())
_ENDS = (b"", b"\0", b"fop", b"b", b"zz", b"a", b"\xff")
_NAMES = (b"lock", b"lock", b"a", b"", b"deep/lock", b"\xf0")
_INTS = (1, 2, 3, 5, 10, 100, -1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, -(2**63))
_URLS = ("http://10.0.0.1:7001", "10.0.0.9:1", "", "http://", "http://" + "h" * 400, "http://\N{SNOWMAN}:1")

# How often a field is there; others a little.
_OFTEN = {"key": 0.97, "ID": 0.97, "TTL": 0.95, "name": 0.95, "leader": 0.95, "value": 0.8, "rev": 0.9, "target": 0.8}
_SELDOM = {"ignore_value": 0.04, "ignore_lease": 0.04, "revision": 0.06, "start_revision": 0.3, "range_end": 0.3}
_LISTS = {"compare": 0.5, "success": 0.9, "failure": 0.4, "filters": 0.15, "peerURLs": 0.9}


@dataclass(slots=True)
class Object:
    """Pairs of a name, as it is written, and a value."""

    pairs: list[tuple[str, "Node"]] = field(default_factory=list)


@dataclass(slots=True)
class Array:
    """Values."""

    items: list["Node"] = field(default_factory=list)


Node = Object | Array | str  # a leaf is its JSON text


# ---- what is asked


def make_message(rng: Random, fields: Message, depth: int = 0) -> Message:
    """A message that may well be accepted. Zero fields may be there, too."""
    if fields is OPERATION:
        names = list(OPERATION) if depth < 3 else list(OPERATION)[:3]
        name = rng.choice(names)
        return {name: make_message(rng, OPERATION[name], depth + 1)}
    message: Message = {}
    for name, kind in fields.items():
        likely = _OFTEN.get(name) or _SELDOM.get(name) or _LISTS.get(name) or 0.12
        if name == "revision" and len(fields) == 2:
            likely = 0.9  # a compaction's
        if rng.random() < likely:
            message[name] = _value(rng, name, kind, depth)
    return message


def make_watch(rng: Random) -> Message:
    """One of the requests of a watch's stream."""
    way = rng.random()
    if way < 0.75:
        return {"create_request": make_message(rng, CREATE_WATCH)}
    if way < 0.88:
        return {"cancel_request": {"watch_id": rng.choice((0, 0, 1, 2, 77, -1))}}
    return {"progress_request": {}} if way < 0.97 else {}


def make_numbers(rng: Random) -> Message:
    """How a client numbers a change."""
    seq = rng.randrange(1, 40)
    session = rng.choice((SESSION,) * 6 + (0, 1, SESSION + 1, -1))
    return {"session": session, "seq": seq, "answered_below": rng.choice((0, 0, 1, seq // 2, seq, seq + 1))}


def _value(rng: Random, name: str, kind: Any, depth: int) -> Any:
    if type(kind) is dict:
        return make_message(rng, kind, depth + 1)
    if type(kind) is list:
        most = 3 if depth < 2 else 1
        return [_value(rng, name, kind[0], depth) for _ in range(rng.randrange(most + 1))]
    if type(kind) is tuple:
        return rng.choice(kind)
    if kind == BOOL:
        return rng.random() < 0.6
    if kind == BYTES:
        return _bytes(rng, name)
    if kind not in (INT, UINT):
        return rng.choice(_URLS)
    if name in ("lease", "ID") and rng.random() < 0.9:
        return rng.choice((*LEASES, 7, 7, 0, 12345))
    if name in ("TTL", "limit", "watch_id", "rev") or rng.random() < 0.8:
        return rng.choice(_INTS[:5])
    return rng.choice(_INTS)


def _bytes(rng: Random, name: str) -> bytes:
    if name == "range_end":
        return rng.choice(_ENDS)
    if name == "name":
        return rng.choice(_NAMES)
    if name == "value":
        return rng.randbytes(rng.choice((0, 1, 2, 3, 10, 100)))
    return rng.choice(_KEYS) if rng.random() < 0.8 else rng.choice(_KEYS[:5])


# ---- how it is written


def spelled(rng: Random, fields: Message, message: Message) -> Object:
    """A message as JSON, in one of the spellings that mean the same."""
    plain = rng.random() < 0.4
    pairs: list[tuple[str, Node]] = []
    for name, value in message.items():
        name_text = name if plain or rng.random() < 0.6 else camel(name)
        pairs.append((_string(rng, name_text), _spelled(rng, fields[name], value, plain)))
    if not plain:
        while rng.random() < 0.15:
            pairs.append((_string(rng, rng.choice(("x", "Key", "KEY", "session_", "", "lease "))), _junk(rng)))
        if rng.random() < 0.1 and (absent := [name for name in fields if name not in message]):
            pairs.append((f'"{rng.choice(absent)}"', "null"))
        if rng.random() < 0.3:
            rng.shuffle(pairs)
    return Object(pairs)


def _spelled(rng: Random, kind: Any, value: Any, plain: bool) -> Node:
    if type(kind) is dict:
        return spelled(rng, kind, value)
    if type(kind) is list:
        return Array([_spelled(rng, kind[0], part, plain) for part in value])
    if type(kind) is tuple:
        return f'"{value}"' if rng.random() < 0.6 else str(kind.index(value))
    if kind == BYTES:
        return _string(rng, _base64(rng, value, plain))
    if kind in (INT, UINT):
        if rng.random() < 0.5:
            return str(value)
        return f'"{value}"' if plain or rng.random() < 0.95 else f'" {value}\\n"'
    return json.dumps(value)


def _base64(rng: Random, value: bytes, plain: bool) -> str:
    text = base64.b64encode(value).decode()
    if plain:
        return text
    way = rng.random()
    if way < 0.2:
        text = text.replace("+", "-").replace("/", "_")
    if 0.1 < way < 0.3:
        text = text.rstrip("=")
    if way > 0.95:
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(("\n", "\r\n")) + text[at:]
    return text


def _string(rng: Random, text: str) -> str:
    written = json.dumps(text)
    if text and rng.random() < 0.02:
        at = rng.randrange(len(text))
        return f'"{json.dumps(text[:at])[1:-1]}\\u{ord(text[at]) & 0xFFFF:04x}{json.dumps(text[at + 1 :])[1:-1]}"'
    return written


def _junk(rng: Random) -> Node:
    return rng.choice((Array([Object([('"a"', "[{}]")]), "1.5e3"]), '"\\u00e9\\ud83d\\ude00"', "-0.0", "true", "{}"))


def written(rng: Random, node: Node) -> bytes:
    """The bytes of a tree, with white space here and there."""
    comma, colon = (", ", ": ") if rng.random() < 0.2 else (",\n ", " :\t") if rng.random() < 0.1 else (",", ":")
    pieces: list[str] = []

    def write(one: Node) -> None:
        if isinstance(one, str):
            pieces.append(one)
        elif isinstance(one, Object):
            for number, (name, value) in enumerate(one.pairs):
                pieces.append(f"{comma if number else '{'}{name}{colon}")
                write(value)
            pieces.append("}" if one.pairs else "{}")
        else:
            for number, value in enumerate(one.items):
                pieces.append(comma if number else "[")
                write(value)
            pieces.append("]" if one.items else "[]")

    write(node)
    return "".join(pieces).encode("utf-8", "surrogatepass")


# ---- damaged as JSON

STRANGE = (
    *("null", "true", "false", "0", "-0", "1", "-1", "1.0", "1.5", "1e3", "1E400", "01", "+1", "0x10", ".5", "5."),
    *("NaN", "Infinity", "-Infinity", "undefined", "'a'", "", "{}", "[]", "[null]", "[[]]", '{"key":{}}', "[1,]"),
    *(str(number) for number in (2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64, 10**30)),
    *(f'"{number}"' for number in (2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64, 10**30)),
    *('""', '" "', '"1.0"', '"1e3"', '"07"', '"+7"', '"0x7"', '" 7 "', '"7 7"', '"\\u0037"', '"null"', '"NaN"', '"-0"'),
    *('"Z"', '"Zg"', '"Zg="', '"Zg=="', '"Zg==="', '"Zm9v="', '"Zm9v===="', '"="', '"===="', '"Zg==Zg=="', '"Z=g="'),
    *('"-_8"', '"-_8="', '"+/8"', '"+_8="', '"Zm 9v"', '"Zm\\n9v"', '"Zg=\\n="', '"Zh=="', '"!!"', '"Zm9v\\u0000"'),
    *(
        '"\\ud800"',
        '"\\udc00\\ud800"',
        '"\\ud83d\\ude00"',
        '"\\u0000"',
        '"\\q"',
        '"\\u12"',
        '"\x01"',
        '"é"',
        '"ａａａａ"',
    ),
    *("9" * 400, '"' + "9" * 5000 + '"', "1" * 5000, "0." + "1" * 5000, '"' + "A" * 8000 + '"', '"\ud800"'),
)


def damage(rng: Random, tree: Object) -> None:
    """Change one place of the tree."""
    spots = list(_spots(tree))
    if not spots:
        tree.pairs.append(('"key"', _strange(rng)))
        return
    parent, at = rng.choice(spots)
    if isinstance(parent, Array):
        _damage_item(rng, parent, at)
    else:
        _damage_pair(rng, parent, at)


def _spots(node: Node) -> list[tuple[Object | Array, int]]:
    found: list[tuple[Object | Array, int]] = []
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Object):
            found += [(one, at) for at in range(len(one.pairs))]
            waiting += [value for _, value in one.pairs]
        elif isinstance(one, Array):
            found += [(one, at) for at in range(len(one.items))]
            waiting += one.items
    return found


def _damage_item(rng: Random, array: Array, at: int) -> None:
    way = rng.random()
    if way < 0.5:
        array.items[at] = _strange(rng)
    elif way < 0.7:
        array.items.insert(at, rng.choice(array.items))
    elif way < 0.8:
        array.items *= rng.choice((2, 50, 130))
    else:
        del array.items[at]


def _damage_pair(rng: Random, parent: Object, at: int) -> None:
    name, value = parent.pairs[at]
    way = rng.random()
    if way < 0.5:
        parent.pairs[at] = (name, _strange(rng))
    elif way < 0.6:  # a name twice
        parent.pairs.insert(rng.randrange(len(parent.pairs) + 1), (name, rng.choice((_strange(rng), value))))
    elif way < 0.75:  # in both spellings
        other = camel(name.strip('"')) if "_" in name else name.strip('"')
        parent.pairs.insert(rng.randrange(len(parent.pairs) + 1), (f'"{other}"', rng.choice((_strange(rng), value))))
    elif way < 0.85:
        parent.pairs[at] = (_strange(rng) if way < 0.77 else name.upper(), value)
    elif way < 0.92:
        parent.pairs[at] = (name, Array([value]) if way < 0.88 else Object([(name, value)]))
    else:
        del parent.pairs[at]


def _strange(rng: Random) -> Node:
    if rng.random() < 0.93:
        return rng.choice(STRANGE)
    return deep(rng)


def deep(rng: Random) -> str:
    """Brackets inside each other, about as many as a reader may take, or far more."""
    number = rng.choice((10, 100, 300, rng.randrange(700, 1000), rng.randrange(930, 1000), 5000))
    if rng.random() < 0.05:
        number = 100_000
    way = rng.random()
    if way < 0.5:
        return "[" * number + "]" * number
    if way < 0.8:
        return '{"a":' * number + "1" + "}" * number
    return ("[" if way < 0.9 else '{"key":') * number


def nested_transactions(rng: Random) -> Object:
    """Transactions inside each other, about as many as there may be."""
    number = rng.choice((2, 20, 60, 126, 127, 128, 129, 130, 131, 200, 240))
    lists = [rng.choice(("success", "failure")) for _ in range(number)]
    inner: Node = spelled(rng, TXN, make_message(rng, TXN, 2))
    for name in lists:
        inner = Object([(f'"{name}"', Array([Object([('"request_txn"', inner)])]))])
    return inner if isinstance(inner, Object) else Object()


def make_tree(rng: Random, method: Method) -> Object:
    """A request of a method that is answered at once."""
    if method.asked is TXN and rng.random() < 0.04:
        return nested_transactions(rng)
    tree = spelled(rng, method.asked, make_message(rng, method.asked))
    if method.numbered and rng.random() < 0.15:
        for name, number in make_numbers(rng).items():
            if rng.random() < 0.95:
                tree.pairs.append((f'"{name}"', str(number) if rng.random() < 0.5 else f'"{number}"'))
    return tree
