"""`Fetcher` against small real servers: everything ends as a page or as a named failure."""

import gzip
import json
import zlib

import brotli
import pytest
import trio
from backports import zstd

from nursery_patterns import run_batch
from tests.support.raw_http_servers import (
    OK,
    answering,
    closed,
    config,
    next_request,
    reply,
    serving,
)
from trio_tools.answers.errors import ErrorType
from trio_tools.http.fetching.fetcher import Fetcher
from trio_tools.http.fetching.types import FetchConfig, FetchRequest
from trio_tools.http.wire.errors import Code, FetchError, InvalidRequest


async def fetch(handler, path="/", *, settings=None, **request):
    async with serving(handler) as server, Fetcher(settings or config()) as fetcher:
        page = await fetcher.fetch(FetchRequest(server.url + path, **request))
        assert fetcher._pool.busy_count == 0
        assert all(host.in_flight == host.waiting == 0 for host in fetcher.hosts().values())
        return page


async def failure(handler, path="/", *, settings=None, **request):
    async with serving(handler) as server, Fetcher(settings or config()) as fetcher:
        with pytest.raises(FetchError) as caught:
            await fetcher.fetch(FetchRequest(server.url + path, **request))
        assert fetcher._pool.busy_count == 0
        fetcher._pool.close()
        await closed(server)
        return caught.value


async def test_a_page_tells_all_about_one_url():
    raw = reply(b"{}", "Content-Type: text/html; charset=utf-8", "ETag: x", "X-Other: y")
    async with serving(answering(raw)) as server, Fetcher(config()) as fetcher:
        page = await fetcher.fetch(FetchRequest(server.url + "/a"))
        assert page.elapsed > 0
        assert (page.url, page.final_url) == (server.url + "/a", server.url + "/a")
        assert (page.status, page.text, page.json, page.length) == (200, "{}", None, 2)
        assert (page.content_type, page.charset, page.truncated) == ("text/html", "utf-8", False)
        assert page.headers == {
            "content-type": "text/html; charset=utf-8",
            "content-length": "2",
            "etag": "x",
        }
        other = await fetcher.fetch(FetchRequest(server.url, reply_headers=("X-Other",)))
        assert other.headers == {"x-other": "y"}
        head = await fetcher.fetch(FetchRequest(server.url, headers={"Accept": "text/x"}))
        assert head.status == 200
    first, _, last = server.requests
    assert first.startswith(b"GET /a HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\naccept: */*\r\n" in first
    assert b"\r\naccept: text/x\r\n" in last


async def test_one_connection_serves_many_fetches():
    async with serving(answering(OK)) as server, Fetcher(config()) as fetcher:
        for method in ("GET", "GET", "HEAD"):
            await fetcher.fetch(FetchRequest(server.url, method=method))
        assert server.accepted == 1


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda data: zlib.compress(data, wbits=-15)),
        ("br", brotli.compress),
        ("zstd", zstd.compress),
        ("gzip, br", lambda data: brotli.compress(gzip.compress(data))),
        ("identity", bytes),
    ],
)
async def test_content_encodings_are_undone(encoding, encode):
    body = b"some text, again and again. " * 1000
    raw = reply(encode(body), f"Content-Encoding: {encoding}")
    page = await fetch(answering(raw))
    assert (page.text, page.truncated) == (body.decode(), False)
    in_pieces = [raw[i : i + 100] for i in range(0, len(raw), 100)]
    assert (await fetch(answering(in_pieces))).text == body.decode()


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("br", lambda data: brotli.compress(data, quality=1)),
        ("zstd", zstd.compress),
        ("gzip, gzip", lambda data: gzip.compress(gzip.compress(data))),
    ],
)
async def test_a_bomb_is_truncated_at_the_cap(encoding, encode):
    raw = reply(encode(b"\0" * 50_000_000), f"Content-Encoding: {encoding}")
    page = await fetch(answering(raw), max_bytes=100_000)
    assert (page.length, page.truncated) == (100_000, True)


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda data: zlib.compress(data, wbits=-15)),
        ("br", brotli.compress),
        ("zstd", zstd.compress),
        ("gzip, br", lambda data: brotli.compress(gzip.compress(data))),
        ("gzip, br", lambda data: brotli.compress(gzip.compress(data)[:-9])),
    ],
)
async def test_an_encoded_body_that_lacks_its_end_is_not_taken_for_a_whole_one(encoding, encode):
    encoded = encode(b"some text, again and again. " * 1000)
    whole = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\n\r\n".encode() + encoded
    for lacking in (1, len(encoded) - 1):
        exc = await failure(answering(whole[:-lacking], then_close=True))
        assert exc.error_code == Code.INVALID_ENCODING
    exc = await failure(answering(reply(encoded[:-1], f"Content-Encoding: {encoding}")))
    assert exc.error_code == Code.INVALID_ENCODING
    page = await fetch(answering(reply(b"", f"Content-Encoding: {encoding}")))
    assert (page.status, page.text) == (200, "")


