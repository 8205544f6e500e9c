"""The schema: every key explains itself, and the JSON Schema says what the loader does."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from balancer.config import schema
from balancer.config.load import load
from balancer.config.schema_base import Base, element, model_at


def models(root: type[Base] = schema.File) -> Iterator[type[Base]]:
    """The schema's models, from the file downward."""
    yield root
    for field in root.model_fields.values():
        kind, inner = element(field.annotation)
        if kind in ("list", "dict"):
            kind, inner = element(inner)
        if kind == "model":
            yield from models(inner)


MODELS = sorted(set(models()), key=lambda model: model.__name__)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_key_has_a_description_and_every_default_its_reason(model: type[Base]) -> None:
    for name, field in model.model_fields.items():
        text = field.description or ""
        assert len(text) > 10, name
        if field.is_required() or element(field.annotation)[0] == "model" or field.default_factory is not None:
            continue
        words = ("Unset", "Without") if field.default is None else (_reason_of(field.default),)
        assert any(word in text for word in words), f"{name}: no reason for {field.default}"


def _reason_of(default: object) -> str:
    """The words with which a reason for `default` begins."""
    if isinstance(default, bool):
        return f"{str(default).lower()}:"
    if default == "":
        return "Empty:"
    if isinstance(default, list):
        return "These:"
    return "Plain text:" if str(default).startswith("text/") else f"{default}"


def test_the_path_of_a_model_is_found_through_lists_mappings_and_options() -> None:
    assert model_at(schema.File, ()) is schema.File
    assert model_at(schema.File, ("pools", "x")) is not None
    found = model_at(schema.File, ("listeners", "x", "tls", "certificates", 0))
    assert found is not None
    assert set(found.model_fields) == {"cert", "key"}
    assert model_at(schema.File, ("pools",)) is None
    assert model_at(schema.File, ("workers",)) is None
    assert model_at(schema.File, ("nope",)) is None
    assert model_at(schema.File, ("workers", "x")) is None


def test_later_keys_are_not_keys_yet() -> None:
    for pattern in schema.LATER:
        path = tuple(0 if step == "*" else step for step in pattern)
        parent = model_at(schema.File, path[:-1])
        assert parent is not None, pattern
        assert pattern[-1] not in parent.model_fields


def walk(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
        for value in part.values():
            yield from walk(value)
    elif isinstance(part, list):
        for value in part:
            yield from walk(value)


def test_the_json_schema_is_plain_json_and_takes_no_unknown_keys() -> None:
    made = json.loads(json.dumps(schema.json_schema()))
    assert made["$schema"].startswith("https://json-schema.org/")
    assert set(made["required"]) == {"listeners", "routes"}
    objects = [part for part in walk(made) if "properties" in part and part.get("type") == "object"]
    assert len(objects) == len(MODELS)
    assert all(part["additionalProperties"] is False for part in objects)
    assert not any(part.get("type") == "null" for part in walk(made))


def test_every_reference_of_the_json_schema_leads_somewhere() -> None:
    made = schema.json_schema()
    targets = {part["$ref"] for part in walk(made) if "$ref" in part}
    assert targets
    assert targets <= {f"#/$defs/{name}" for name in made["$defs"]}


def test_the_json_schema_knows_the_short_forms() -> None:
    made = schema.json_schema()
    bind = made["$defs"]["Listener"]["properties"]["bind"]
    assert {"$ref": "#/$defs/BindForm"} in bind["anyOf"]
    assert {"type": "string"} in made["$defs"]["Backend"]["anyOf"]
    check = made["$defs"]["Pool"]["properties"]["health_check"]
    assert check["anyOf"] == [{"$ref": "#/$defs/HealthCheck"}, {"const": "off"}]
    assert {"type": "string"} in made["$defs"]["HealthCheck"]["anyOf"]


def test_defaults_of_the_json_schema_can_be_written_in_a_file() -> None:
    made = schema.json_schema()["properties"]
    lines = [
        f"{name}: {json.dumps(made[name]['default'])}" for name in made if "default" in made[name] and name != "pools"
    ]
    minimal = Path(__file__).parents[3] / "config" / "minimal.yaml"
    text = minimal.read_bytes()
    assert len(lines) > 4
    assert load(text + "\n".join(lines).encode() + b"\n", "f", {}).config == load(text, "f", {}).config
