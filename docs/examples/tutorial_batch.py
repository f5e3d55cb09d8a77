# The tutorial, part one: a batch with a limit, a deadline, failures and a second run.
import trio

from nursery_patterns import Batch, Report


async def price_of(product: int) -> float:
    await trio.sleep(0.1 * (1 + product % 3))
    if product == 13:
        raise ValueError("product 13 is out of stock")
    return product * 1.5


def show(report: Report) -> None:
    counts = report.counts
    print(f"{counts.succeeded} of {counts.total} succeeded, {counts.failed} failed,", end=" ")
    print(f"{counts.cancelled} cancelled, {counts.not_started} not started")


async def main() -> None:
    batch = Batch(price_of, range(20), limit=4)

    with trio.move_on_after(0.5):
        await batch.run()
    show(batch.report())

    await batch.run()
    report = batch.report()
    show(report)
    print("complete:", report.complete)
    print("first prices:", report.values()[:3])
    for outcome in report.outcomes:
        if not outcome.succeeded:
            print(f"item {outcome.item}: {outcome.error}")


trio.run(main)