@pytest.mark.parametrize(
    "encoding", ["gzip", "deflate", "br", "zstd", "compress", ",".join(["gzip"] * 9)]
)
async def test_an_encoding_that_cannot_be_undone_is_named(encoding):
    exc = await failure(answering(reply(b"\x00not that", f"Content-Encoding: {encoding}")))
    assert exc.error_code == Code.INVALID_ENCODING


async def test_a_body_that_stays_small_decoded_but_is_endless_encoded_is_cut():
    async def endless(stream, server):
        await next_request(stream, server)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")
        await stream.send_all(gzip.compress(b"")[:10])
        while True:
            await stream.send_all(b"\0\0\0\xff\xff" * 10_000)  # stored blocks of no bytes

    page = await fetch(endless, max_bytes=1000)
    assert (page.text, page.truncated) == ("", True)


async def test_a_reply_without_a_body_may_name_any_encoding():
    page = await fetch(answering(reply(b"", "Content-Encoding: rot13")), method="HEAD")
    assert (page.status, page.text) == (200, "")


async def test_an_endless_body_is_cut_at_the_cap_and_not_drained():
    async def endless(stream, server):
        await next_request(stream, server)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        while True:
            await stream.send_all("ä".encode() * 30_000)

    async with serving(endless) as server, Fetcher(config()) as fetcher:
        page = await fetcher.fetch(FetchRequest(server.url, max_bytes=100_001))
        assert (page.length, page.truncated) == (100_001, True)
        assert page.text == "ä" * 50_000
        await closed(server)


@pytest.mark.parametrize("length", [9, 10, 11])
async def test_the_cap_is_exact(length):
    page = await fetch(answering(reply(b"x" * length)), max_bytes=10)
    assert (page.length, page.truncated) == (min(length, 10), length > 10)


@pytest.mark.parametrize(
    ("location", "asked"),
    [
        ("/café".encode("latin-1"), "/caf%E9"),
        ("/café".encode(), "/caf%C3%A9"),
        ("/s?q=中".encode("gbk"), "/s?q=%D6%D0"),
        (b"/new\r\nLocation: /other", "/new"),
        (b"  /new ", "/new"),
        (b"/a b\\c", "/a%20b/c"),
    ],
)
async def test_the_bytes_of_the_first_location_are_kept(location, asked):
    async def go(stream, server):
        while request := await next_request(stream, server):
            raw = b"HTTP/1.1 302 F\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % location
            await stream.send_all(raw if request.startswith(b"GET /start ") else OK)

    page = await fetch(go, "/start")
    assert page.final_url.endswith(asked)
    assert page.redirects == 1


@pytest.mark.parametrize("header", [(), ("Location:",), ("Location:  ",)])
async def test_a_redirect_that_leads_nowhere_is_a_page(header):
    page = await fetch(answering(reply(b"moved", *header, status="302 Found")))
    assert (page.status, page.text, page.redirects) == (302, "moved", 0)


