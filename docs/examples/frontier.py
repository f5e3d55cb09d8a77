# A batch over work that grows: each page adds the pages that it links to, each of them once.
import trio

from nursery_patterns import Frontier, run_batch

LINKS = {"/": ["/a", "/b"], "/a": ["/", "/b", "/c"], "/b": ["/c"], "/c": ["/a"]}


async def main() -> None:
    async def visit(path: str) -> int:
        await trio.sleep(0.01)
        for link in LINKS[path]:
            frontier.add(link)
        return len(LINKS[path])

    frontier = Frontier(["/"], max_items=1_000)
    report = await run_batch(visit, frontier, limit=10)
    print(f"complete: {report.complete}; visited {[o.item for o in report.outcomes]}")


trio.run(main)
