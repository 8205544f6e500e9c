"""The file as data for the schema, with a way back from any path in those data to a line of the file."""

from collections.abc import Mapping as Environ

from balancer.config.scalars import NULLS, Quoted, substitute
from balancer.config.yaml_nodes import Document, Mapping, Node, Scalar, Sequence, path_text
from balancer.errors import Problem

Path = tuple[str | int, ...]
KEY = "[key]"  # pydantic's last step for a key that is wrong itself

_EMPTY = "has no value; give it one, or remove the key for the default"


class Source:
    """A composed file: its data (`data`), what stands where (`problem`, `given`), and parts taken out (`drop`).

    Paths that go in count the items of lists as `data` last gave them, without the dropped ones; paths in problems
    count as the file does.
    """

    def __init__(self, document: Document, name: str, environ: Environ[str, str]) -> None:
        self.name = name
        self.problems = list(document.problems)
        self._root = document.root
        self._environ = environ
        self._dropped: set[Path] = set()
        self._damaged: set[Path] = set()  # dropped paths and all paths above them
        self._kept: dict[Path, list[int]] = {}  # list -> the file's indexes of the items that `data` holds

    def data(self) -> object:
        """Mappings, lists and text, without dropped parts. A scalar that cannot be resolved is reported once. O(n)."""
        self._kept.clear()
        return self._data(self._root, ())

    def _data(self, node: Node, path: Path) -> object:
        if isinstance(node, Mapping):
            return {
                key: value
                for key, (_, child) in node.entries.items()
                if (value := self._child(child, (*path, key))) is not None
            }
        if isinstance(node, Sequence):
            items = []
            kept = []
            for index, child in enumerate(node.items):
                value = self._child(child, (*path, index))
                if value is not None:
                    items.append(value)
                    kept.append(index)
            if len(kept) < len(node.items):
                self._kept[path] = kept
            return items
        return self._scalar(node, path)

    def _child(self, node: Node, path: Path) -> object:
        return None if path in self._dropped else self._data(node, path)

    def _scalar(self, node: Node, path: Path) -> str | None:
        assert isinstance(node, Scalar)  # the three kinds of node
        text, plain = node.text, node.plain
        if "$" in text:
            try:
                text = substitute(text, self._environ)
            except ValueError as error:
                self._refuse(node, path, str(error))
                return None
            plain = plain or text != node.text
        if not plain:
            return Quoted(text)
        if text in NULLS:
            self._refuse(node, path, _EMPTY)
            return None
        return text

    def _refuse(self, node: Node, path: Path, message: str) -> None:
        self._drop(path)
        self.problems.append(Problem(self.name, node.line, node.column, path_text(path), message))

    def drop(self, path: Path) -> None:
        """Leave what stands at `path` out of the data from now on."""
        self._drop(self._locate(path)[0])

    def _drop(self, found: Path) -> None:
        self._dropped.add(found)
        self._damaged.update(found[:length] for length in range(len(found) + 1))

    def damaged(self, path: Path) -> bool:
        """Whether a part of what stands at `path` was left out, so that it may say more than the data show."""
        return self._locate(path)[0] in self._damaged

    def given(self, path: Path) -> bool:
        """Whether the file has something at `path`, right or wrong."""
        found, _ = self._locate(path)
        return len(found) == len(path)

    def names(self, path: Path) -> list[str]:
        """The keys of the mapping at `path`; nothing when there is no mapping."""
        _, node = self._locate(path)
        return list(node.entries) if isinstance(node, Mapping) and self.given(path) else []

    def texts(self, path: Path, key: str) -> list[str]:
        """The text under `key` of every mapping in the list at `path`, right or wrong."""
        _, node = self._locate(path)
        items = node.items if isinstance(node, Sequence) else []
        found = (item.entries.get(key) for item in items if isinstance(item, Mapping))
        return [entry[1].text for entry in found if entry is not None and isinstance(entry[1], Scalar)]

    def problem(self, path: Path, message: str, *, missing: str = "", warning: bool = False) -> Problem:
        """A problem with what stands at `path`, or, with `missing`, with that key not standing there."""
        wants_key = bool(missing) or path[-1:] == (KEY,)
        if path[-1:] == (KEY,):
            path = path[:-1]
        found, node = self._locate(path)
        spot = (self._key(found) if wants_key else None) or node
        shown_path = (*found, missing) if missing else found
        return Problem(self.name, spot.line, spot.column, path_text(shown_path), message, warning)

    def line(self, path: Path) -> int:
        """The line of what stands at `path`."""
        return self._locate(path)[1].line

    def _locate(self, path: Path) -> tuple[Path, Node]:
        """The file's path of as much of `path` as exists, and the node there.

        An index into something that is no list (a single value where a list may stand), and a key of a bare scalar
        (a short form), mean that value itself.
        """
        node = self._root
        found: Path = ()
        for step in path:
            if isinstance(node, Sequence) and isinstance(step, int):
                kept = self._kept.get(found, range(len(node.items)))
                if step >= len(kept):
                    break
                index = kept[step]
                node = node.items[index]
                found = (*found, index)
            elif isinstance(node, Mapping) and isinstance(step, str):
                if step not in node.entries:
                    break
                node = node.entries[step][1]
                found = (*found, step)
        return found, node

    def _key(self, found: Path) -> Scalar | None:
        """The key under which the node at `found` (a path of the file) stands; None for items and the root."""
        if not found or isinstance(found[-1], int):
            return None
        node = self._root
        for step in found[:-1]:
            if isinstance(step, int):
                assert isinstance(node, Sequence)  # `found` was walked before
                node = node.items[step]
            else:
                assert isinstance(node, Mapping)
                node = node.entries[step][1]
        assert isinstance(node, Mapping)
        return node.entries[found[-1]][0]
