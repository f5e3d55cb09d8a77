# Two requests at a time to each host: a slow host does not delay the others.
import trio

from nursery_patterns import TokenBucket, run_batch

URLS = [f"{host}/{page}" for host in ("slow.example", "fast.example") for page in range(6)]


def host_of(url: str) -> str:
    return url.partition("/")[0]


async def fetch(url: str) -> float:
    await trio.sleep(0.2 if url.startswith("slow") else 0.01)
    return trio.current_time()


async def main() -> None:
    began = trio.current_time()
    report = await run_batch(
        fetch,
        URLS,
        limit=4,
        key=host_of,
        limit_per_key=2,
        bucket_per_key=TokenBucket(rate=50, capacity=5),
    )
    for host in ("slow.example", "fast.example"):
        last = max(o.unwrap() for o in report.outcomes if host_of(o.item) == host)
        print(f"{host}: done after {last - began:.2f} s")


trio.run(main)
