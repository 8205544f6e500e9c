"""From the bytes of a YAML file to a tree of nodes that know their positions.

Built on the parser's events, not on its object graph, so that every bound holds while the text is read: nesting
cannot exhaust the stack, and aliases cannot multiply a small file into a large one. Scalars stay text.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import yaml

from balancer.config.scalars import shown
from balancer.errors import ConfigError, Problem

if TYPE_CHECKING:
    from yaml._yaml import Mark as CMark
    from yaml.error import Mark as PlainMark

    Mark = CMark | PlainMark

BYTES_MAX = 4 * 1024 * 1024  # a file of 20,000 backends has 1 MiB; above this it is no configuration
NODES_MAX = 200_000  # aliases expanded; keeps the whole check below a second or two
ALIASED_MAX = 50_000  # of those, from aliases: what a small file may grow by
DEPTH_MAX = 32  # the deepest key of the schema is at 7
PROBLEMS_MAX = 500  # more would not be read
WHOLE_FILE = "(file)"

Spot = tuple[int, int]  # line and column, counted from 1

_WORD = re.compile(r"[A-Za-z0-9_<*-]+", re.ASCII)
_TAG_PREFIX = "tag:yaml.org,2002:"
_STRING_TAG = _TAG_PREFIX + "str"
_EMPTY = "the file is empty; config/minimal.yaml shows the least that works"


@dataclass(slots=True)
class Node:
    """A value and where it stands; `line` and `column` count from 1. `size` = nodes in it, aliases expanded."""

    line: int
    column: int
    size: int = field(default=1, kw_only=True)


@dataclass(slots=True)
class Scalar(Node):
    """Text; `plain` = without quotes."""

    text: str
    plain: bool = True


@dataclass(slots=True)
class Sequence(Node):
    """A list."""

    items: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Mapping(Node):
    """Keys with their values, in the order written."""

    entries: dict[str, tuple[Scalar, Node]] = field(default_factory=dict)


@dataclass(slots=True)
class Document:
    """The tree, and the problems that did not keep it from being built (duplicate keys)."""

    root: Node
    problems: list[Problem]


def path_text(path: Iterable[str | int]) -> str:
    """`pools.api.backends[1].weight`; a key that is no plain word stands in brackets and quotes."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _WORD.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f'["{shown(step)[1:-1]}"]'
    return text or WHOLE_FILE


def _spot(mark: "Mark | None") -> Spot:
    return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)


