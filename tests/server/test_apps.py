"""The Apps extension: who declares it is offered the page and its data; nobody else sees it."""

import json

import pytest
import trio
from mcp.client import Client
from mcp.client.extension import ClientExtension
from mcp.server.apps import APP_MIME_TYPE, EXTENSION_ID, Apps

from tests.support.servers_in_memory import era, no_settings_from_outside
from trio_tools import Settings, create_server
from trio_tools.server.extensions.apps import PAGE_URI, VIEW_KEY
from trio_tools.tools.batches.pagination import OPERATION_MIME

__all__ = ["era", "no_settings_from_outside"]

EVIL = "<script>alert(1)</script>"


class ShowsApps(ClientExtension):
    """What a host declares that shows pages."""

    identifier = EXTENSION_ID

    def __init__(self, *mime_types):
        self.mime_types = list(mime_types)

    def settings(self):
        return {"mimeTypes": self.mime_types}


async def work(item: str) -> str:
    """Return the item, or fail."""
    await trio.lowlevel.checkpoint()
    if item.startswith("fail"):
        raise ValueError(item)
    return item


def client_of(era, *mime_types, extensions=()):
    server = create_server(Settings(), operations=[work], extensions=extensions)
    declared = [ShowsApps(*mime_types)] if mime_types else []
    return Client(server, mode=era, extensions=declared)


async def run(client, items, operation_id=EVIL):
    arguments = {"operation": "work", "items": items, "operation_id": operation_id}
    return await client.call_tool("batch_process", arguments)


async def test_batch_tools_name_the_page_for_a_host_that_shows_it(era):
    async with client_of(era, APP_MIME_TYPE) as client:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        named = {name for name, tool in listed.items() if "ui" in tool.meta}
        assert named == {"fetch_urls", "batch_process"}
        assert listed["fetch_urls"].meta["ui"] == {"resourceUri": PAGE_URI}
        assert "anthropic/maxResultSizeChars" in listed["fetch_urls"].meta
        assert [each.uri for each in (await client.list_resources()).resources] == [PAGE_URI]
        (content,) = (await client.read_resource(PAGE_URI)).contents
        assert content.mime_type == APP_MIME_TYPE
        assert content.meta["ui"]["csp"] == {"connectDomains": [], "resourceDomains": []}
        assert "default-src 'none'; script-src 'sha256-" in content.text
        assert "{{" not in content.text


async def test_a_result_brings_what_the_page_shows_beside_what_the_model_reads(era):
    async with client_of(era, APP_MIME_TYPE) as client:
        result = await run(client, ["a", f"fail {EVIL}"])
        view = result.meta[VIEW_KEY]
        assert view["operation_id"] == EVIL
        assert (view["counts"]["succeeded"], view["counts"]["failed"]) == (1, 1)
        assert view["failed"][0]["item"] == f"fail {EVIL}"
        assert {span[3] for span in view["timeline"]} == {"succeeded", "failed"}
        assert VIEW_KEY not in json.dumps(result.structured_content)
        read = await client.call_tool("get_operation", {"operation_id": EVIL})
        assert read.meta[VIEW_KEY]["counts"] == view["counts"]
        unknown = await client.call_tool("get_operation", {"operation_id": "none"})
        assert unknown.is_error
        assert VIEW_KEY not in (unknown.meta or {})


@pytest.mark.parametrize("mime_types", [(), ("text/html",)])
async def test_nothing_changes_for_a_client_that_does_not_show_it(era, mime_types):
    async with client_of(era, *mime_types) as client:
        tools = (await client.list_tools()).tools
        assert not any("ui" in tool.meta for tool in tools)
        assert (await client.list_resources()).resources == []
        templates = (await client.list_resource_templates()).resource_templates
        assert {each.mime_type for each in templates} == {OPERATION_MIME}
        result = await run(client, ["a"])
        assert VIEW_KEY not in (result.meta or {})


async def test_an_application_keeps_its_own_apps(era):
    apps = Apps()
    apps.add_html_resource("ui://mine/page.html", "<!doctype html><title>mine</title>")
    async with client_of(era, APP_MIME_TYPE, extensions=[apps]) as client:
        uris = {each.uri for each in (await client.list_resources()).resources}
        assert uris == {"ui://mine/page.html", PAGE_URI}
    async with client_of(era, extensions=[apps]) as client:
        uris = {each.uri for each in (await client.list_resources()).resources}
        assert uris == {"ui://mine/page.html"}
