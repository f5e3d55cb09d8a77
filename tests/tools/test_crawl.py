"""`crawl_site` and the operation `crawl`: what is visited, what is not, and what a cut leaves."""

import gzip

import pytest
import trio

from nursery_patterns import Batch, run_batch
from nursery_patterns.testing import cancel_at_every_checkpoint
from tests.support.followed_operations import calling, server_with
from tests.support.raw_http_servers import next_request, reply, serving
from tests.support.servers_in_memory import connected
from trio_tools.http.fetching.types import FetchedPage
from trio_tools.http.wire.errors import InvalidRequest
from trio_tools.operations.builtin.crawl import Crawl, CrawlItem

HOST = "http://site.test"


class Site:
    """A site in memory: the links of each path; `hangs` never answers."""

    def __init__(self, links, *, hangs=(), sitemap="", moved=()):
        self.links = links
        self.hangs = set(hangs)
        self.sitemap = sitemap
        self.moved = dict(moved)
        self.asked = []

    async def fetch(self, request):
        path = request.url.removeprefix(HOST)
        self.asked.append(path)
        await trio.sleep(1)
        if path in self.hangs:
            await trio.sleep_forever()
        page = FetchedPage(
            request.url, request.url, 200, {}, "text/html", None, 1, truncated=False, elapsed=1.0
        )
        if path == "/sitemap.xml":
            return page._replace(text=self.sitemap, status=200 if self.sitemap else 404)
        if path in self.moved:
            to = self.moved[path]
            if request.within(to):
                page = page._replace(final_url=to)
                path = to.removeprefix(HOST)
            else:
                return page._replace(status=302, headers={"location": to})
        links = self.links(path) if callable(self.links) else self.links.get(path, ())
        links = tuple(link if "://" in link else HOST + link for link in links)
        return page._replace(text=f"text of {path}", title=path, links=links)

    def crawl(self, path="/", **options):
        item = CrawlItem.model_validate({"url": HOST + path, **options})
        return Crawl(self.fetch, item, obey_robots=True)


def visited(report):
    return [outcome.item.url.removeprefix(HOST) for outcome in report.outcomes]


async def crawled(crawl, **options):
    return await run_batch(crawl.visit, crawl.frontier, **{"limit": 1, **options})


async def test_pages_are_visited_once_by_their_depth_however_they_are_linked(autojump_clock):
    loop = {"/": ["/a", "/b", "/"], "/a": ["/b", "/c#top", "/"], "/b": ["/a"], "/c": ["/d", "/c"]}
    site = Site(loop)
    report = await crawled(site.crawl())
    assert visited(report) == ["/", "/a", "/b", "/c"]
    assert [value["depth"] for value in report.values()] == [0, 1, 1, 2]
    assert [value["links"] for value in report.values()] == [3, 3, 1, 2]
    assert site.asked == ["/sitemap.xml", "/", "/a", "/b", "/c"]
    assert trio.current_time() == 5
    assert report.complete


async def test_depth_zero_is_one_page(autojump_clock):
    site = Site({"/": ["/a"]}, sitemap="<loc>http://site.test/b</loc>")
    assert visited(await crawled(site.crawl(max_depth=0))) == ["/"]
    assert site.asked == ["/"]


async def test_an_endless_calendar_ends_at_the_number_of_pages(autojump_clock):
    site = Site(lambda path: [f"{path}/next", f"{path}/other"])
    report = await crawled(site.crawl("/2026", max_depth=20, max_pages=30), limit=7)
    assert report.complete
    assert report.counts.total == report.counts.succeeded == 30


async def test_other_hosts_ports_and_schemes_are_left_alone(autojump_clock):
    links = ["http://other.test/", "http://site.test:8080/", "ftp://site.test/", "mailto:a@b.c"]
    links += ["http://site.test.evil/", "http://[", "http://u:p@site.test/x", "/in"]
    site = Site({"/": links})
    assert visited(await crawled(site.crawl())) == ["/", "/in"]
    site = Site({"/": ["https://site.test/safe"]})
    assert visited(await crawled(site.crawl())) == ["/", "https://site.test/safe"]


@pytest.mark.parametrize(
    ("start", "inside", "outside"),
    [
        ("/docs", ["/docs/", "/docs/a", "/docs?page=2"], ["/docsx", "/", "/docs/../x"]),
        ("/docs/", ["/docs/a/b"], ["/docs", "/doc"]),
        ("/docs/index.html", ["/docs/b.html"], ["/docs", "/index.html"]),
    ],
)
async def test_the_scope_path_is_what_is_below_it(start, inside, outside, autojump_clock):
    site = Site({start: [*inside, *outside]}, sitemap=f"<loc>{HOST}/x</loc>")
    assert visited(await crawled(site.crawl(start, scope="path"))) == [start, *inside]


