"""Small words of answers: numbers and their nouns, and what does not apply is not told."""

import pytest

from tests.support.followed_operations import calling, nap_server, server_with
from tests.support.raw_http_servers import answering, serving
from tests.support.servers_in_memory import connected, values_of
from trio_tools.answers.texts import counted
from trio_tools.settings import FetchSettings


@pytest.mark.parametrize(("count", "told"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows")])
def test_a_noun_follows_its_number(count, told):
    assert counted(count, "row") == told


async def test_one_item_is_not_told_as_many(autojump_clock):
    asked = {"operation": "nap", "items": [1, 5], "timeout_seconds": 2}
    async with connected(nap_server()[0]) as client:
        cut = (await client.call_tool("batch_process", asked)).content[0].text
    assert "1 item is not done." in cut


async def test_a_body_that_nobody_asked_for_is_not_cut():
    reply = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nabc"
    open_to_all = FetchSettings(allow_private=True, ports=None)
    async with serving(answering(reply)) as site, calling(server_with(fetch=open_to_all)) as call:
        told = await call("fetch_urls", urls=[site.url], body_as="none")
    (page,) = values_of(told["data"])
    assert not page["truncated"]
    assert page["headers"]["content-length"] == "3"