async def test_cookies_of_a_chain_are_sent_within_it_and_gone_after_it():
    async def go(stream, server):
        here, there = f"http://127.0.0.1:{server.port}", f"http://127.0.0.2:{server.port}"
        while request := await next_request(stream, server):
            path = request.split()[1]
            if path == b"/":
                cookies = ("a=1; Path=/", "b=2; Path=/deep", "c=3; Secure", "d=4; Domain=e.org")
                fields = [f"Set-Cookie: {cookie}" for cookie in cookies]
                out = reply(b"", f"Location: {here}/deep/1", *fields, status="302 F")
            elif path == b"/deep/1":
                out = reply(b"", f"Location: {there}/deep/2", status="302 F")
            else:
                out = OK
            await stream.send_all(out)

    settings = config(allow_headers=frozenset({"cookie"}))
    async with serving(go, host="0.0.0.0") as server, Fetcher(settings) as fetcher:
        url = f"http://127.0.0.1:{server.port}/"
        await fetcher.fetch(FetchRequest(url, headers={"Cookie": "mine=0"}))
        await fetcher.fetch(FetchRequest(url + "after"))
    seen = [
        line.partition(b": ")[2]
        for request in server.requests
        for line in request.split(b"\r\n")
        if line.startswith(b"cookie")
    ]
    assert seen == [b"mine=0", b"mine=0; b=2; a=1"]


async def test_a_cookie_gate_is_passed():
    async def gate(stream, server):
        while request := await next_request(stream, server):
            out = reply(b"", "Set-Cookie: sid=1; Path=/", "Location: /", status="302 Found")
            await stream.send_all(reply(b"logged in") if b"sid=1" in request else out)

    assert (await fetch(gate)).text == "logged in"


@pytest.mark.parametrize(
    ("kind", "is_text"),
    [
        ("text", True),
        ("html", True),
        ("application/atom+xml", True),
        ("image/svg+xml", True),
        ("application/javascript", True),
        ("application/x-yaml", True),
        ("text/csv", True),
        ("application/octet-stream", True),
        ("image/png", False),
        ("application/zip", False),
    ],
)
async def test_what_is_text_is_text_and_the_rest_says_so_in_words(kind, is_text):
    page = await fetch(answering(reply(b"some words", f"Content-Type: {kind}")))
    assert page.text == ("some words" if is_text else None)
    assert page.note == (None if is_text else f"Not text: {kind}, 10 bytes.")


async def test_bytes_without_a_telling_type_are_looked_at():
    data = bytes(range(256)) * 4
    page = await fetch(answering(reply(data)))
    assert (page.text, page.note) == (None, "Not text: bytes without a type, 1024 bytes.")
    page = await fetch(answering(reply("ok".encode("utf-16"))))
    assert page.text == "ok"


async def test_no_body_is_read_where_none_is_wanted_or_it_is_no_text():
    page = await fetch(answering(reply(b"x" * 100_000)), body_as="none")
    assert (page.text, page.length, page.truncated) == (None, 0, True)
    image = reply(b"\x89PNG", "Content-Type: image/png")
    page = await fetch(answering(image))
    assert (page.text, page.content_type, page.truncated) == (None, "image/png", True)
    page = await fetch(answering(b"HTTP/1.1 204 No Content\r\n\r\n"))
    assert (page.text, page.truncated) == ("", False)


