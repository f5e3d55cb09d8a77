# Cancel a scenario at each of its checkpoints, then resume it: nothing is lost, nothing runs twice.
import trio

from nursery_patterns import Batch
from nursery_patterns.testing import Probe, cancel_at_every_checkpoint


async def scenario(probe: Probe) -> None:
    finished = probe.kept["finished"] = []

    async def work(item: int) -> None:
        await trio.sleep(item)  # virtual seconds
        finished.append(item)

    limiter = probe.watch(trio.CapacityLimiter(2))
    batch = probe.kept["batch"] = probe.watch(Batch(work, range(5), limiter=limiter))
    await batch.run()


async def resume(probe: Probe) -> None:
    report = await probe.kept["batch"].run()
    assert report.complete
    assert sorted(probe.kept["finished"]) == [0, 1, 2, 3, 4]


tried = cancel_at_every_checkpoint(scenario, after=resume)
print(f"cancelled at {tried} checkpoints, and every run was completed by the next")
