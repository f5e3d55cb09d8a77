# Which task blocks the event loop? One of these two computes too long between its waits.
import trio

from nursery_patterns import BlockedStep, StepMonitor


async def polite() -> None:
    for _ in range(20):
        await trio.sleep(0.01)


async def greedy() -> None:
    await trio.sleep(0.05)
    sum(range(5_000_000))  # no other task runs meanwhile
    await trio.sleep(0.05)


def tell(step: BlockedStep) -> None:
    print(f"{step.task_name} held the loop for {step.seconds:.3f} s, up to {step.where}")


async def main() -> None:
    with StepMonitor(threshold=0.02, on_block=tell).watching() as monitor:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(polite)
            nursery.start_soon(greedy)
    print(f"{monitor.count} step(s) too long; worst: {monitor.worst}")


if __name__ == "__main__":
    trio.run(main)
