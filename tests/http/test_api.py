import base64
import html
import json
from functools import partial
from urllib.parse import quote, quote_plus, unquote, unquote_plus

import pytest
import trio

from tests.support.raw_http_servers import OK, answering, next_request, reply, serving
from trio_tools.http.apis.client import ApiClient
from trio_tools.http.apis.paths import check_path
from trio_tools.http.apis.redaction import Secret
from trio_tools.http.apis.types import ApiConfig, Waiting
from trio_tools.http.wire.errors import Code, FetchError, FetchRefused, InvalidRequest

SECRET = "s3cr3t-token-value"


def api(server, **changes):
    config = {
        "name": "shop",
        "base_url": server.url + "/base/",
        "auth_env": "SHOP_TOKEN",
        "auth_prefix": "Bearer ",
        "allowed_methods": frozenset({"GET", "POST"}),
        "allowed_path_prefixes": ("/v1",),
        "rate_per_second": 1000.0,
        "burst": 100,
    }
    return ApiClient(ApiConfig(**{**config, **changes}), environ={"SHOP_TOKEN": SECRET})


async def echo(stream, server):
    while request := await next_request(stream, server):
        body = json.dumps({"seen": request.decode()}).encode()
        headers = ("Content-Type: application/json", f"ETag: {SECRET}", "X-RateLimit-Limit: 60")
        await stream.send_all(reply(body, *headers, "X-RateLimit-Remaining: 59"))


async def test_a_call_carries_the_secret_and_the_answer_does_not():
    async with serving(echo) as server, api(server) as client:
        answer = await client.call("POST", "/v1/items", {"q": ["a b", "c"]}, json={"n": 1})
        request = server.requests[0]
        assert request.startswith(b"POST /base/v1/items?q=a+b&q=c HTTP/1.1\r\n")
        assert f"Authorization: Bearer {SECRET}".encode() in request
        assert request.endswith(b'{"n": 1}')
        assert (answer.status, answer.limit, answer.remaining) == (200, 60, 59)
        assert answer.retry_after_seconds is None
        assert "[redacted]" in answer.body["seen"]
        assert answer.headers["etag"] == "[redacted]"
        for shown in (repr(answer), repr(client), repr(client._config)):
            assert SECRET not in shown


async def test_a_secret_at_the_cut_of_a_long_reply_is_not_half_shown():
    raw = reply(b"x" * 10 + SECRET.encode())
    async with serving(answering(raw)) as server, api(server, max_reply_bytes=20) as client:
        answer = await client.call("GET", "/v1")
        assert (answer.truncated, answer.body) == (True, "x" * 10 + "[redacted]")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "v1",
        "//evil.org/v1",
        "/v10",
        "/v2/x",
        "/v1/../v2",
        "/v1/..",
        "/v1/./x",
        "/v1//x",
        "/v1/%2e%2e/v2",
        "/v1/%2E./v2",
        "/v1/%252e%252e/v2",
        "/v1/%25252e%25252e/v2",
        "/v1/..;x/v2",
        "/v1/..%3bx/v2",
        "/v1/..%2fv2",
        "/v1/%2e%2e%2fv2",
        "/v1/%5c..%5cv2",
        "/v1/\\..\\v2",
        "/v1/x?admin=1",
        "/v1/x%3fadmin",
        "/v1/x#y",
        "/v1/x\r\nHost: evil",
        "/v1/%0d%0aHost: evil",
        "/v1/\x00",
        "/v1/\ud800",
        "http://evil.org/v1",
        "@evil.org/v1",
    ],
)
async def test_a_path_cannot_escape_its_prefix(path):
    async with serving(echo) as server, api(server) as client:
        with pytest.raises(FetchRefused) as caught:
            await client.call("GET", path)
        assert caught.value.error_code == Code.BLOCKED_PATH
        assert server.accepted == 0


@pytest.mark.parametrize(
    ("path", "escaped"),
    [
        ("/v1", "/v1"),
        ("/v1/", "/v1/"),
        ("/v1/a b", "/v1/a%20b"),
        ("/v1/a%20b", "/v1/a%20b"),
        ("/v1/ü", "/v1/%C3%BC"),
        ("/v1/a..b/c.d", "/v1/a..b/c.d"),
    ],
)
def test_an_honest_path_is_escaped_once(path, escaped):
    assert check_path(path, ("/v1",), api="shop") == escaped


