# The first attempt hangs, so a second one starts after a delay, and its answer is used.
import trio

from nursery_patterns import HedgePolicy, hedged

seconds = iter([60, 0.05, 0.05])


async def ask(question: str) -> str:
    took = next(seconds)
    await trio.sleep(took)
    return f"{question} {took} s"


async def main() -> None:
    print(await hedged(ask, "a fixed delay:", delay=0.1))
    policy = HedgePolicy(percentile=0.95, initial=0.1, budget=0.05)
    print(await hedged(ask, "what is late by a policy:", delay=policy))
    print(policy.statistics())


if __name__ == "__main__":
    trio.run(main)
