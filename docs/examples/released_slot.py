# One host asks for a pause. Its items wait without a slot, so the items of the other host run.
import trio

from nursery_patterns import released_slot, run_batch


async def fetch(url: str) -> str:
    if url.startswith("busy"):
        async with released_slot():
            await trio.sleep(0.5)  # the pause that the host asked for
    await trio.sleep(0.01)
    print(url, "is here")
    return url


async def main() -> None:
    urls = [f"busy/{n}" for n in range(20)] + [f"quick/{n}" for n in range(20)]
    report = await run_batch(fetch, urls, limit=2)
    print(f"{report.counts.succeeded} in {report.elapsed:.1f} s; all of quick before any of busy")


trio.run(main)