@pytest.mark.parametrize(
    ("body", "header", "text", "charset"),
    [
        ("ä".encode(), "text/html; charset=utf-8", "ä", "utf-8"),
        ("ä".encode("latin-1"), "text/html; charset=ISO-8859-1", "ä", "cp1252"),
        ("“".encode("cp1252"), 'text/plain; charset="latin1"', "“", "cp1252"),
        ("日本".encode("shift_jis"), "text/html;charset=Shift_JIS", "日本", "cp932"),
        ("ä".encode(), "text/html; charset=punycode", "ä", "utf-8"),
        ("ä".encode(), "text/html; charset=no-such", "ä", "utf-8"),
        ("ä".encode("utf-8-sig"), "text/html", "ä", "utf-8"),
        ("ä".encode("utf-16"), "text/html", "ä", "utf-16-le"),
        (b'<meta charset="latin1">\xe4', "text/html", '<meta charset="latin1">ä', "cp1252"),
        (b"<meta charset=utf-16>\xc3\xa4", "text/html", "<meta charset=utf-16>ä", "utf-8"),
        (
            b'<?xml version="1.0" encoding="koi8-r"?>\xc1',
            "application/xml",
            '<?xml version="1.0" encoding="koi8-r"?>\u0430',
            "koi8-r",
        ),
        (b"caf\xe9", "text/plain", "café", "cp1252"),
        (b"a\xffb", "text/plain; charset=utf-8", "a\ufffdb", "utf-8"),
        ("朱镕基 臺灣".encode("gbk"), "text/html; charset=gb2312", "朱镕基 臺灣", "gb18030"),
        ("① ㈱ 髙橋".encode("cp932"), "text/html; charset=Shift_JIS", "① ㈱ 髙橋", "cp932"),
        ("日本語".encode("cp932"), "text/html; charset=Windows-31J", "日本語", "cp932"),
        ("똠방각하".encode("cp949"), "text/html; charset=euc-kr", "똠방각하", "cp949"),
        ("咗嘅啲".encode("big5hkscs"), "text/html; charset=big5", "咗嘅啲", "big5hkscs"),
        ("ж".encode("koi8-u"), "text/html; charset=koi8-ru", "ж", "koi8-u"),
        (
            b"\xef\xbb\xbf" + "Привет".encode(),
            "text/html; charset=windows-1251",
            "Привет",
            "utf-8",
        ),
        (
            '<!-- <meta charset="koi8-r"> --><meta charset="utf-8">é'.encode(),
            "text/html",
            '<!-- <meta charset="koi8-r"> --><meta charset="utf-8">é',
            "utf-8",
        ),
        (
            '<meta property="og:url" content="/?charset=koi8-r"><meta charset="utf-8">é'.encode(),
            "text/html",
            '<meta property="og:url" content="/?charset=koi8-r"><meta charset="utf-8">é',
            "utf-8",
        ),
        (
            b'<meta http-equiv=Content-Type content="text/html; charset=windows-1251">\xcf',
            "text/html",
            '<meta http-equiv=Content-Type content="text/html; charset=windows-1251">П',
            "cp1251",
        ),
    ],
)
async def test_the_charset_comes_from_mark_then_header_then_meta_then_the_bytes(
    body, header, text, charset
):
    page = await fetch(answering(reply(body, f"Content-Type: {header}")))
    assert (page.text, page.charset) == (text, charset)


async def test_json_is_parsed_strictly_and_what_is_none_is_a_named_failure():
    async def json_of(body, status="200 OK", **request):
        raw = reply(body, "Content-Type: application/json", status=status)
        return await fetch(answering(raw), body_as="json", **request)

    value = {"a": [1, 2.5, None, "ä"]}
    assert (await json_of(json.dumps(value).encode())).json == value
    assert (await json_of("\ufeff[1]".encode("utf-16-le"))).json == [1]
    page = await json_of(b"<h1>no</h1>", status="500 Oops")
    assert (page.status, page.json, page.text) == (500, None, "<h1>no</h1>")
    bad = [b"{", b"NaN", b"[1,]", b"[" * 100_000, rb'"\ud800"', b"\xff", b"1" * 5000]
    bad += [b"1e999", b"[-1E+400]", b"9" * 309 + b".0"]
    for body in bad:
        exc = await failure(answering(reply(body)), body_as="json")
        assert exc.error_code == Code.INVALID_JSON, body
    exc = await failure(answering(reply(b"[" + b"1," * 100)), body_as="json", max_bytes=50)
    assert (exc.error_code, exc.error_type) == (Code.TOO_LARGE, ErrorType.UPSTREAM)


