# Two batches share one capacity, first in, first out. It is raised while they run.
import trio

from nursery_patterns import Batch, Limits
from nursery_patterns.testing import InFlightGauge

limits = Limits({"database": 2})
gauge = InFlightGauge()


async def query(name: str) -> str:
    with gauge:
        await trio.sleep(0.1)
        return name


async def main() -> None:
    batches = [
        Batch(query, [f"{who}{i}" for i in range(6)], limiter=limits["database"])
        for who in ("reports-", "users-")
    ]
    async with trio.open_nursery() as nursery:
        for batch in batches:
            nursery.start_soon(batch.run)
        await trio.sleep(0.25)
        print(f"at first {gauge.peak} in flight, of both batches together")
        limits.resize("database", 4)
    print(f"then {gauge.peak}; {limits.snapshot()['database']}")


trio.run(main)