class _Composer:
    """Builds the tree from events. Recursion is bounded by DEPTH_MAX."""

    def __init__(self, text: str, name: str) -> None:
        self._name = name
        self._anchors: dict[str, Node | None] = {}  # None while the anchored node is still open
        self._nodes = 0
        self._aliased = 0  # of them, from aliases
        self._path: list[str | int] = []
        self._problems: list[Problem] = []
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=yaml.CSafeLoader)

    def document(self) -> Document:
        """The one document of the stream."""
        next(self._events)  # stream start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            raise self._fatal((1, 1), _EMPTY)
        root = self._node(next(self._events), 1)
        next(self._events)  # document end
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            spot = _spot(event.start_mark)
            raise self._fatal(spot, "a second document starts here; one file holds one configuration")
        if isinstance(root, Scalar) and root.plain and root.text == "":
            raise self._fatal((1, 1), _EMPTY)
        return Document(root, self._problems)

    def _fatal(self, spot: Spot, message: str) -> ConfigError:
        return ConfigError([*self._problems, Problem(self._name, *spot, path_text(self._path), message)])

    def _node(self, event: yaml.Event, depth: int) -> Node:
        assert isinstance(event, yaml.NodeEvent)  # the parser's grammar: nothing else stands where a value may
        spot = _spot(event.start_mark)
        if depth > DEPTH_MAX:
            raise self._fatal(spot, f"nested more than {DEPTH_MAX} deep; no key of the configuration is")
        if isinstance(event, yaml.AliasEvent):
            node = self._alias(event.anchor or "", spot)
            self._aliased += node.size
            if self._aliased > ALIASED_MAX:
                raise self._fatal(spot, f"aliases add more than {ALIASED_MAX:,} values; use fewer of them")
            self._count(node.size, spot)
            return node
        tag = getattr(event, "tag", None)
        if tag not in (None, "!", _STRING_TAG):
            raise self._fatal(spot, f"the tag {shown(tag.replace(_TAG_PREFIX, '!!'))} is not supported; remove it")
        self._count(1, spot)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        node = self._value(event, spot, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _value(self, event: yaml.Event, spot: Spot, depth: int) -> Node:
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(*spot, event.value, plain=not event.style and event.tag is None)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(spot, depth)
        return self._mapping(spot, depth)

    def _count(self, nodes: int, spot: Spot) -> None:
        self._nodes += nodes
        if self._nodes > NODES_MAX:
            raise self._fatal(
                spot, f"more than {NODES_MAX:,} values, aliases expanded; split the configuration, or use fewer"
            )

    def _alias(self, anchor: str, spot: Spot) -> Node:
        if anchor not in self._anchors:
            raise self._fatal(
                spot,
                f"{shown('*' + anchor)} is a YAML alias and nothing is anchored as &{anchor}; "
                f'to mean the text, quote it: "*{anchor}"',
            )
        node = self._anchors[anchor]
        if node is None:
            raise self._fatal(spot, f"{shown('*' + anchor)} stands inside the value that it names")
        return node

    def _sequence(self, spot: Spot, depth: int) -> Sequence:
        node = Sequence(*spot)
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            self._path.append(len(node.items))
            item = self._node(event, depth + 1)
            self._path.pop()
            node.items.append(item)
            node.size += item.size
        return node

    def _mapping(self, spot: Spot, depth: int) -> Mapping:
        node = Mapping(*spot)
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            if not isinstance(key, Scalar):
                raise self._fatal(
                    (key.line, key.column), "a key must be text; a value that starts with { or [ must stand in quotes"
                )
            self._path.append(key.text)
            value = self._node(next(self._events), depth + 1)
            if isinstance(value, Scalar) and value.plain and not value.text and value.line > key.line:
                value.line, value.column = key.line, key.column  # there is none, and the parser puts it behind the file
            node.size += key.size + value.size
            self._enter(node, key, value)
            self._path.pop()
        return node

    def _enter(self, node: Mapping, key: Scalar, value: Node) -> None:
        if key.plain and key.text == "<<":
            self._problem(key, "merge keys (<<) are not part of YAML 1.2; write the keys out, or alias a whole value")
        elif key.text in node.entries:
            first = node.entries[key.text][0]
            self._problem(
                key, f"the key {shown(key.text)} stands twice, here and in line {first.line}; remove one of the two"
            )
        else:
            node.entries[key.text] = (key, value)

    def _problem(self, key: Scalar, message: str) -> None:
        if len(self._problems) < PROBLEMS_MAX:
            self._problems.append(Problem(self._name, key.line, key.column, path_text(self._path), message))


_STARTS = ("while scanning a quoted scalar", "while scanning an alias", "while scanning an anchor")
_PLAIN_HINTS = {
    "*": 'an unquoted * starts a YAML alias; quote it, such as "*.example.com"',
    "&": "an unquoted & starts a YAML anchor; quote the value",
    "@": "a value cannot start with @ in YAML; quote it",
    "`": "a value cannot start with ` in YAML; quote it",
    "%": "a value cannot start with % in YAML; quote it",
    "\t": "a tab; YAML is indented with spaces only",
}


def _syntax_problem(text: str, error: yaml.MarkedYAMLError) -> tuple[Spot, str]:
    """Where the parser's complaint belongs, and what to do about it."""
    lines = text.splitlines() or [""]
    context = _spot(error.context_mark)
    spot = _spot(error.problem_mark)
    if error.context in _STARTS or spot[0] > len(lines):
        spot = context  # a quote, * or &, or what is still open at the end of the file: it began there
    if spot[0] > len(lines):
        spot = (len(lines), len(lines[-1]) + 1)
    written = lines[spot[0] - 1]
    problem = error.problem or "cannot be read as YAML"
    sign = written[spot[1] - 1 : spot[1]]
    if error.context == "while scanning a quoted scalar" and problem == "found unexpected end of stream":
        return spot, "the quote that opens here is never closed"
    if sign in _PLAIN_HINTS:
        return spot, _PLAIN_HINTS[sign]
    if re.match(r" *\t", written):
        return spot, _PLAIN_HINTS["\t"]
    if "${" in written:
        return spot, f"not valid YAML ({problem}); inside [ ] and {{ }} a value with ${{...}} must be quoted"
    if "mapping values are not allowed" in problem:
        hint = "quote a value that holds `: `, or check the indentation"
        return spot, f"not valid YAML: a second colon in this line; {hint}"
    reason = f"{error.context} (line {context[0]}): {problem}" if error.context else problem
    return spot, f"not valid YAML: {reason}; check the indentation, brackets and quotes around here"


def compose(data: bytes, name: str) -> Document:
    """The tree of `data`, called `name` in messages. Raises ConfigError when there is none to build. O(bytes)."""
    if len(data) > BYTES_MAX:
        raise ConfigError(
            [Problem(name, 1, 1, WHOLE_FILE, f"has {len(data):,} bytes; a configuration has at most {BYTES_MAX:,}")]
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        message = f"the byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise ConfigError([Problem(name, line, column, WHOLE_FILE, message)]) from error
    try:
        return _Composer(text, name).document()
    except yaml.MarkedYAMLError as error:
        spot, message = _syntax_problem(text, error)
        raise ConfigError([Problem(name, *spot, WHOLE_FILE, message)]) from error
    except yaml.reader.ReaderError as error:
        before_text = text.encode()[: error.position].decode("utf-8", "replace")  # the position counts bytes
        line = before_text.count("\n") + 1
        column = len(before_text) - before_text.rfind("\n")
        code = error.character if isinstance(error.character, int) else ord(error.character)
        message = f"the character U+{code:04X} may not stand in YAML; remove it"
        raise ConfigError([Problem(name, line, column, WHOLE_FILE, message)]) from error
