# The one idea: finished results live outside the scope that is cancelled.
import trio

from nursery_patterns import Batch


async def fetch(number: int) -> int:
    await trio.sleep(number / 20)
    return number * number


async def main() -> None:
    batch = Batch(fetch, range(30), limit=10)
    with trio.move_on_after(1):
        await batch.run()
    report = batch.report()  # complete or partial; no finished result is lost
    print(report.counts, report.values())
    await batch.run()  # runs only the missing items
    print(batch.report().counts)


trio.run(main)