async def test_methods_and_missing_secrets_are_refused_by_name():
    async with serving(echo) as server, api(server) as client:
        with pytest.raises(FetchRefused) as caught:
            await client.call("DELETE", "/v1/x")
        assert caught.value.error_code == Code.BLOCKED_METHOD
        assert caught.value.message == (
            "shop may not be called with DELETE; allowed are GET, POST."
        )
        with pytest.raises(FetchError) as caught:
            await client.call("POST", "/v1/x", json={"n": float("nan")})
        assert caught.value.error_code == Code.INVALID_REQUEST
        async with api(server, auth_env="NO_SUCH_VARIABLE") as poor:
            with pytest.raises(FetchRefused) as caught:
                await poor.call("GET", "/v1/x")
        assert caught.value.error_code == Code.MISSING_SECRET
        assert "NO_SUCH_VARIABLE" in caught.value.message


async def test_a_secret_that_is_no_header_value_is_not_shown_in_the_error():
    async with serving(echo) as server:
        config = ApiConfig(name="shop", base_url=server.url, auth_env="X")
        async with ApiClient(config, environ={"X": "secret\r\nEvil: yes"}) as client:
            with pytest.raises(FetchError) as caught:
                await client.call("GET", "/v1")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("unsendable", [{"query": {"q": "\ud800"}}, {"json": float("nan")}])
async def test_what_cannot_be_sent_is_the_callers_mistake(unsendable):
    async with serving(echo) as server, api(server) as client:
        with pytest.raises(InvalidRequest):
            await client.call("POST", "/v1", **unsendable)
        assert server.requests == []


async def test_calls_keep_the_pace_and_tell_what_they_waited(autojump_clock):
    pace = {"rate_per_second": 2, "burst": 1, "auth_env": None}
    async with serving(answering(OK)) as server, api(server, **pace) as client:
        waits = [(await client.call("GET", "/v1")).waited_seconds for _ in range(3)]
    assert waits == [0, 0.5, 0.5]


async def test_a_refused_call_is_repeated_after_the_pause_it_wants(autojump_clock):
    busy = reply(b"", "Retry-After: 9", status="429 Slow Down")
    down = reply(b"later", "Retry-After: 9", status="503 Down")
    async with serving(answering(busy, OK)) as server, api(server) as client:
        answer = await client.call("POST", "/v1", json=[])
        assert (answer.status, answer.body, answer.waited_seconds) == (200, "ok", 9)
    async with serving(answering(down)) as server, api(server) as client:
        answer = await client.call("POST", "/v1", json=[])  # it may have been done: not repeated
        assert (answer.status, answer.body, answer.retry_after_seconds) == (503, "later", 9)
        assert len(server.requests) == 1
    async with serving(answering(busy)) as server, api(server, timeout_seconds=5) as client:
        answer = await client.call("GET", "/v1")
        assert (answer.status, answer.retry_after_seconds, answer.waited_seconds) == (429, 9, 0)
        with pytest.raises(FetchError) as caught:
            await client.call("GET", "/v1")
        assert caught.value.error_code == Code.HOST_COOLING_DOWN


@pytest.mark.parametrize("trouble", ["pause", "slowness"])
async def test_the_pace_is_kept_when_an_api_gets_well_again(trouble, autojump_clock):
    sent = []

    async def in_trouble_at_first(stream, server):
        while await next_request(stream, server):
            sent.append(trio.current_time())
            if trouble == "pause" and len(sent) == 1:
                await stream.send_all(reply(b"", "Retry-After: 30", status="429 Slow Down"))
                continue
            if trouble == "slowness" and len(sent) == 1:
                await trio.sleep(30)
            await stream.send_all(OK)

    pace = {"rate_per_second": 1, "burst": 2, "max_concurrent": 1, "timeout_seconds": 300}
    async with serving(in_trouble_at_first) as server, api(server, **pace) as client:
        async with trio.open_nursery() as nursery:
            for _ in range(9):
                nursery.start_soon(client.call, "GET", "/v1")
            await trio.sleep(20)
            assert client.rate_limit().waiting == 8 + (trouble == "pause")
        assert client.rate_limit().waiting == 0
    assert sent[1] == 30
    for earlier, later in zip(sent, sent[2:], strict=False):  # no three within a second
        assert later - earlier >= 1


async def test_the_pace_is_kept_when_other_apis_have_held_all_places(autojump_clock):
    sent = []

    async def noting_when(stream, server):
        while await next_request(stream, server):
            sent.append(trio.current_time())
            await stream.send_all(OK)

    limiter = trio.CapacityLimiter(3)
    pace = {"rate_per_second": 1, "burst": 2, "max_concurrent": 5, "timeout_seconds": 300}
    async with serving(noting_when) as server:
        config = ApiConfig(name="shop", base_url=server.url, **pace)
        async with ApiClient(config, limiter=limiter) as client, trio.open_nursery() as nursery:
            for other in range(3):
                limiter.acquire_on_behalf_of_nowait(other)
            for _ in range(8):
                nursery.start_soon(client.call, "GET", "/v1")
            await trio.sleep(30)
            assert client.rate_limit().waiting == 8
            for other in range(3):
                limiter.release_on_behalf_of(other)
        assert client.rate_limit().waiting == 0
    assert sent == [30, 30, 31, 32, 33, 34, 35, 36]


