"""Schemas that every model API accepts, and short, since each conversation pays for them.

Hosts pass them on unchanged, and some APIs refuse a whole request for one unknown keyword. So a
schema has only `type`, `properties`, `required`, `items`, `enum`, `description`, `minimum` and
`maximum`. Defaults and exclusive bounds are in the description. Rules that such a schema cannot
express, such as that there are no other fields, are checked in the call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_Schema = Mapping[str, Any]

# Exclusive and other minimum of a timeout, which is above 0.
_OF_TIMES = ((0, 0), (None, 0.001))
_TYPES = ("string", "integer", "number", "boolean", "array", "object")


def lean_schema(schema: _Schema) -> dict[str, Any]:
    """Return the schema of an object with the keywords that every model API accepts."""
    definitions: Mapping[str, _Schema] = schema.get("$defs", {})
    lean = _lean(schema, definitions)
    return {"type": "object", "properties": {}, **{k: lean[k] for k in lean if k != "description"}}


def with_names(schema: dict[str, Any], argument: str, names: Sequence[str]) -> None:
    """Restrict an argument of a lean schema to these names."""
    if argument in schema["properties"] and names:
        schema["properties"][argument]["enum"] = list(names)


def add_to_description(schema: dict[str, Any], argument: str, words: str) -> None:
    """Add a sentence to the description of an argument, if the argument exists."""
    if argument in schema["properties"]:
        told = schema["properties"][argument]
        told["description"] = f"{told.get('description', '')} {words}".strip()


def fields_of(schema: _Schema) -> str:
    """Return a short description of an item: its fields, or its type.

    `url, method? (GET|HEAD), max_bytes?`; `?` marks optional fields.
    """
    definitions: Mapping[str, _Schema] = schema.get("$defs", {})
    lean = _lean(schema, definitions)
    fields: Mapping[str, _Schema] = lean.get("properties", {})
    if not fields:
        return str(lean["type"]) if schema else "any JSON"
    required = lean.get("required", ())
    return ", ".join(_field(name, field, name in required) for name, field in fields.items())


def _field(name: str, schema: _Schema, required: bool) -> str:  # noqa: FBT001
    names = "|".join(map(str, schema.get("enum", ())))
    return f"{name}{'' if required else '?'}{f' ({names})' if names else ''}"


def _lean(schema: _Schema, definitions: Mapping[str, _Schema]) -> dict[str, Any]:
    schema = _resolved(schema, definitions)
    kinds: Any = schema.get("type")
    kind = next((k for k in kinds if k != "null"), "") if isinstance(kinds, list) else str(kinds)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    names = [each for each in schema.get("enum", ()) if each is not None]
    if "const" in schema:
        names = [schema["const"]]
    if kind not in _TYPES:
        kind = "string" if names and all(isinstance(each, str) for each in names) else "object"
    lean: dict[str, Any] = {"type": kind}
    if told := _described(schema):
        lean["description"] = told
    if names:
        lean["enum"] = names
    lean |= _bounds(schema, kind)
    if kind == "array":
        lean["items"] = _lean(schema.get("items", {}), definitions)
    if "properties" in schema:
        lean["properties"] = {
            name: _lean(field, definitions) for name, field in schema["properties"].items()
        }
    if schema.get("required"):
        lean["required"] = list(schema["required"])
    return lean


def _resolved(schema: _Schema, definitions: Mapping[str, _Schema]) -> _Schema:
    """Follow references, and take the first alternative that is not null."""
    while True:
        rest = {k: v for k, v in schema.items() if k not in {"$ref", "anyOf", "oneOf", "allOf"}}
        if "$ref" in schema:
            schema = {**definitions[schema["$ref"].rpartition("/")[2]], **rest}
            continue
        options: list[_Schema] = (
            schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf") or []
        )
        if not options:
            return schema
        useful = [each for each in options if each.get("type") != "null"]
        schema = {**(useful or options)[0], **rest}


def _described(schema: _Schema) -> str:
    told = str(schema.get("description", ""))
    default = schema.get("default")
    if default:  # false, null and empty defaults are omitted
        told = f"{told} Default {json.dumps(default, ensure_ascii=False)}."
    above = schema.get("exclusiveMinimum")
    if above and schema.get("type") == "number":
        told = f"{told} Above {above:g}."
    return told.strip()


def _bounds(schema: _Schema, kind: str) -> dict[str, Any]:
    bounds = {name: short_number(schema[name]) for name in ("minimum", "maximum") if name in schema}
    step = 1 if kind == "integer" else 0
    if "exclusiveMinimum" in schema:
        bounds["minimum"] = schema["exclusiveMinimum"] + step
    if "exclusiveMaximum" in schema:
        bounds["maximum"] = schema["exclusiveMaximum"] - step
    if kind == "number" and (schema.get("exclusiveMinimum"), bounds.get("minimum")) in _OF_TIMES:
        del bounds["minimum"]  # it is checked, but too long to repeat
    return bounds


def short_number(bound: float) -> float:
    """Return 300 for 300.0, which saves two characters each time."""
    return int(bound) if bound == int(bound) else bound