async def test_a_sitemap_is_a_seed_behind_the_links_of_the_start(autojump_clock):
    sitemap = f"""<urlset><url><loc> {HOST}/map?a=1&amp;b=2 </loc></url><url>
    <loc><![CDATA[{HOST}/cdata]]></loc></url><url><loc>http://other.test/</loc></url></urlset>"""
    site = Site({"/": ["/a"], "/a": ["/deep"]}, sitemap=sitemap)
    report = await crawled(site.crawl())
    assert visited(report) == ["/", "/a", "/map?a=1&b=2", "/cdata", "/deep"]


async def test_an_index_of_sitemaps_that_names_itself_ends(autojump_clock):
    index = f"<sitemapindex><loc>{HOST}/sitemap.xml</loc><loc>http://other.test/</loc>"
    site = Site({}, sitemap=index)
    assert visited(await crawled(site.crawl())) == ["/"]
    assert site.asked.count("/sitemap.xml") <= 5


async def test_a_sitemap_that_hangs_costs_ten_seconds(autojump_clock):
    site = Site({"/": ["/a"]}, hangs=["/sitemap.xml"])
    assert visited(await crawled(site.crawl())) == ["/", "/a"]
    assert trio.current_time() == 12


async def test_redirects_out_of_scope_are_told_and_not_followed(autojump_clock):
    moved = {"/out": "http://other.test/", "/in": f"{HOST}/a"}
    site = Site({"/": ["/out", "/in", "/a"]}, moved=moved)
    report = await crawled(site.crawl())
    _, out, into, a = report.values()
    assert (out["status"], out["location"]) == (302, "http://other.test/")
    assert (into["final_url"], into["text"]) == (f"{HOST}/a", "text of /a")
    assert a["same_as"] == f"{HOST}/in"
    assert "text" not in a


async def test_a_page_that_hangs_times_out_and_delays_no_other(autojump_clock):
    site = Site({"/": ["/hangs", "/a", "/b"]}, hangs=["/hangs"])
    report = await crawled(site.crawl(), limit=2, item_timeout=20)
    assert (report.counts.succeeded, report.counts.timed_out) == (3, 1)
    assert trio.current_time() == 22


async def test_a_cancelled_crawl_continues_with_the_missing_pages(autojump_clock):
    site = Site({"/": ["/a", "/b", "/c"], "/b": ["/d"]}, hangs=["/b"])
    crawl = site.crawl()
    batch = Batch(crawl.visit, crawl.frontier, limit=1)
    with trio.move_on_after(5):
        await batch.run()
    counts = batch.report().counts
    assert (counts.succeeded, counts.cancelled, counts.not_started) == (2, 1, 1)
    site.hangs.clear()
    report = await batch.run()
    assert sorted(visited(report)) == ["/", "/a", "/b", "/c", "/d"]
    assert report.complete
    assert [site.asked.count(path) for path in ("/", "/a", "/b")] == [1, 1, 2]


def test_a_crawl_cancelled_at_any_checkpoint_loses_no_page():
    async def scenario(probe):
        site = Site({"/": ["/a", "/b"], "/a": ["/c"]}, sitemap=f"<loc>{HOST}/map</loc>")
        crawl = site.crawl()
        probe.kept["batch"] = batch = probe.watch(Batch(crawl.visit, crawl.frontier, limit=2))
        await batch.run()

    async def after(probe):
        report = await probe.kept["batch"].run()
        assert sorted(visited(report)) == ["/", "/a", "/b", "/c", "/map"]
        assert report.complete
        assert len(report.values()) == 5

    assert cancel_at_every_checkpoint(scenario, after=after) > 5


def test_a_start_that_is_no_url_is_refused():
    with pytest.raises(InvalidRequest, match="scheme"):
        Crawl(Site({}).fetch, CrawlItem(url="site.test"), obey_robots=True)


# The rest is over sockets, through a client.

PAGES = {
    "/": '<a href="/a">a</a> <a href="loop">l</a> <a href="/private/x">p</a> <a href="/out">o</a>',
    "/a": '<title>The page A</title><p>Words of A.</p><a href="/">home</a> <a href="/a#x">x</a>',
    "/loop": '<a href="/loop">again</a>',
    "/mapped": "<p>Only the sitemap names it.</p>",
}