async def test_a_pause_that_begins_while_a_call_waits_for_its_token_is_kept(autojump_clock):
    async def refusing_after_a_while(stream, server):
        while await next_request(stream, server):
            sent.append(trio.current_time())
            if len(sent) > 1:
                await stream.send_all(OK)
            else:
                await trio.sleep(5)
                await stream.send_all(reply(b"", "Retry-After: 30", status="429 Slow Down"))

    sent, waiting = [], Waiting()
    pace = {"rate_per_second": 0.1, "burst": 1, "timeout_seconds": 300}
    async with (
        serving(refusing_after_a_while) as server,
        api(server, **pace) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(client.call, "GET", "/v1")
        await trio.sleep(1)
        nursery.start_soon(partial(client.call, "GET", "/v1", waiting=waiting))
    assert sent == [0, 35, 45]
    assert waiting.seconds in {34, 44}


async def test_calls_in_flight_are_bounded(autojump_clock):
    async def slow(stream, server):
        while await next_request(stream, server):
            await trio.sleep(1)
            await stream.send_all(OK)

    async with serving(slow) as server, api(server, max_concurrent=2) as client:
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(client.call, "GET", "/v1")
        assert (server.most_open, trio.current_time()) == (2, 3)


async def test_a_call_ends_in_time(autojump_clock):
    async def silent(stream, server):
        await next_request(stream, server)
        await stream.receive_some()

    async with serving(silent) as server, api(server, timeout_seconds=5) as client:
        with pytest.raises(FetchError) as caught:
            await client.call("GET", "/v1")
        assert (caught.value.error_code, trio.current_time()) == (Code.TIMEOUT, 5)


def test_a_secret_does_not_show_itself():
    secret = Secret('Bearer a"b-long-one')
    assert f"{secret} {secret!r}" == "<Secret> <Secret>"
    assert secret.redact('x a"b-long-one y') == "x [redacted] y"
    assert secret.redact(r"x a\"b-long-one y") == "x [redacted] y"
    assert Secret("").redact("xy", cut_at=1) == "x"


ESCAPED = [
    r"abc+de\/f&g<h'\u003d=",  # JSON, as several languages write it
    r"abc+de/f\u0026g\u003Ch\u0027\u003d\u003D",
    "abc&#43;de&#x2F;f&amp;g&lt;h&#39;&#x3D;&#61;",  # HTML
    "abc%2Bde%2ff%26g%3ch%27%3D%3D",  # a URL
    "".join(f"\\u{ord(char):04x}" for char in "abc+de/f&g<h'=="),
    "".join(f"&#{ord(char)};" for char in "abc+de/f&g<h'=="),
    "".join(f"%{ord(char):02X}" for char in "abc+de/f&g<h'=="),
    "abc%252Bde%252Ff%2526g%253Ch%2527%253D%253D",
    "ABC+DE/F&G<H'==",
]


@pytest.mark.parametrize("echo", ESCAPED)
def test_a_secret_is_cut_out_however_it_is_escaped_and_wherever_it_is_cut(echo):
    secret = Secret("abc+de/f&g<h'==")
    assert secret.redact(f"x {echo} y {echo}") == "x [redacted] y [redacted]"
    assert len(echo) <= secret.longest
    for cut_at in range(3, len(echo) + 3):
        assert secret.redact(f"x {echo} y {echo}", cut_at=cut_at) == "x [redacted]"


@pytest.mark.parametrize("char", "-_.'&<%")
def test_what_is_nearly_a_secret_takes_no_longer_than_anything_else(char):
    code = ord(char)
    forms = [char, f"\\{char}", f"\\u{code:04x}", f"%{code:02x}", f"&#{code};", f"&#x{code:x};"]
    secret = Secret(char * 40 + "x")
    for form in [*forms, html.escape(char)]:
        nearly = form * 40 + "!"
        assert secret.redact(nearly) == nearly  # two ways to read each of 40 would take days


ECHOES = {
    "plain": lambda a: ("text/plain", a),
    "JSON": lambda a: ("application/json", json.dumps({"h": text_of(a)}).encode()),
    "UTF-16 JSON": lambda a: ("application/json", json.dumps({"h": text_of(a)}).encode("utf-16")),
    "UTF-16": lambda a: ("text/plain; charset=utf-16", text_of(a).encode("utf-16")),
    "UTF-16 XML": lambda a: ("text/xml", f"<x>{text_of(a)}</x>".encode("utf-16")),
    "a name": lambda a: ("application/json", json.dumps({text_of(a): [1]}).encode()),
    "all escaped": lambda a: (
        "application/json",
        b'{"h": "' + b"".join(b"\\u%04x" % c for c in a) + b'"}',
    ),
    "entities": lambda a: ("text/html", b"".join(b"&#%d;" % c for c in a)),
    "percent": lambda a: ("text/plain", b"".join(b"%%%02X" % c for c in a)),
    "Base64": lambda a: ("text/plain", b"you sent " + base64.b64encode(a)),
    "Base64 of more": lambda a: ("text/plain", base64.b64encode(b"a: " + a + b"; b: c")),
    "capitals": lambda a: ("text/plain", a.upper()),
    "JSON in JSON": lambda a: ("application/json", nested(nested(text_of(a) + '"'))),
    "quoted twice": lambda a: ("text/plain", quote(quote(text_of(a))).encode()),
    "HTML in JSON": lambda a: ("application/json", nested(html.escape(text_of(a)))),
    "plus": lambda a: ("text/plain", quote_plus(text_of(a)).encode()),
    "UTF-8 of Latin-1": lambda a: ("text/plain; charset=utf-8", text_of(a).encode()),
    "lines": lambda a: ("text/plain", b"\n".join(a[i : i + 8] for i in range(0, len(a), 8))),
    "a number": lambda a: (
        "application/json",
        b"[" + (a.split()[-1] if a.split()[-1].isdigit() else b"1") + b"]",
    ),
}


def text_of(echo):
    return echo.decode("latin-1")


def nested(value):
    return json.dumps(value if isinstance(value, str) else value.decode()).encode()


@pytest.mark.parametrize("form", ECHOES)
@pytest.mark.parametrize(
    "secret",
    [
        "sk-live_AbC/9+xyz==",
        "user:pa ss-word",
        "dXNlcjpzZWNyZXQxMjM=",
        "pässwörd-123456",
        "12345678",
    ],
)
async def test_an_honest_echo_of_the_secret_shows_nothing_of_it(secret, form):
    sent = f"Bearer {secret}".encode("latin-1")
    kind, body = ECHOES[form](sent)
    raw = reply(body, f"Content-Type: {kind}", f"X-RateLimit-Limit: {secret}").decode("latin-1")
    raw = raw.replace("\r\n\r\n", f"\r\nETag: {secret}\r\nLink: <{secret}>\r\n\r\n", 1)
    raw = raw.encode("latin-1")
    async with serving(answering(raw)) as server:
        shop = ApiConfig(name="x", base_url=server.url, auth_env="S", auth_prefix="Bearer ")
        async with ApiClient(shop, environ={"S": secret}) as client:
            answer = await client.call("GET", "/")
    shown = json.dumps([answer.body, answer.headers, answer.limit], ensure_ascii=False)
    for text in (shown, html.unescape(unquote_plus(unquote(shown.replace("\\", ""))))):
        bare = text.replace("\n", "").casefold()
        assert secret.casefold() not in bare
        assert base64.b64encode(sent).decode().casefold() not in bare
    assert "redacted" in shown or form == "a number"


async def test_what_basic_credentials_decode_to_is_not_shown():
    secret = base64.b64encode(b"svc-user:Tr0ub4dor&3").decode()
    raw = reply(
        b'{"user": "svc-user", "password": "Tr0ub4dor&3"}', "Content-Type: application/json"
    )
    async with serving(answering(raw)) as server:
        shop = ApiConfig(name="x", base_url=server.url, auth_env="S", auth_prefix="Basic ")
        async with ApiClient(shop, environ={"S": secret}) as client:
            answer = await client.call("GET", "/")
    assert answer.body == {"user": "[redacted]", "password": "[redacted]"}


async def test_a_secret_that_is_too_short_to_be_told_apart_is_refused():
    shop = ApiConfig(name="x", base_url="http://e.org", auth_env="S")
    async with ApiClient(shop, environ={"S": "s3cr3"}) as client:
        with pytest.raises(FetchRefused, match="shorter than 8 characters") as caught:
            await client.call("GET", "/")
    assert caught.value.error_code == Code.WEAK_SECRET
    assert "s3cr3" not in caught.value.message


async def test_a_secret_that_a_reply_escapes_is_not_in_the_value():
    raw = reply(rb'{"you": "hush\u003d\/hush"}', "Content-Type: application/json")
    config = {"name": "shop", "auth_env": "X"}
    async with serving(answering(raw)) as server:
        shop = ApiConfig(base_url=server.url, **config)
        async with ApiClient(shop, environ={"X": "hush=/hush"}) as client:
            assert (await client.call("GET", "/")).body == {"you": "[redacted]"}
