"""From the text of a configuration file to a `Config`, or to every problem that it has.

Nothing is read here but the arguments: the file and the environment are the caller's.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from balancer.config import model, schema
from balancer.config.convert import convert
from balancer.config.fields import described, did_you_mean
from balancer.config.scalars import shown
from balancer.config.schema_base import element, model_at
from balancer.config.source import KEY, Path, Source
from balancer.config.validate import check
from balancer.config.yaml_nodes import PROBLEMS_MAX, WHOLE_FILE, compose
from balancer.errors import ConfigError, Problem

_ROUNDS_MAX = 10  # each round takes out at least one level of what is wrong; the schema is 7 deep


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that is right, and what is doubtful about it."""

    config: model.Config
    warnings: list[Problem]
    source: Source  # for further problems with positions, such as a file that is named and missing


def nothing_further(_loaded: Loaded) -> list[Problem]:
    """No problems but those that the text shows."""
    return []


def load(
    text: bytes,
    name: str,
    environ: Mapping[str, str],
    *,
    cores: int = 1,
    base: str = "",
    further: Callable[[Loaded], list[Problem]] = nothing_further,
) -> Loaded:
    """The configuration in `text`; `name` stands in its problems.

    `environ` fills `${NAME}`, `cores` is what `workers: auto` means, and relative paths are taken from the folder
    `base`. `further` is asked for what else is wrong, such as files that are named and missing; it sees the parts of
    the file that are right. Raises ConfigError with all problems, warnings included, in the order of the file.
    """
    source = Source(compose(text, name), name, environ)
    file = _parse(source)
    problems = list(source.problems)
    if file is None:
        raise ConfigError(_bounded(_ordered(problems)))
    problems += check(file, source, base)
    good = _is_good(problems)
    try:
        config = convert(file, cores, base)
    except ValueError:  # an address that `check` refused leaves nothing to ask further about
        if good:
            raise
        raise ConfigError(_bounded(_ordered(problems))) from None
    problems = _ordered(problems + further(Loaded(config, [], source)))
    if not _is_good(problems):
        raise ConfigError(_bounded(problems))
    return Loaded(config, problems[:PROBLEMS_MAX], source)


def _is_good(problems: Iterable[Problem]) -> bool:
    return all(problem.warning for problem in problems)


def _ordered(problems: Iterable[Problem]) -> list[Problem]:
    """In the order of the file, each once (an alias may show the same one twice)."""
    return sorted(dict.fromkeys(problems), key=lambda problem: (problem.line, problem.column))


def _bounded(problems: list[Problem]) -> list[Problem]:
    if len(problems) <= PROBLEMS_MAX:
        return problems
    last = problems[PROBLEMS_MAX - 1]
    rest = len(problems) - PROBLEMS_MAX
    more = Problem(last.file, last.line, last.column, WHOLE_FILE, f"and {rest:,} more problems; solve these first")
    return [*problems[:PROBLEMS_MAX], more]


def _parse(source: Source) -> schema.File | None:
    """The file as the schema sees it, without the parts that are wrong, so that the rest can be checked too.

    Problems go to `source.problems`. None when there is nothing to check. A part is dropped where an error points;
    what lacks a key because of that is dropped next, silently.
    """
    stand_ins: dict[str, object] = {}
    for _ in range(_ROUNDS_MAX):
        data = source.data()
        if not isinstance(data, dict):
            source.problems.append(source.problem((), f"the file must be a mapping of keys, not {described(data)}"))
            return None
        try:
            return schema.File.model_validate({**stand_ins, **data})
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=True)
        new = [detail for detail in details if detail["type"] != "missing" or not source.given(detail["loc"])]
        source.problems += [_explained(detail, source) for detail in new[:PROBLEMS_MAX]]
        for detail in details:
            path = _wrong_part(detail)
            if path:
                source.drop(path)
            else:
                stand_ins[str(detail["loc"][0])] = _nothing(str(detail["loc"][0]))
    return None


def _wrong_part(detail: ErrorDetails) -> Path:
    """The smallest part that can be left out because of `detail`; () = the file lacks a key."""
    path: Path = detail["loc"]
    return path[:-1] if path[-1:] == (KEY,) or detail["type"] == "missing" else path


def _nothing(name: str) -> object:
    """What stands in for a missing section of the file while the rest is checked."""
    kind, _ = element(schema.File.model_fields[name].annotation)
    return [] if kind == "list" else {}


def _explained(detail: ErrorDetails, source: Source) -> Problem:
    """One error of the schema in our words, at its place."""
    path: Path = detail["loc"]
    kind = detail["type"]
    value = detail["input"]
    if kind == "value_error":
        return source.problem(path, str(detail["ctx"]["error"]))
    if kind == "extra_forbidden":
        return source.problem((*path, KEY), _unknown_key(path))
    if kind == "missing":
        return source.problem(path[:-1], _missing(path), missing=str(path[-1]))
    if kind in ("model_type", "dict_type"):
        return source.problem(path, f"{described(value)} stands where a mapping of keys is due{_example(path)}")
    if kind == "list_type":
        return source.problem(path, f"{described(value)} stands where a list is due; write [{_item(value)}]")
    return source.problem(path, detail["msg"])  # no type of the schema gives another kind; its own words will do


def _item(value: object) -> str:
    return str(value) if isinstance(value, str) else "..."


def _example(path: Path) -> str:
    """What a mapping at `path` may hold, for a message."""
    found = model_at(schema.File, path)
    return "" if found is None else f"; its keys are {', '.join(found.model_fields)}"


def _missing(path: Path) -> str:
    parent = model_at(schema.File, path[:-1])
    assert parent is not None  # only models have keys that can be missing
    field = parent.model_fields[str(path[-1])]
    example = f"; write for example {path[-1]}: {field.examples[0]}" if field.examples else ""
    return f"is missing: {(field.description or '').partition('.')[0].lower()}{example}"


def _unknown_key(path: Path) -> str:
    key = str(path[-1])
    if any(_matches(pattern, path) for pattern in schema.LATER):
        return f"{key} is not supported yet; remove it"
    parent = model_at(schema.File, path[:-1])
    names = list(parent.model_fields) if parent is not None else []
    return f"unknown key {shown(key)}; {did_you_mean(key, names)}"


def _matches(pattern: tuple[str, ...], path: Path) -> bool:
    return len(pattern) == len(path) and all(want in ("*", step) for want, step in zip(pattern, path, strict=True))
