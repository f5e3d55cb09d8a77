# Two stages: pages are parsed while others are downloaded, and a slow stage slows the other one.
import trio

from nursery_patterns import run_batch, stream_batch


async def download(number: int) -> str:
    await trio.sleep(0.01)
    if number == 3:
        raise ConnectionResetError
    return f"page {number}"


async def parse(page: str) -> int:
    await trio.sleep(0.02)
    return len(page)


async def main() -> None:
    async with stream_batch(download, range(20), limit=5) as pages:
        parsed = await run_batch(parse, pages.values(), limit=4)
    print(f"parsed {parsed.counts.succeeded}")
    print(f"not downloaded: {[o.item for o in pages.batch.report().outcomes if o.error]}")


trio.run(main)
