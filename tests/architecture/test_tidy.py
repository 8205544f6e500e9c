"""Sizes, names and habits of the source tree. Every exception is listed here, and may not outlive its need."""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent.parent
FOLDERS = ("balancer", "loadtest", "tests")
SOURCES = sorted(path for folder in FOLDERS for path in (PROJECT / folder).rglob("*.py"))

FUNCTION_LINES = 70
MODULE_LINES = 400
POSITIONAL_PARAMETERS = 5

# The debts. An entry that is no longer needed fails its test: take it out.
LONG_FUNCTIONS: set[str] = set()
LONG_MODULES: set[str] = {
    "balancer/proxy/downstream.py",  # one state machine; a second object per connection would cost
}
MANY_PARAMETERS: set[str] = {
    "balancer/telemetry/access_log.py::format_line",  # hot: called once per request, keywords cost
    # Hot as well: made once per message, and written out only where a head is parsed.
    "loadtest/load.py::_expect",
    # Tables of cases, where the column says what a value is.
    "tests/conformance/build.py::case",
}
BLIND_EXCEPTS: set[str] = {  # each a root: of a task, a thread or a process, where an error is logged and ends it
    "balancer/consensus/driver.py::Driver._pump",
    "balancer/consensus/writer.py::Writer._run",
    "balancer/daemon/member.py::main",
}
ASSERTS: set[str] = set()

UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
# docs/coordination.md is one that a reader has.
UNKNOWN_SOURCES = re.compile(
    r"""\bDESIGN\b|(?<!docs/)(?<!"docs" / ")\b(peers|algorithms|coordination|style)\.md\b|/work/"""
)
RESERVED = "cluster"  # for consensus
RESERVED_FOR = (
    *("balancer/consensus/", "balancer/raft/", "balancer/coordination/", "balancer/cli/cluster"),
    *("balancer/daemon/member", "balancer/daemon/cluster"),
    *("balancer/config/model.py", "balancer/telemetry/metrics.py", "balancer/telemetry/events.py"),
    *(
        "tests/unit/daemon/cluster/",
        "tests/unit/consensus/",
        "tests/integration/coordination/",
        "tests/simulation/cluster/",
    ),
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@lru_cache(maxsize=1)
def tree_of(source: str) -> ast.Module:
    """The syntax tree; of the last source it is kept, since several checks look at it one after the other."""
    return ast.parse(source)


def where(path: Path) -> str:
    """The path as the lists above write it."""
    return path.relative_to(PROJECT).as_posix() if path.is_relative_to(PROJECT) else path.name


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Every function with its qualified name."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield f"{prefix}{node.name}", node
            yield from functions(node, f"{prefix}{node.name}.")
        else:
            name = f"{prefix}{node.name}." if isinstance(node, ast.ClassDef) else prefix
            yield from functions(node, name)


def long_functions(path: Path, source: str) -> Iterator[str]:
    """Functions of more lines than one can see at once."""
    for name, node in functions(tree_of(source)):
        if (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES:
            yield f"{where(path)}::{name}"


def long_modules(path: Path, source: str) -> Iterator[str]:
    """Modules that want to be two. A test module is as long as its module has properties."""
    if len(source.splitlines()) > MODULE_LINES and not path.name.startswith("test_"):
        yield where(path)


def many_parameters(path: Path, source: str) -> Iterator[str]:
    """Functions whose calls cannot be read without their definition."""
    for name, node in functions(tree_of(source)):
        parameters = [*node.args.posonlyargs, *node.args.args]
        if parameters and parameters[0].arg in {"self", "cls"}:
            parameters = parameters[1:]
        called_by_name = _is_command(node) or name.startswith("test_")  # click and pytest pass by name
        if len(parameters) > POSITIONAL_PARAMETERS and not called_by_name:
            yield f"{where(path)}::{name}"


def _is_command(node: Function) -> bool:
    return any(ast.unparse(decorator).startswith("click.") for decorator in node.decorator_list)


def innermost(tree: ast.AST, kind: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    """Every node of a kind, with the qualified name of the innermost function around it ("" = none)."""
    names = {id(inner): "" for inner in ast.walk(tree) if isinstance(inner, kind)}
    for name, node in functions(tree):  # outer functions come before those inside them
        names.update({id(inner): name for inner in ast.walk(node) if isinstance(inner, kind)})
    for inner in ast.walk(tree):
        if id(inner) in names:
            yield names[id(inner)], inner


def blind_excepts(path: Path, source: str) -> Iterator[str]:
    """Handlers that catch everything and do not raise it again."""
    for name, handler in innermost(tree_of(source), ast.ExceptHandler):
        assert isinstance(handler, ast.ExceptHandler)
        caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        everything = any(
            kind is None or (isinstance(kind, ast.Name) and kind.id in {"Exception", "BaseException"})
            for kind in caught
        )
        if everything and not isinstance(handler.body[-1], ast.Raise):
            yield f"{where(path)}::{name}".removesuffix("::")


def asserts_on_values(path: Path, source: str) -> Iterator[str]:
    """Asserts of the product that say more than "this is not None" or "this is such an object".

    Input from a network or a file must never reach an assert; those two forms tell a type checker what holds.
    """
    if not where(path).startswith("balancer/"):
        return
    for name, statement in innermost(tree_of(source), ast.Assert):
        assert isinstance(statement, ast.Assert)
        if not _narrows_a_type(statement.test):
            yield f"{where(path)}::{name}"


def _narrows_a_type(test: ast.expr) -> bool:
    if isinstance(test, ast.BoolOp):
        return all(_narrows_a_type(part) for part in test.values)
    if isinstance(test, ast.Call):
        return isinstance(test.func, ast.Name) and test.func.id == "isinstance"
    return (
        isinstance(test, ast.Compare)
        and isinstance(test.ops[0], ast.IsNot)
        and isinstance(test.comparators[0], ast.Constant)
        and test.comparators[0].value is None
    )


def unfinished(path: Path, source: str) -> Iterator[str]:
    """Comments that put work off."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and UNFINISHED.search(token.string):
            yield f"{where(path)}:{token.start[0]}"


def unknown_sources(path: Path, source: str) -> Iterator[str]:
    """References to texts that a reader of this repository does not have."""
    if path != Path(__file__):
        for number, line in enumerate(source.splitlines(), start=1):
            if UNKNOWN_SOURCES.search(line):
                yield f"{where(path)}:{number}"


def defined_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every identifier that the tree gives to something, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr
            case ast.alias(asname=str(name)):
                yield 0, name


def words(name: str) -> str:
    """An identifier as lower-case words between underscores: `_UpstreamPool` -> `_upstream_pool_`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return f"_{spaced.strip('_').lower()}_"


@cache
def banned_words() -> tuple[str, ...]:
    """The words of docs/glossary.md that identifiers do without: those in `code type` under "Not used"."""
    banned: list[str] = []
    for line in (PROJECT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            banned += re.findall(r"`([a-z_]+)`", line.split("|")[-2])
        elif "are not used in any name" in line:
            banned += re.findall(r"`([a-z_]+)`", line)
    return tuple(banned)


def banned_names(path: Path, source: str) -> Iterator[str]:
    """Identifiers and module names that use a synonym which the glossary rules out."""
    banned = banned_words()
    names = [(0, path.stem), *((0, part) for part in where(path).split("/")[:-1]), *defined_names(tree_of(source))]
    for line, name in names:
        found = [word for word in banned if f"_{word}_" in words(name)]
        if f"_{RESERVED}_" in words(name) and not where(path).startswith(RESERVED_FOR):
            found.append(RESERVED)
        if found:
            yield f"{where(path)}:{line}: {name} (not used here: {', '.join(found)})"


Check = Callable[[Path, str], Iterable[str]]

LISTED: list[tuple[str, Check, set[str]]] = [
    (f"functions of at most {FUNCTION_LINES} lines", long_functions, LONG_FUNCTIONS),
    (f"modules of at most {MODULE_LINES} lines", long_modules, LONG_MODULES),
    (f"at most {POSITIONAL_PARAMETERS} positional parameters", many_parameters, MANY_PARAMETERS),
    ("no blind except", blind_excepts, BLIND_EXCEPTS),
    ("no assert on input", asserts_on_values, ASSERTS),
    ("nothing put off", unfinished, set()),
    ("sources that a reader has", unknown_sources, set()),
    ("the words of the glossary", banned_names, set()),
]


def test_the_tree_keeps_its_habits() -> None:
    """All in one, since each source is parsed only once then."""
    found: dict[str, set[str]] = {habit: set() for habit, _, _ in LISTED}
    for path in SOURCES:
        source = path.read_text(encoding="utf-8")
        for habit, check, _ in LISTED:
            found[habit].update(check(path, source))
    told = []
    for habit, _, exceptions in LISTED:
        told += [f"{habit}: {each}" for each in sorted(found[habit] - exceptions)]
        told += [f"{habit}: {each} is listed, but no exception any more" for each in sorted(exceptions - found[habit])]
    assert not told, "\n".join(told)


BREACHES = [
    (long_functions, "def f():\n" + "    x = 1\n" * FUNCTION_LINES),
    (long_modules, "x = 1\n" * (MODULE_LINES + 1)),
    (many_parameters, "class A:\n    def f(self, a, b, c, d, e, f): ...\n"),
    (blind_excepts, "try:\n    f()\nexcept:\n    pass\n"),
    (blind_excepts, "def f():\n    try:\n        g()\n    except (OSError, Exception):\n        return\n"),
    (unfinished, "x = 1  # TODO later\n"),
    (unknown_sources, "# as DESIGN 5 says\n"),
    (banned_names, "def pick_endpoint(): ...\n"),
    (banned_names, "class ConnectionManager: ...\n"),
    (banned_names, "self.upstream_pool = 1\n"),
    (banned_names, "for cluster in x: ...\n"),
    (banned_names, "import a as svc\n"),
]


@pytest.mark.parametrize(("check", "source"), BREACHES)
def test_a_breach_is_found(check: object, source: str) -> None:
    assert callable(check)
    assert list(check(Path("example.py"), source))


def test_an_assert_on_a_value_is_found_and_a_narrowing_one_is_not() -> None:
    path = PROJECT / "balancer" / "example.py"
    assert list(asserts_on_values(path, "def f(x):\n    assert x > 0\n"))
    assert not list(asserts_on_values(path, "def f(x):\n    assert x is not None and isinstance(x, int)\n"))


def test_a_banned_module_name_is_found() -> None:
    assert list(banned_names(PROJECT / "balancer" / "utils.py", ""))
    assert list(banned_names(PROJECT / "balancer" / "helpers" / "a.py", ""))


def test_what_is_allowed_is_not_reported() -> None:
    source = (
        "def f(a, b, c, d, e, *, f, g):\n    try:\n        a()\n    except Exception:\n        b()\n        raise\n"
    )
    for check in (long_functions, long_modules, many_parameters, blind_excepts, unfinished, banned_names):
        assert not list(check(Path("example.py"), source)), check
