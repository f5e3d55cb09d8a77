"""Pages of five kinds as Markdown, PDFs, and a text that is read on. Pages of our own making."""

import pytest
import trio

from tests.http.test_fetcher import failure, fetch
from tests.support.raw_http_servers import answering, config, reply, serving
from trio_tools.http.fetching.fetcher import Fetcher
from trio_tools.http.fetching.text.extraction import extract_markdown
from trio_tools.http.fetching.text.pdf import MAX_PAGES, extract_pdf
from trio_tools.http.fetching.types import FetchRequest
from trio_tools.http.wire.errors import Code

WORDS = "This sentence belongs to the main text and says something about gardens. "
MENU = "<nav><a href=/>Home</a> <a href=/about>About us</a></nav>"
FOOT = "<footer>Imprint <a href=/privacy>Privacy</a></footer>"


def page(body, head=""):
    return f"<!doctype html><html lang=en><head>{head}</head><body>{MENU}{body}{FOOT}</body></html>"


def article(more=""):
    return page(f"<article><h1>On gardens</h1><p>{WORDS * 6}</p>{more}<p>{WORDS * 6}</p></article>")


ROWS = "".join(f"<tr><td>Item {n}</td><td>{n} EUR</td></tr>" for n in range(9))
LINKS = "".join(f"<li><a href='/doc/{n}'>Document {n}</a></li>" for n in range(30))
TABLE = f"<table><tr><th>Item</th><th>Price</th></tr>{ROWS}</table>"
RSS = """<?xml version="1.0" encoding="utf-8"?><rss version="2.0"><channel><title>News</title>
<item><title>First</title><link>http://e.org/1</link><pubDate>Mon, 1 Jan 2024</pubDate><description>
&lt;p&gt;Text of the &lt;b&gt;first&lt;/b&gt;&lt;/p&gt;</description></item></channel></rss>"""
ATOM = """<feed xmlns="http://www.w3.org/2005/Atom" xml:lang="de"><title>Blog</title><entry>
<title>Eins</title><link rel="self" href="/s"/><link href="/eins"/><summary>Kurz</summary></entry>
</feed>"""