async def test_markdown_is_the_main_text_of_a_page():
    html = b"<html><body><nav><a href='/'>home</a></nav><article><h1>Title</h1>"
    html += b"<p>A <b>long</b> paragraph of the main text, with a <a href='/x'>link</a>. </p>" * 20
    html += b"</article></body></html>"
    raw = reply(html, "Content-Type: text/html")
    async with serving(answering(raw)) as server, Fetcher(config()) as fetcher:
        page = await fetcher.fetch(FetchRequest(server.url, body_as="markdown"))
        assert page.text.startswith("# Title")
        assert f"[link]({server.url}/x)" in page.text
        assert "home" not in page.text
    plain = await fetch(answering(reply(b"# as it is")), body_as="markdown")
    assert plain.text


async def test_redirects_are_followed_checked_and_counted():
    async def chain(stream, server):
        while request := await next_request(stream, server):
            number = int(request.split()[1][1:])
            if number:
                await stream.send_all(reply(b"", f"Location: {number - 1}", status="302 F"))
            else:
                await stream.send_all(OK)

    page = await fetch(chain, "/5")
    assert (page.redirects, page.status, page.final_url[-2:]) == (5, 200, "/0")
    assert (await failure(chain, "/6")).error_code == Code.TOO_MANY_REDIRECTS


@pytest.mark.parametrize(
    ("location", "code", "error_type"),
    [
        ("http://10.0.0.1:80/", Code.BLOCKED_ADDRESS, "forbidden"),
        ("http://169.254.169.254/latest/meta-data/", Code.BLOCKED_ADDRESS, "forbidden"),
        ("http://127.0.0.1:22/", Code.BLOCKED_PORT, "forbidden"),
        ("file:///etc/passwd", Code.BLOCKED_SCHEME, "forbidden"),
        ("http://user:pw@127.0.0.1/", Code.INVALID_URL, "upstream"),
        ("http://[", Code.INVALID_URL, "upstream"),
    ],
)
async def test_a_redirect_to_where_nobody_may_go_is_refused(location, code, error_type):
    async with serving(answering(reply(b"", f"Location: {location}", status="301 M"))) as server:
        settings = FetchConfig(
            ports=frozenset({80, server.port}), allow_hosts=frozenset({"127.0.0.1"})
        )
        async with Fetcher(settings) as fetcher:
            with pytest.raises(FetchError) as caught:
                await fetcher.fetch(FetchRequest(server.url))
        assert (caught.value.error_code, caught.value.error_type) == (code, error_type)
        assert "user:pw" not in caught.value.message
        if error_type == "upstream":
            assert caught.value.message.startswith(f"{server.url}/ redirects to an invalid URL: ")