def site(other="http://127.0.0.1:9/", *, hangs=()):
    async def handler(stream, server):
        while request := await next_request(stream, server):
            path = request.split()[1].decode()
            if path in hangs:
                await trio.sleep_forever()
            if path == "/robots.txt":
                await stream.send_all(reply(b"User-agent: *\nDisallow: /private"))
            elif path == "/sitemap.xml":
                found = f"<urlset><url><loc>{server.url}/mapped</loc></url></urlset>".encode()
                await stream.send_all(reply(found, "Content-Type: text/xml"))
            elif path == "/out":
                await stream.send_all(reply(b"", f"Location: {other}", status="302 Found"))
            else:
                body = PAGES.get(path, "").encode()
                status = "200 OK" if path in PAGES else "404 Not Found"
                html = f"<html><body>{body.decode()}</body></html>".encode()
                await stream.send_all(reply(html, "Content-Type: text/html", status=status))

    return serving(handler)


def crawler(**fetch):
    doors = {"allow_private": True, "ports": None, "crawl": True, **fetch}
    return server_with(fetch=doors)


def asked(server):
    return [request.split()[1].decode() for request in server.requests]


async def test_a_site_is_crawled_within_its_robots_and_its_host(era):
    async with site() as server, calling(crawler(), era) as call:
        envelope = await call("crawl_site", url=server.url + "/", max_concurrent=1)
        data = envelope["data"]
        pages = {r["item"].removeprefix(server.url): r["value"] for r in data["results"]}
        assert list(pages) == ["/", "/a", "/loop", "/out", "/mapped"]
        assert pages["/a"]["title"] == "The page A"
        assert "Words of A." in pages["/a"]["text"]
        assert (pages["/a"]["status"], pages["/a"]["links"], pages["/a"]["depth"]) == (200, 2, 1)
        assert pages["/out"]["location"] == "http://127.0.0.1:9/"
        (error,) = data["errors"]
        assert error["item"] == server.url + "/private/x"
        assert error["error_code"] == "BLOCKED_BY_ROBOTS"
        counts = {"total": 6, "succeeded": 5, "failed": 1}
        assert {name: data["counts"][name] for name in counts} == counts
        assert data["complete"] is True
        assert asked(server).count("/robots.txt") == 1
        assert "/private/x" not in asked(server)


def compressed_sitemaps(files):
    """A site whose robots.txt names its sitemaps; `files` maps their paths to their bodies."""

    async def handler(stream, server):
        while request := await next_request(stream, server):
            path = request.split()[1].decode()
            if path == "/robots.txt":
                named = "".join(f"Sitemap: {server.url}{each}\n" for each in files)
                await stream.send_all(reply(f"User-agent: *\n{named}".encode()))
            elif path in files:
                body = files[path].replace(b"HERE", server.url.encode())
                body = gzip.compress(body) if path.endswith(".gz") else body
                await stream.send_all(reply(body, "Content-Type: application/octet-stream"))
            else:
                await stream.send_all(reply(b"<p>x</p>", "Content-Type: text/html"))

    return serving(handler)


async def test_the_sitemaps_that_robots_name_are_read_gzip_files_too():
    files = {
        "/one.xml.gz": b"<urlset><url><loc>HERE/first</loc></url></urlset>",
        "/two.xml": b"<urlset><url><loc>HERE/second</loc></url></urlset>",
    }
    async with compressed_sitemaps(files) as server, calling(crawler()) as call:
        data = (await call("crawl_site", url=server.url + "/", max_concurrent=1))["data"]
        found = [result["item"].removeprefix(server.url) for result in data["results"]]
        assert found == ["/", "/first", "/second"]
        assert "/sitemap.xml" not in asked(server)
        assert asked(server).count("/robots.txt") == 1


@pytest.mark.parametrize(
    "body",
    [b"\x1f\x8bnot gzip after all", gzip.compress(b"<loc>x</loc>" + b" " * 9_000_000)],
    ids=["broken", "bomb"],
)
async def test_a_gzip_file_that_is_broken_or_too_large_ends_no_crawl(body):
    async def handler(stream, server):
        while request := await next_request(stream, server):
            is_map = b"/sitemap.xml" in request
            await stream.send_all(reply(body if is_map else b"<p>x</p>"))

    async with serving(handler) as server, calling(crawler(crawl_robots="ignore")) as call:
        data = (await call("crawl_site", url=server.url + "/", max_concurrent=1))["data"]
        assert data["complete"] is True
        assert data["results"][0]["item"] == server.url + "/"


