"""A planted bug as text: a head that says what it is and what must find it, then a unified diff. Pure.

    Bug: what is wrong, in a sentence
    Seen in: the system, with its issue or paper
    Breaks: what somebody loses by it
    Test: tests/unit/raft/test_node.py::test_something     must fail; as many of these lines as there are tests
    Storms: 20                                             one of the seeds 0 to 19 of tests/unit/raft/storm.py must
    Histories: 6                                           so with tests/simulation/cluster
    --- a/balancer/raft/node.py
    ...

The name of the file begins with the bug's number. Law: a hunk is applied only where its old lines stand exactly as
they are written there, and only if that is in one place; by its lines, not by their numbers, so that it outlives what
is added elsewhere in the file.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_NAME = re.compile(r"(\d\d)-[a-z0-9-]+")
_RANGES = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_ONCE = ("Bug", "Seen in", "Breaks", "Storms", "Histories")


class PatchError(Exception):
    """This is no patch, or it does not apply. The text says which and why."""


@dataclass(frozen=True, slots=True)
class Hunk:
    """Lines of a file, and what takes their place."""

    path: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Patch:
    """See the module. `storms` and `histories`: how many seeds at most, 0 = they need not find it."""

    name: str
    bug: str
    seen_in: str
    breaks: str
    tests: tuple[str, ...]
    storms: int
    histories: int
    hunks: tuple[Hunk, ...]

    @property
    def number(self) -> int:
        """Of the bug, in the list of those that are known."""
        return int(self.name[:2])

    @property
    def paths(self) -> list[str]:
        """The files that it changes."""
        return sorted({hunk.path for hunk in self.hunks})


def parse(name: str, text: str) -> Patch:
    """Read a patch; `name` is the file's, without its ending. Raises PatchError."""
    if not _NAME.fullmatch(name):
        raise PatchError(f"{name}: the name is not the bug's number and words in small letters, as 05-older-term")
    head, mark, diff = text.partition("--- a/")
    said: dict[str, str] = {}
    tests: list[str] = []
    for line in head.splitlines():
        key, _, value = line.partition(": ")
        if key == "Test" and value:
            tests.append(value)
        elif key in _ONCE and key not in said and value:
            said[key] = value
        else:
            raise PatchError(f"{name}: no line of a head, or one too many: {line}")
    if missing := [key for key in _ONCE[:3] if key not in said]:
        raise PatchError(f"{name}: the head does not say {', '.join(missing)}")
    storms, histories = (_count(name, key, said.get(key, "0")) for key in _ONCE[3:])
    if not tests and not storms and not histories:
        raise PatchError(f"{name}: nothing is named that must find it")
    hunks = tuple(_hunks(name, (mark + diff).splitlines()))
    if not hunks:
        raise PatchError(f"{name}: it changes nothing")
    return Patch(name, said["Bug"], said["Seen in"], said["Breaks"], tuple(tests), storms, histories, hunks)


def _count(name: str, key: str, value: str) -> int:
    if not value.isdecimal():
        raise PatchError(f"{name}: {key} is a number of seeds, not {value}")
    return int(value)


def _hunks(name: str, lines: list[str]) -> Iterator[Hunk]:
    at, path = 0, ""
    while at < len(lines):
        if lines[at].startswith("--- a/") and lines[at + 1 : at + 2] == [f"+++ b/{lines[at][6:]}"]:
            path = lines[at][6:]
            at += 2
            continue
        ranges = _RANGES.match(lines[at])
        if ranges is None or not path:
            raise PatchError(f"{name}: no diff: {lines[at]}")
        old, new = (int(count or "1") for count in ranges.groups())
        before: list[str] = []
        after: list[str] = []
        while len(before) < old or len(after) < new:
            at += 1
            # An empty line is one whose blank an editor took away.
            sign, rest = (lines[at][:1] or " ", lines[at][1:]) if at < len(lines) else ("", "")
            if sign not in ("-", "+", " "):
                raise PatchError(f"{name}: a hunk of {path} has other lines than it says")
            if sign != "+":
                before.append(rest)
            if sign != "-":
                after.append(rest)
        at += 1
        if before == after:
            raise PatchError(f"{name}: a hunk of {path} changes nothing")
        yield Hunk(path, _text(before), _text(after))


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def applied(patch: Patch, read: Callable[[str], str]) -> dict[str, str]:
    """The files that it changes, by path, with what they hold then. `read` gives a file. Raises PatchError."""
    texts = {path: read(path) for path in patch.paths}
    for hunk in patch.hunks:
        text = texts[hunk.path]
        places = _places(text, hunk.before)
        if len(places) != 1:
            found = f"in {len(places)} places" if places else "nowhere"
            raise PatchError(f"{patch.name} does not apply: in {hunk.path} these lines stand {found}:\n{hunk.before}")
        end = places[0] + len(hunk.before)
        texts[hunk.path] = text[: places[0]] + hunk.after + text[end:]
    return texts


def _places(text: str, lines: str) -> list[int]:
    """Where whole lines stand in a text."""
    found = [match.start() for match in re.finditer(f"(?={re.escape(lines)})", text)]
    return [at for at in found if at == 0 or text[at - 1] == "\n"]
