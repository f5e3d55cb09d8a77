"""Content made to cost: each kind ends in bounded time and memory, with a named outcome."""

import time
import zlib

import pytest

from tests.support.raw_http_servers import OK, answering, config, next_request, reply, serving
from trio_tools.http.fetching import kept_pages
from trio_tools.http.fetching.fetcher import Fetcher
from trio_tools.http.fetching.text import content
from trio_tools.http.fetching.text.charsets import detected_charset, undeclared_utf8
from trio_tools.http.fetching.text.content import to_pdf_text
from trio_tools.http.fetching.text.pdf import MAX_PAGES, extract_pdf
from trio_tools.http.fetching.types import FetchRequest
from trio_tools.http.wire.errors import FetchError

CATALOG = b"<</Type/Catalog/Pages 2 0 R>>"
PAGE = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]%s>>"
FONT = b"/Contents 4 0 R/Resources<</Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>"


def pages(kids, count=1):
    return b"<</Type/Pages/Count %d/Kids[%s]>>" % (count, kids)


def packed(data, words=b""):
    """Return a stream object."""
    small = zlib.compress(data, 9)
    head = b"<<%s/Filter/FlateDecode/Length %d>>stream\n" % (words, len(small))
    return head + small + b"\nendstream"


def pdf(*objects):
    """Return a PDF without a table of its objects, which a reader then has to look for."""
    listed = b"".join(b"%d 0 obj\n%s\nendobj\n" % each for each in enumerate(objects, 1))
    return b"%PDF-1.7\n" + listed + b"trailer<</Root 1 0 R>>\nstartxref\n0\n%%EOF"


def many_objects():
    return pdf(CATALOG, pages(b"3 0 R"), PAGE % b"", *([b"<<>>"] * 200_000))


def million_objects_in_a_stream():
    head = b"".join(b"%d 0 " % (number + 10) for number in range(1_000_000))
    words = b"/Type/ObjStm/N 1000000/First %d" % len(head)
    return pdf(CATALOG, pages(b"3 0 R"), PAGE % b"", packed(head + b"<<>>", words))


def million_pages():
    return pdf(CATALOG, pages(b"3 0 R " * 800_000, 1_000_000), PAGE % b"")


def pages_within_themselves():
    return pdf(CATALOG, pages(b"2 0 R 2 0 R", 1_000), PAGE % b"")


@pytest.mark.parametrize(
    "make", [many_objects, million_objects_in_a_stream, million_pages, pages_within_themselves]
)
def test_a_pdf_of_a_million_parts_costs_little(make):
    pytest.importorskip("pypdfium2")
    document = make()
    assert len(document) < 10_000_000
    started = time.process_time()
    found = extract_pdf(document)
    assert time.process_time() - started < 10
    assert found.outcome in {"text", "broken"}
    assert found.read <= MAX_PAGES


async def test_a_pdf_that_expands_to_gigabytes_is_a_named_outcome(monkeypatch):
    pytest.importorskip("pypdfium2")
    monkeypatch.setattr(content, "_WORKER_MEMORY", 2**27)
    lines = b"BT /F1 1 Tf (aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa) Tj ET\n" * 400_000
    bomb = pdf(CATALOG, pages(b"3 0 R"), PAGE % FONT, packed(lines))
    assert len(bomb) < 100_000
    with pytest.raises(FetchError) as caught:
        await to_pdf_text(bomb, "http://a.test/")
    assert caught.value.error_code == "EXTRACTION_FAILED"


@pytest.mark.parametrize(
    "body",
    [
        b"\xe9" * 5_000_000,
        b"\x81\x8d\x8f\x90\x9d" * 1_000_000,
        bytes(range(256)) * 20_000,
        b"\xff" + b"a" * 5_000_000,
        b"\x1b$B" * 1_700_000,
        "ж".encode("koi8-r") * 5_000_000,
    ],
    ids=["e9", "undefined", "all bytes", "one bad byte", "escapes", "koi8"],
)
def test_the_charset_of_five_megabytes_costs_little(body):
    started = time.process_time()
    assert undeclared_utf8(body, final=True) in {True, False}
    name = detected_charset(body)
    assert time.process_time() - started < 5
    assert body[:1_000].decode(name, "replace")


async def fetch_after(fields):
    """Follow a redirect that sets cookies; return the page and the requests, or the failure."""

    async def go(stream, server):
        while request := await next_request(stream, server):
            first = request.split()[1] == b"/"
            out = reply(b"", "Location: /next", *fields, status="302 Found") if first else OK
            await stream.send_all(out)

    async with serving(go) as server, Fetcher(config()) as fetcher:
        try:
            page = await fetcher.fetch(FetchRequest(f"http://127.0.0.1:{server.port}/"))
        except FetchError as failure:
            return failure, server.requests
        return page, server.requests


async def test_a_cookie_of_a_megabyte_is_a_named_outcome():
    failure, _ = await fetch_after(["Set-Cookie: a=" + "x" * 1_000_000])
    assert failure.error_code == "TOO_LARGE"


async def test_cookies_as_large_as_the_head_of_a_reply_may_be_are_not_sent_back_without_bound():
    fields = [f"Set-Cookie: c{number}={'x' * 1_000}; Path=/" for number in range(60)]
    page, requests = await fetch_after(fields)
    assert page.status == 200
    assert max(map(len, requests)) < 20_000


async def test_a_text_that_grows_as_json_is_given_in_parts(monkeypatch):
    # A control character takes six bytes as JSON.
    monkeypatch.setattr(kept_pages, "_MAX_JSON_BYTES", 6_000)
    cases = {b"\x01" * 5_000: 1_000, b'"' * 3_000: None, b'"' * 3_001: 1_000, b"a" * 6_000: None}
    async with Fetcher(config()) as fetcher:
        for body, following in cases.items():
            answer = answering(reply(body, "Content-Type: text/plain"))
            async with serving(answer) as server:
                page = await fetcher.fetch(FetchRequest(server.url, max_bytes=10_000))
                assert page.next_offset == following
                texts = [page.text]
                while page.next_offset is not None:
                    onwards = FetchRequest(server.url, max_bytes=10_000, offset=page.next_offset)
                    page = await fetcher.fetch(onwards)
                    texts.append(page.text)
                assert "".join(texts).encode() == body
                assert len(server.requests) == 1