async def test_credentials_are_dropped_across_origins_and_kept_within():
    async def go(stream, server):
        while request := await next_request(stream, server):
            path = request.split()[1]
            here, there = f"http://127.0.0.1:{server.port}", f"http://127.0.0.2:{server.port}"
            steps = {b"/": here + "/1", b"/1": there + "/2", b"/2": there + "/3"}
            to = steps.get(path)
            await stream.send_all(reply(b"", f"Location: {to}", status="307 T") if to else OK)

    secrets = {"Authorization", "Cookie", "X-Api-Key", "X-Auth-Token", "X-Amz-Security-Token"}
    secrets |= {"Private-Token", "Session-Id", "X-CSRF", "X-Signature"}
    headers = dict.fromkeys(secrets, "secret")
    headers |= {"X-Looks": "sk-live-secret-0123456789", "X-Scheme": "Bearer secret"}
    settings = config(allow_headers=frozenset(name.lower() for name in headers) | {"x-other"})
    async with serving(go, host="0.0.0.0") as server, Fetcher(settings) as fetcher:
        url = f"http://127.0.0.1:{server.port}/"
        page = await fetcher.fetch(FetchRequest(url, headers={**headers, "X-Other": "kept"}))
    assert (page.redirects, page.final_url) == (3, f"http://127.0.0.2:{server.port}/3")
    assert [b"secret" in request for request in server.requests] == [True, True, False, False]
    assert all(b"x-other: kept" in request for request in server.requests)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"url": "ftp://e.org"}, Code.BLOCKED_SCHEME),
        ({"url": "no url"}, Code.INVALID_URL),
        ({"url": "http://e.org", "method": "POST"}, Code.INVALID_REQUEST),
        ({"url": "http://e.org", "body_as": "xml"}, Code.INVALID_REQUEST),
        ({"url": "http://e.org", "max_bytes": 0}, Code.INVALID_REQUEST),
        ({"url": "http://e.org", "max_bytes": 10**9}, Code.INVALID_REQUEST),
        ({"url": "http://e.org", "timeout_seconds": 10**9}, Code.INVALID_REQUEST),
        ({"url": "http://e.org", "headers": {"Host": "evil"}}, Code.BLOCKED_HEADER),
        ({"url": "http://e.org", "headers": {"Authorization": "x"}}, Code.BLOCKED_HEADER),
        ({"url": "http://e.org", "headers": {"Accept": "a\r\nb: c"}}, Code.INVALID_REQUEST),
        ({"url": "http://e.org", "headers": {"Accept": "\u20ac"}}, Code.INVALID_REQUEST),
        ({"url": "http://127.0.0.1"}, Code.BLOCKED_ADDRESS),
        ({"url": "http://localhost"}, Code.BLOCKED_ADDRESS),
        ({"url": "http://[::ffff:127.0.0.1]"}, Code.BLOCKED_ADDRESS),
        ({"url": "http://127.0.0.1:25"}, Code.BLOCKED_PORT),
    ],
)
async def test_what_is_not_allowed_is_refused_before_anything_is_sent(request_, code):
    async with Fetcher() as fetcher:
        with pytest.raises(FetchError) as caught:
            await fetcher.fetch(FetchRequest(**request_))
    assert caught.value.error_code == code
    assert caught.value.remediation


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", Code.CONNECTION_LOST),
        (b"SSH-2.0\r\n", Code.PROTOCOL_ERROR),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", Code.PROTOCOL_ERROR),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100_000, Code.TOO_LARGE),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 500_000, Code.TOO_LARGE),
        (b"HTTP/1.1 200 OK\r\nSet-Cookie: " + b"b" * 60_000 + b"\r\nA: " + b"b" * 9000, None),
    ],
)
async def test_a_broken_reply_is_a_named_failure(raw, code):
    exc = await failure(answering(raw, then_close=True))
    assert exc.error_code == (code or Code.TOO_LARGE)
    assert exc.remediation


async def test_endless_headers_and_slow_loris_end_by_cap_or_time(autojump_clock):
    async def endless(stream, server):
        await next_request(stream, server)
        await stream.send_all(b"HTTP/1.1 200 OK\r\n")
        while True:
            await stream.send_all(b"A: " + b"b" * 1000 + b"\r\n")

    async def loris(stream, server):
        await next_request(stream, server)
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000:
            await stream.send_all(bytes([byte]))
            await trio.sleep(1)

    assert (await failure(endless)).error_code == Code.TOO_LARGE
    started = trio.current_time()
    exc = await failure(loris, timeout_seconds=25)
    assert (exc.error_code, exc.error_type) == (Code.TIMEOUT, ErrorType.TIMEOUT)
    assert 25 <= trio.current_time() - started < 30  # the server notices at its next two bytes


async def test_siblings_of_a_failing_url_finish():
    done = []
    async with (
        serving(answering(OK)) as good,
        serving(answering(b"", then_close=True)) as bad,
        Fetcher(config()) as fetcher,
    ):

        async def one(url):
            try:
                done.append((await fetcher.fetch(FetchRequest(url))).status)
            except FetchError as exc:
                done.append(exc.error_code)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(one, (good if number % 2 else bad).url)
    assert sorted(done, key=str) == [200] * 10 + [Code.CONNECTION_LOST] * 10


