"""What operations finished is read as resources, by their owner alone, page by page."""

import json

import pytest
import trio
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from mcp.types import ResourceLink, ResourceTemplateReference

from nursery_patterns import request_context
from tests.support.followed_operations import server_with
from tests.support.servers_in_memory import call_as, envelope_of
from trio_tools.tools.batches.pagination import operation_uri

TEMPLATES = {"operation://{operation_id}", "operation://{operation_id}/{index}"}


async def text_of(size: int) -> str:
    """Return a text of that size; fail for a negative one."""
    await trio.lowlevel.checkpoint()
    if size < 0:
        raise ValueError("negative")
    return 'é"' * (size // 2)


async def run(client, items, operation_id, **arguments):
    return await envelope_of(
        client,
        "batch_process",
        {"operation": "text_of", "items": items, "operation_id": operation_id, **arguments},
    )


async def page_of(client, uri, most=40_000):
    """Return the outcomes of a page, and the URI of the next one."""
    [content] = (await client.read_resource(uri)).contents
    assert content.mime_type == "application/jsonl"
    assert len(content.text) <= most
    lines = [json.loads(line) for line in content.text.splitlines()]
    following = lines.pop()["next"] if lines and "next" in lines[-1] else None
    return lines, following


async def all_of(client, uri, most=40_000):
    lines, pages = [], 0
    while uri is not None:
        page, uri = await page_of(client, uri, most)
        lines += page
        pages += 1
    return lines, pages


async def test_the_outcomes_of_an_operation_are_lines_in_input_order(era):
    async with Client(server_with(text_of), mode=era) as client:
        templates = (await client.list_resource_templates()).resource_templates
        assert {template.uri_template for template in templates} >= TEMPLATES
        await run(client, [2, -1, 4], "op")
        lines, following = await page_of(client, "operation://op")
        assert following is None
        assert lines[0] == {"index": 0, "item": 2, "value": 'é"'}
        assert (lines[1]["index"], lines[1]["status"]) == (1, "failed")
        assert lines[2]["value"] == 'é"é"'
        for line in lines:
            assert await page_of(client, f"operation://op/{line['index']}") == ([line], None)


@pytest.mark.parametrize("name", ["op", "a\0b", "../é/\\'\"%_?#", "x" * 128])
async def test_pages_keep_to_the_bound_and_leave_nothing_out(era, name):
    async with Client(server_with(text_of, max_output_chars=3_000), mode=era) as client:
        await run(client, [300] * 40, name)
        lines, pages = await all_of(client, operation_uri(name), 3_000)
        assert [line["index"] for line in lines] == list(range(40))
        assert all(line["value"] == 'é"' * 150 for line in lines)
        assert pages > 5


async def test_a_result_larger_than_a_page_is_read_in_parts(era):
    async with Client(server_with(text_of, max_output_chars=3_000), mode=era) as client:
        await run(client, [2, 20_000], "op")
        lines, _ = await all_of(client, "operation://op", 3_000)
        assert lines[1]["value"]["truncated"] is True
        parts, pages = await all_of(client, "operation://op/1", 3_000)
        assert json.loads("".join(part["json_part"] for part in parts)) == 'é"' * 10_000
        assert pages > 5


async def test_what_there_is_not_and_what_is_of_somebody_else_is_not_found(era):
    server = server_with(text_of)
    await call_as(
        server,
        "ada",
        "batch_process",
        {"operation": "text_of", "items": [2], "operation_id": "hers"},
    )
    async with Client(server, mode=era) as client:
        await run(client, [2, 4], "op")
        for uri in ["hers", "hers/0", "none", "op/2", "op/-1", "op/x", "op/" + "9" * 5_000]:
            with pytest.raises(MCPError) as caught:
                await client.read_resource(f"operation://{uri}")
            assert caught.value.error.code == -32602, uri
    with request_context(client_id="ada"):
        [content] = await server.read_resource("operation://hers")
    assert json.loads(content.content) == {"index": 0, "item": 2, "value": 'é"'}


async def test_a_cursor_of_another_operation_or_outcome_is_refused(era):
    async with Client(server_with(text_of, max_output_chars=3_000), mode=era) as client:
        await run(client, [20_000, 20_000], "one")
        await run(client, [2], "two")
        _, following = await page_of(client, "operation://one/0", 3_000)
        cursor = following.partition("?")[2]
        for uri in ["operation://two?" + cursor, "operation://one/1?" + cursor, following + "x"]:
            with pytest.raises(MCPError, match="cursor") as caught:
                await client.read_resource(uri)
            assert caught.value.error.data["error_code"] == "INVALID_CURSOR"


async def test_ids_and_indexes_are_completed_for_their_owner(era):
    server = server_with(text_of)
    arguments = {"operation": "text_of", "items": [2], "operation_id": "op_hers"}
    await call_as(server, "ada", "batch_process", arguments)
    ref = ResourceTemplateReference(type="ref/resource", uri="operation://{operation_id}/{index}")
    async with Client(server, mode=era) as client:
        await run(client, [2], "op_1")
        await run(client, [2] * 12, "op_2")
        await run(client, [2], "other")

        async def values(name, value, **known):
            argument = {"name": name, "value": value}
            return (await client.complete(ref, argument, context_arguments=known)).completion.values

        assert await values("operation_id", "op_") == ["op_2", "op_1"]
        assert await values("index", "1", operation_id="op_2") == ["1", "10", "11"]
        assert await values("index", "", operation_id="op_hers") == []
        assert await values("other", "") == []


async def test_what_was_stored_is_read_and_completed_after_a_restart(era, tmp_path):
    state = {"state": {"url": f"sqlite:///{tmp_path}/operations.db"}}
    async with Client(server_with(text_of, max_output_chars=3_000, **state), mode=era) as client:
        await run(client, [300] * 40, "op")
        first, following = await page_of(client, "operation://op", 3_000)
    ref = ResourceTemplateReference(type="ref/resource", uri="operation://{operation_id}")
    async with Client(server_with(text_of, max_output_chars=3_000, **state), mode=era) as client:
        completed = await client.complete(ref, {"name": "operation_id", "value": ""})
        assert completed.completion.values == ["op"]
        rest, _ = await all_of(client, following, 3_000)
        assert [line["index"] for line in first + rest] == list(range(40))


@pytest.mark.parametrize("answers", ["both", "text", "structured"])
async def test_answers_link_to_resources_if_the_settings_say_so(era, answers):
    arguments = {"operation": "text_of", "items": [2], "operation_id": "a/b"}
    for wanted in (True, False):
        server = server_with(text_of, answers=answers, answers_link_resources=wanted)
        async with Client(server, mode=era) as client:
            result = await client.call_tool("batch_process", arguments)
            links = [block for block in result.content if isinstance(block, ResourceLink)]
            assert [link.uri for link in links] == ["operation://a%2Fb"] * wanted
            if wanted:
                assert (await page_of(client, links[0].uri))[0][0]["index"] == 0
