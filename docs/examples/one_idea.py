# The one idea: what finished lives outside of what is cancelled.
import trio

from nursery_patterns import Batch


async def fetch(number: int) -> int:
    await trio.sleep(number / 20)
    return number * number


async def main() -> None:
    batch = Batch(fetch, range(30), limit=10)
    with trio.move_on_after(1):
        await batch.run()
    report = batch.report()  # complete, or as far as it got; nothing finished is lost
    print(report.counts, report.values())
    await batch.run()  # does only what is missing
    print(batch.report().counts)


trio.run(main)