async def test_robots_are_ignored_where_the_operator_says_so():
    async with site() as server, calling(crawler(crawl_robots="ignore")) as call:
        data = (await call("crawl_site", url=server.url, max_depth=1))["data"]
        assert data["errors"] is None
        assert "/robots.txt" not in asked(server)


async def test_the_number_of_pages_is_kept_and_told():
    async with site() as server, calling(crawler()) as call:
        envelope = await call("crawl_site", url=server.url, max_pages=2)
    assert envelope["data"]["counts"]["total"] == 2
    assert envelope["data"]["complete"] is True
    assert any("max_pages (2)" in warning for warning in envelope["meta"]["warnings"])


async def test_a_crawl_out_of_time_answers_with_what_it_has_and_goes_on_by_its_id():
    hangs = {"/a"}
    async with site(hangs=hangs) as server, calling(crawler()) as call:
        await call("crawl_site", url=server.url + "/mapped", max_depth=0)  # starts the workers
        first = await call("crawl_site", url=server.url, timeout_seconds=3, operation_id="mine")
        data = first["data"]
        counts = data["counts"]
        parts = ("succeeded", "failed", "timed_out", "cancelled", "not_started")
        assert counts["total"] == sum(counts[name] for name in parts)
        assert data["complete"] is False
        assert server.url + "/a" in [error["item"] for error in data["errors"]]
        assert any('operation_id="mine"' in warning for warning in first["meta"]["warnings"])
        hangs.clear()
        done = len(data["results"])
        second = (await call("crawl_site", operation_id="mine"))["data"]
        assert second["complete"] is True
        assert len(second["results"]) > done
        assert asked(server).count("/") == 1
        other = await call("crawl_site", url=server.url, max_pages=3, operation_id="mine")
        assert other["data"]["error_code"] == "OPERATION_MISMATCH"
        page = (await call("get_operation", operation_id="mine"))["data"]
        assert page["counts"]["total"] == second["counts"]["total"]


async def test_a_crawl_in_the_background_is_read_and_cancelled():
    async with site(hangs={"/a"}) as server, calling(crawler()) as call:
        begun = (await call("crawl_site", url=server.url, background=True))["data"]
        name = begun["operation_id"]
        running = (await call("get_operation", operation_id=name, wait_seconds=1))["data"]
        assert running["running"] is True
        stopped = (await call("cancel_operation", operation_id=name))["data"]
        assert stopped["stopped"] is True
        status = (await call("get_concurrency_status"))["data"]
        assert status["limits"]["crawl_site"]["in_use"] == 0


async def test_a_batch_crawls_several_sites():
    async with site() as one, site() as two, calling(crawler()) as call:
        items = [{"url": one.url, "max_depth": 1}, {"url": two.url, "max_pages": 1}]
        data = (await call("batch_process", operation="crawl", items=items))["data"]
    first, second = (result["value"] for result in data["results"])
    assert len(first["pages"]) == 5
    assert [error["error_code"] for error in first["errors"]] == ["BLOCKED_BY_ROBOTS"]
    assert ([page["url"] for page in second["pages"]], second["errors"]) == ([two.url + "/"], None)


async def test_crawling_is_off_unless_the_operator_turns_it_on():
    async with calling(server_with()) as call:
        data = (await call("crawl_site", url="http://site.test"))["data"]
        assert data["error_code"] == "FORBIDDEN"
        data = (await call("batch_process", operation="crawl", items=[{"url": HOST}]))["data"]
        assert data["error_code"] == "UNKNOWN_OPERATION"
    for server, listed in ((server_with(), False), (crawler(), True)):
        async with connected(server) as client:
            names = [tool.name for tool in (await client.list_tools()).tools]
        assert ("crawl_site" in names) is listed


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"url": "site.test"}, "it has no scheme"),
        ({"url": HOST, "max_pages": 10**6}, "max_pages must be at most"),
        ({"url": HOST, "max_depth": 21}, "max_depth"),
        ({"url": HOST, "scope": "domain"}, "scope"),
        ({}, "url is missing"),
    ],
)
async def test_wrong_arguments_are_named(arguments, told):
    async with calling(crawler()) as call:
        envelope = await call("crawl_site", **arguments)
    assert told in envelope["error"]
    assert envelope["data"]["error_type"] == "validation"
