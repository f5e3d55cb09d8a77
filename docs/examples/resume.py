# A cancelled batch runs again: items that were in flight come first, finished ones do not repeat.
import trio

from nursery_patterns import Batch

calls: list[int] = []


async def work(item: int) -> int:
    calls.append(item)
    await trio.sleep(0.1 + item / 100)
    return item


async def main() -> None:
    batch = Batch(work, range(6), limit=2)
    with trio.move_on_after(0.25):
        await batch.run()
    print(batch.report().counts)

    calls.clear()
    report = await batch.run()
    print(f"ran again {calls}; complete: {report.complete}, values: {report.values()}")


trio.run(main)