# Kind and name -> (page, whether it is XML, what must be in the Markdown, what must not).
PAGES = {
    "article: plain": (article(), False, ["# On gardens", WORDS.strip()], ["Imprint", "About us"]),
    "article: a link": (
        article("<p>Read <a href='/more'>more about it</a> over there, it is worth it.</p>"),
        False,
        ["[more about it](http://e.org/more)"],
        ["Home"],
    ),
    "article: a table": (article(TABLE), False, ["| Item 3 | 3 EUR |"], ["Imprint"]),
    "article: a long head": (
        page(
            f"<article><h1>T</h1><p>{WORDS * 9}</p></article>", f"<style>{'.a{b:c}' * 9000}</style>"
        ),
        False,
        [WORDS.strip()],
        [".a{"],
    ),
    "links: a list": (page(f"<ul>{LINKS}</ul>"), False, ["[Document 7](http://e.org/doc/7)"], []),
    "links: a base": (
        page("<a href=x>Up</a>", "<title>Index</title>"),
        False,
        ["[Up](http://e.org/dir/x)"],
        [],
    ),
    "links: an index of files": (
        page("<h1>Index of /pub</h1><pre><a href='a.tar'>a.tar</a>  2024  4M\n</pre>"),
        False,
        ["Index of /pub", "a.tar", "4M"],
        [],
    ),
    "links: a forum": (
        page(
            "".join(
                f"<div><a href='/t/{n}'>Thread {n}</a> <b>{n} replies</b></div>" for n in range(9)
            )
        ),
        False,
        ["[Thread 3](http://e.org/t/3)", "3 replies"],
        [],
    ),
    "table: prices": (
        page(f"<h1>Prices</h1>{TABLE}"),
        False,
        ["| Item | Price |", "| Item 8 | 8 EUR |"],
        [],
    ),
    "table: links in cells": (
        page("<table><tr><th>N</th></tr><tr><td><a href=/a>A</a></td></tr></table>"),
        False,
        ["| [A](http://e.org/a) |"],
        [],
    ),
    "table: without a head": (
        page("<table><tr><td>a</td><td>b</td></tr></table>"),
        False,
        ["| a | b |"],
        [],
    ),
    "table: definitions": (
        page("<dl><dt>GET</dt><dd>Reads it</dd><dt>PUT</dt><dd>Sets it</dd></dl>"),
        False,
        ["GET", "Reads it", "PUT", "Sets it"],
        [],
    ),
    "form: search": (
        page("<form><label>City <input name=c></label><select><option>Oslo</select></form>"),
        False,
        ["City", "Oslo"],
        [],
    ),
    "form: code": (page("<pre><code>x = 1\ny = 2</code></pre>"), False, ["x = 1\ny = 2"], []),
    "form: hardly anything": ("<p>hi</p>", False, ["hi"], []),
    "form: a script": (
        page("<p>Shown</p><script>var hidden = 1</script>"),
        False,
        ["Shown"],
        ["hidden"],
    ),
    "XML: RSS": (
        RSS,
        True,
        ["# News", "## [First](http://e.org/1)", "Text of the **first**"],
        ["<p>"],
    ),
    "XML: Atom": (ATOM, True, ["# Blog", "## [Eins](http://e.org/eins)", "Kurz"], []),
    "XML: a sitemap": (
        "<?xml version='1.0'?><urlset><url><loc>http://x/a</loc></url><url><loc>http://x/b</loc></url></urlset>",
        True,
        ["loc: http://x/a\n", "loc: http://x/b"],
        [],
    ),
    "XML: data": (
        "<catalog><book id='1'><author>Somebody</author><price>44</price></book></catalog>",
        True,
        ["book (id=1)", "author: Somebody", "price: 44"],
        [],
    ),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_keeps_what_a_model_needs(name):
    markup, is_xml, wanted, unwanted = PAGES[name]
    text = extract_markdown(markup, "http://e.org/dir/", is_xml=is_xml).text
    assert [part for part in wanted if part not in text] == []
    assert [part for part in unwanted if part in text] == []


def test_what_a_page_declares_comes_with_it():
    head = "<title> A \n title</title><link rel=canonical href='/canonical'>"
    found = extract_markdown(page(f"<p>{WORDS * 9}</p>", head), "http://e.org/dir/")
    assert (found.title, found.canonical_url) == ("A title", "http://e.org/canonical")
    assert (found.language, found.is_shell) == ("en", False)


@pytest.mark.parametrize(
    "markup",
    [
        "<div>" * 50_000 + "text",
        "<b>" * 50_000 + "text",
        "<table><tr><td>" * 5_000 + "text",
        "<p " + " ".join(f"a{n}=1" for n in range(9_000)) + ">text",
        "text\0<p>",
        "<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>]><x>text</x>",
    ],
    ids=["div", "b", "tables", "attributes", "NUL", "entities"],
)
def test_a_hostile_page_is_never_an_empty_success(markup):
    assert "text" in extract_markdown(markup, "http://e.org/").text


def test_no_file_is_read_for_an_entity(tmp_path):
    (tmp_path / "secret").write_text("secret text")
    xml = f"<!DOCTYPE x [<!ENTITY a SYSTEM 'file://{tmp_path}/secret'>]><x>text &a;</x>"
    assert "secret text" not in extract_markdown(xml, "http://e.org/", is_xml=True).text


async def test_the_main_text_is_looked_for_in_all_of_a_page():
    markup = page(
        f"<article><h1>A title</h1><p>{WORDS * 20}</p></article>",
        "<style>" + ".some-class{margin:0}\n" * 5000 + "</style>",
    )
    raw = reply(markup.encode(), "Content-Type: text/html")
    found = await fetch(answering(raw), body_as="markdown")
    assert found.text.startswith("# A title")
    assert (found.truncated, found.warnings, found.language) == (False, (), "en")


async def test_a_shell_for_scripts_is_marked_and_a_cut_page_too():
    shell = b"<html><head><title>App</title></head><body><div id=app></div><script src=a></script>"
    found = await fetch(answering(reply(shell, "Content-Type: text/html")), body_as="markdown")
    assert (found.text, found.title) == ("", "App")
    assert "scripts build it" in found.warnings[0]
    raw = reply(article().encode(), "Content-Type: text/html")
    found = await fetch(answering(raw), body_as="markdown", max_bytes=600)
    assert found.text
    assert found.warnings == ("Only the first 600 bytes of the page were downloaded (max_bytes).",)


async def test_what_is_no_markup_is_given_as_it_is():
    code = b"#include <stdio.h>\nint main(void) { return 0 < 1; }\n"
    found = await fetch(answering(reply(code)), body_as="markdown")
    assert found.text == code.decode()


async def test_a_long_text_is_read_on_without_another_request(autojump_clock):
    text = "".join(f"line {number}\n" for number in range(1000))
    raw = reply(text.encode(), "Content-Type: text/plain")
    async with serving(answering(raw)) as server, Fetcher(config()) as fetcher:
        parts, offset = [], 0
        while offset is not None:
            request = FetchRequest(server.url, body_as="markdown", max_chars=1500, offset=offset)
            found = await fetcher.fetch(request)
            assert len(found.text) <= 1500
            parts.append(found.text)
            offset = found.next_offset
        assert "".join(parts) == text
        assert len(server.requests) == 1
        await trio.sleep(601)  # kept for ten minutes; then it is fetched again
        found = await fetcher.fetch(request)
        assert (found.text, len(server.requests)) == (parts[-1], 2)
        assert fetcher._kept._chars == 0


async def test_texts_are_kept_within_a_bound():
    raw = reply(b"x" * 3_000_000, "Content-Type: text/plain")
    async with serving(answering(raw)) as server, Fetcher(config()) as fetcher:
        for number in range(4):
            url = f"{server.url}/{number}"
            found = await fetcher.fetch(FetchRequest(url, max_chars=10))
            assert (found.text, found.next_offset, found.text_chars) == ("x" * 10, 10, 3_000_000)
        assert fetcher._kept._chars == 6_000_000


def a_pdf(texts, trailer=b""):
    """Return a PDF with a page for each of `texts`."""
    kids = b" ".join(b"%d 0 R" % (4 + 2 * number) for number in range(len(texts)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count %d /Kids [%b] >>" % (len(texts), kids),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(texts):
        drawn = b"BT /F1 12 Tf 72 700 Td (%b) Tj ET" % text.encode()
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> >> >>" % (5 + 2 * number)
        )
        objects.append(b"<< /Length %d >>\nstream\n%b\nendstream" % (len(drawn), drawn))
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"trailer << /Size %d /Root 1 0 R %b>>\nstartxref\n%d\n%%%%EOF"
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n%b" % (len(objects) + 1, table)
    return out + end % (len(objects) + 1, trailer, start)


@pytest.mark.parametrize("body_as", ["text", "markdown"])
@pytest.mark.parametrize("kind", ["application/pdf", "application/octet-stream"])
async def test_a_pdf_becomes_text_page_by_page(kind, body_as):
    raw = reply(a_pdf(["Hello one", "Second"]), f"Content-Type: {kind}")
    found = await fetch(answering(raw), "/a.pdf", body_as=body_as, usual_bytes=20)
    assert found.text == "## Page 1\n\nHello one\n\n## Page 2\n\nSecond"
    assert (found.pages, found.truncated, found.warnings) == (2, False, ())


ENCRYPTED = b"/ID [<00><00>] /Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <%b> /U <%b> >> " % (
    b"00" * 32,
    b"00" * 32,
)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (a_pdf(["x"], ENCRYPTED), Code.PDF_ENCRYPTED),
        (a_pdf(["x"])[:200], Code.PDF_BROKEN),
        (b"%PDF-1.7 and nothing else", Code.PDF_BROKEN),
    ],
)
async def test_a_pdf_that_cannot_be_read_is_a_named_outcome(body, code):
    exc = await failure(answering(reply(body, "Content-Type: application/pdf")))
    assert exc.error_code == code
    assert exc.remediation


async def test_a_pdf_over_the_cap_is_not_read_in_part():
    raw = reply(a_pdf(["x"]), "Content-Type: application/pdf")
    exc = await failure(answering(raw), max_bytes=100)
    assert exc.error_code == Code.TOO_LARGE


def test_the_pages_of_a_pdf_are_bounded():
    found = extract_pdf(a_pdf(["x"] * (MAX_PAGES + 1)))
    assert (found.pages, found.read) == (MAX_PAGES + 1, MAX_PAGES)