async def test_a_throttling_host_is_asked_again_after_the_pause_it_wants(autojump_clock):
    busy = reply(b"", "Retry-After: 7", status="429 Slow Down")
    started = trio.current_time()
    page = await fetch(answering(busy, busy, OK))
    assert (page.status, page.text) == (200, "ok")
    assert trio.current_time() - started == 14
    assert page.elapsed == 14


async def test_a_pause_longer_than_the_time_left_is_told_at_once(autojump_clock):
    busy = reply(b"", "Retry-After: 40", status="503 Busy")
    async with serving(answering(busy)) as server, Fetcher(config()) as fetcher:
        page = await fetcher.fetch(FetchRequest(server.url))
        assert (page.status, page.headers["retry-after"]) == (503, "40")
        with pytest.raises(FetchError) as caught:
            await fetcher.fetch(FetchRequest(server.url))
        assert caught.value.error_code == Code.HOST_COOLING_DOWN
        assert caught.value.error_type is ErrorType.RATE_LIMITED
        assert caught.value.data == {"retry_after_seconds": 40.0}
        assert trio.current_time() == page.elapsed == 0
        assert len(server.requests) == 1


async def test_urls_of_other_hosts_go_on_while_one_host_pauses(autojump_clock):
    busy = reply(b"", "Retry-After: 7", status="429 Slow Down")

    async def handler(stream, server):
        while request := await next_request(stream, server):
            host = request.partition(b"Host: ")[2].partition(b":")[0]
            pauses = host == b"127.0.0.1" and trio.current_time() < 7
            await stream.send_all(busy if pauses else OK)

    done = []
    async with serving(handler, host="0.0.0.0") as server, Fetcher(config()) as fetcher:

        async def fetch_one(host):
            page = await fetcher.fetch(FetchRequest(f"http://{host}:{server.port}/"))
            done.append((host, trio.current_time()))
            return page.status

        hosts = ["127.0.0.1"] * 10 + ["127.0.0.2"] * 10
        report = await run_batch(fetch_one, hosts, limit=2)
        # Only the first two were asked; all others have seen the pause.
        assert len(server.requests) == 2 + 20
    assert report.values() == [200] * 20
    assert done == [("127.0.0.2", 0)] * 10 + [("127.0.0.1", 7)] * 10


async def test_many_urls_over_five_hundred_origins_stay_within_the_limits():
    settings = config(max_connections=20, max_connections_per_host=2)
    async with serving(answering(OK), host="0.0.0.0") as server, Fetcher(settings) as fetcher:

        async def worker(numbers):
            for number in numbers:
                host = f"127.0.{number % 500 // 250}.{number % 250 + 1}"
                page = await fetcher.fetch(FetchRequest(f"http://{host}:{server.port}/{number}"))
                assert page.status == 200
                assert fetcher._pool.idle_count + fetcher._pool.busy_count <= 20

        numbers = iter(range(2_000))
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(worker, numbers)
        assert len(fetcher._pool._sites) <= 20
        assert fetcher.hosts() == {}
        assert len(server.requests) == 2_000
    await closed(server)


async def test_a_fetcher_is_used_inside_its_block():
    fetcher = Fetcher(config())
    with pytest.raises(RuntimeError, match="async with Fetcher"):
        await fetcher.fetch(FetchRequest("http://e.org"))
    async with fetcher:
        pass
    with pytest.raises(FetchError) as caught:
        await fetcher.fetch(FetchRequest("http://e.org"))
    assert caught.value.error_code == Code.CLIENT_CLOSED


async def test_the_most_time_of_a_request_can_change_while_a_fetcher_is_open():
    async with Fetcher(FetchConfig(timeout_seconds=20)) as fetcher:
        fetcher.timeout_seconds = 5
        with pytest.raises(InvalidRequest, match="above 0 to 5 s"):
            await fetcher.fetch(FetchRequest("http://example.org/", timeout_seconds=6))
