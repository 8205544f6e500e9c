"""What all models of the schema share: unknown keys are errors, defaults are parsed, short forms."""

from types import UnionType
from typing import Any, ClassVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema


class Base(BaseModel):
    """A mapping of the file. `short` names the key that a bare scalar stands for (`backends: ["127.0.0.1:1"]`)."""

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True)
    short: ClassVar[str] = ""

    @model_validator(mode="before")
    @classmethod
    def _expand_short_form(cls, value: Any) -> Any:
        if cls.short and isinstance(value, str):
            return cls.from_short(value)
        return value

    @classmethod
    def from_short(cls, text: str) -> dict[str, Any]:
        """The mapping that a bare scalar stands for."""
        return {cls.short: text}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        made = handler(schema)
        if not cls.short:
            return made
        mapping = handler.resolve_ref_schema(made)
        whole = dict(mapping)
        mapping.clear()
        mapping["anyOf"] = [{"type": "string"}, whole]
        return made


class OneOrMany:
    """Marks a list for which a single value may stand."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            lambda value: value if isinstance(value, list) else [value], handler(source)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        made = handler(schema)
        return {"anyOf": [made["items"], made]}


class OrOff:
    """Marks a section for which `off` (None) may stand."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            lambda value: None if value == "off" else value, handler(source)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [*handler(schema)["anyOf"], {"const": "off"}]}


def key(default: Any = ..., *, description: str, example: str | None = None) -> Any:
    """A key of a mapping. `default` is written as in the file, or the type that makes it; without it the key must be.

    `description` says what the key does and why its default is what it is; `example` is for messages.
    """
    examples = None if example is None else [example]
    if isinstance(default, type):
        return Field(default_factory=default, description=description, examples=examples)
    return Field(default, description=description, examples=examples)


def element(annotation: Any) -> tuple[str, Any]:
    """What `annotation` holds: ("list" | "dict" | "model" | "scalar", the type inside). `X | None` counts as X."""
    if isinstance(annotation, type) and issubclass(annotation, Base):
        return "model", annotation
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin in (Union, UnionType):
        inner = [argument for argument in arguments if argument is not type(None)]
        return element(inner[0])
    if origin is list:
        return "list", arguments[0]
    if origin is dict:
        return "dict", arguments[1]
    return "scalar", annotation


def model_at(root: type[Base], path: tuple[str | int, ...]) -> type[Base] | None:
    """The model that describes the mapping at `path` of the file, or None when a scalar, list or nothing is there."""
    annotation: Any = root
    for step in path:
        kind, inner = element(annotation)
        if kind in ("list", "dict"):
            annotation = inner
        elif kind == "model" and isinstance(step, str) and step in inner.model_fields:
            annotation = inner.model_fields[step].annotation
        else:
            return None
    kind, inner = element(annotation)
    return inner if kind == "model" else None
