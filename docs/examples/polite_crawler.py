# A polite crawler: it adds the links that it finds, and limits the requests to each host.
import trio
from trio.testing import MockClock

from nursery_patterns import Batch, Frontier, Retry, TokenBucket

LINKS = {f"{host}/{n}": [f"{host}/{n + 1}", f"{host}/{2 * n}"] for host in "ab" for n in range(20)}
busy = {"b/12", "b/18"}  # answer 503 once


class Busy(Exception):  # noqa: N818
    """A 503 with its Retry-After."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"retry after {retry_after} s")
        self.retry_after = retry_after


async def links_of(url: str) -> list[str]:
    await trio.sleep(0.3)  # represents the request
    if url in busy:
        busy.discard(url)
        raise Busy(retry_after=2)
    return LINKS.get(url, [])


def host_of(url: str) -> str:
    return url.partition("/")[0]


def wait(error: Exception) -> float | None:
    return error.retry_after if isinstance(error, Busy) else None


async def main() -> None:
    async def visit(url: str) -> int:
        links = await links_of(url)
        for link in links:
            frontier.add(link)  # False if it was added before
        return len(links)

    frontier = Frontier(["a/1", "b/1"], max_items=500)
    crawl = Batch(
        visit,
        frontier,
        limit=20,
        key=host_of,
        limit_per_key=2,
        bucket_per_key=TokenBucket(rate=5, capacity=5),
        item_timeout=10,
        retry=Retry(attempts=3, on=wait),
    )

    with trio.move_on_after(2):
        await crawl.run()
    print("after 2 s:", crawl.counts.succeeded, "pages,", len(crawl.report().unfinished()), "open")

    report = await crawl.run()
    repeated = sum(outcome.attempts > 1 for outcome in report.outcomes)
    print("at the end:", report.counts.succeeded, "pages, complete:", report.complete)
    print("retried:", repeated)


if __name__ == "__main__":
    trio.run(main, clock=MockClock(autojump_threshold=0))
