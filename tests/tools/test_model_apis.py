"""What the APIs of models take: the whole list of tools, converted by the public rules of each.

Many hosts hand our schemas on as they are. So there is nothing to clean: the rules are checked on
the schemas themselves, and strict mode is the one that OpenAI's own conversion makes of them.
"""

import copy
import re

import pytest

from tests.support.followed_operations import server_with
from tests.support.servers_in_memory import connected
from tests.tools.test_declarations import everything
from trio_tools.operations.operation import Operation
from trio_tools.settings import FetchSettings

OPENAI_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
ANTHROPIC_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
ANTHROPIC_PROPERTY = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
GEMINI_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,63}")
GEMINI_WORDS = {
    "type", "format", "title", "description", "nullable", "enum", "items", "maxItems", "minItems",
    "properties", "required", "minimum", "maximum", "anyOf", "propertyOrdering", "example",
    "default", "pattern", "minLength", "maxLength", "minProperties", "maxProperties",
}  # fmt: skip
TYPES = {"string", "number", "integer", "boolean", "array", "object"}


@pytest.fixture
async def tools(tmp_path, shop):
    """The list of a server that has everything, and more operations than a description holds."""

    async def work(item: int) -> int:
        """Do one of many things that take a long line to describe, and then some more of it."""
        return item

    operations = [Operation(name=f"operation_{n}", fn=work) for n in range(40)]
    server = server_with(
        *operations,
        toolset="patterns",
        output_root=tmp_path,
        fetch=FetchSettings(crawl=True),
        **everything(tmp_path, shop),
    )
    async with connected(server) as client:
        return (await client.list_tools()).tools


def parts_of(schema):
    """Return the schemas right within a schema."""
    return [*schema.get("properties", {}).values(), *filter(None, [schema.get("items")])]


def schemas_in(schema):
    """Yield a schema and all within it."""
    yield schema
    for each in parts_of(schema):
        yield from schemas_in(each)


def strict(schema):
    """Convert a schema for OpenAI's strict mode: what is optional may be null."""
    converted = copy.deepcopy(schema)
    for each in list(schemas_in(converted)):
        if each["type"] != "object":
            continue
        required = set(each.get("required", ()))
        each["additionalProperties"] = False
        each["required"] = list(each.setdefault("properties", {}))
        for name, field in each["properties"].items():
            if name not in required:
                field["nullable"] = True
    return converted


async def test_openai_takes_every_tool(tools):
    assert len(tools) <= 128
    for tool in tools:
        assert OPENAI_NAME.fullmatch(tool.name)
        assert len(tool.description) <= 1_024, tool.name
        assert tool.input_schema["type"] == "object"
        assert isinstance(tool.input_schema["properties"], dict)


async def test_openai_takes_every_tool_in_strict_mode(tools):
    for tool in tools:
        converted = strict(tool.input_schema)
        every = list(schemas_in(converted))
        fields = [name for each in every for name in each.get("properties", ())]
        enums = [value for each in every for value in each.get("enum", ())]
        assert len(fields) <= 100
        assert len(enums) <= 500
        assert len("".join([*fields, *enums])) <= 15_000
        assert depth(converted) <= 5
        for each in every:
            assert each["type"] in TYPES
            assert not {"allOf", "oneOf", "not", "if", "patternProperties", "$ref"} & set(each)
            if each["type"] == "object":
                assert each["required"] == list(each["properties"])


def depth(schema):
    return 1 + max(map(depth, parts_of(schema)), default=0)


async def test_anthropic_takes_every_tool(tools):
    for tool in tools:
        assert ANTHROPIC_NAME.fullmatch(tool.name)
        assert tool.input_schema["type"] == "object"
        assert not {"oneOf", "allOf", "anyOf"} & set(tool.input_schema)
        for each in schemas_in(tool.input_schema):
            assert all(map(ANTHROPIC_PROPERTY.fullmatch, each.get("properties", ())))
        assert len(tool.description) <= 2_048  # Claude Code cuts what is longer


async def test_gemini_takes_every_tool(tools):
    assert len(tools) <= 128
    for tool in tools:
        assert GEMINI_NAME.fullmatch(tool.name)
        for each in schemas_in(tool.input_schema):
            assert set(each) <= GEMINI_WORDS
            assert each["type"] in TYPES
            assert ("items" in each) is (each["type"] == "array")
            assert set(each.get("required", ())) <= set(each.get("properties", ()))
            if each["type"] != "object":
                assert not {"properties", "required"} & set(each)
            for value in each.get("enum", ()):
                assert each["type"] == "string"
                assert value


async def test_what_a_description_has_no_room_for_is_counted(tools):
    (batch,) = (tool for tool in tools if tool.name == "batch_process")
    assert re.search(
        r"\n- operation_0: .+\n(?:- .+\n)*and \d+ more\n\nExecution: ", batch.description
    )
    assert "operation_39" in batch.input_schema["properties"]["operation"]["enum"]
