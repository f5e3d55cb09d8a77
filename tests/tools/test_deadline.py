"""`fetch_urls` over pages that answer, fail, dawdle and hang: it answers in time and names all."""

import trio

from tests.support.followed_operations import calling, server_with, total
from tests.support.raw_http_servers import next_request, serving
from tests.support.servers_in_memory import values_of
from trio_tools.settings import FetchSettings

FETCH = FetchSettings(
    allow_private=True, ports=None, max_connections=300, max_connections_per_host=200
)


async def _site(stream, server):
    while request := await next_request(stream, server):
        number = int(request.split(b" ")[1].removeprefix(b"/"))
        if number % 20 == 3:
            await trio.sleep_forever()
        if number % 20 == 7:
            return  # breaks off
        if number % 20 == 11:
            await trio.sleep(0.5)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


async def test_200_urls_are_answered_within_their_three_seconds(era):
    async with serving(_site) as site:
        urls = [f"{site.url}/{n}" for n in range(200)]
        server = server_with(fetch=FETCH, max_output_chars=100_000)
        async with calling(server, era) as call:
            started = trio.current_time()
            answer = await call("fetch_urls", urls=urls, timeout_seconds=3, max_concurrent=50)
            took = trio.current_time() - started
            status = (await call("get_concurrency_status"))["data"]
    data = answer["data"]
    assert took < 3.5
    assert total(data["counts"]) == 200
    expected = [url for n, url in enumerate(urls) if n % 20 not in {3, 7}]
    assert [page["url"] for page in values_of(data)] == expected
    reasons = {error["item"]: error["error_code"] for error in data["errors"]}
    assert reasons == {
        url: "CANCELLED" if n % 20 == 3 else "CONNECTION_LOST"
        for n, url in enumerate(urls)
        if n % 20 in {3, 7}
    }
    assert all(error["reason"] for error in data["errors"])
    assert not data["complete"]
    assert status["limits"]["fetch_urls"]["in_use"] == 0
    assert status["work_for_departed_callers"] == 0
