# A server answers in 10 ms up to eight concurrent calls, and slows down above. The limit finds it.
import trio
import trio.testing

from nursery_patterns import AdaptiveLimiter, run_batch

KNEE = 8
asking = [0]


async def main() -> None:
    limiter = AdaptiveLimiter(initial=2, minimum=1, maximum=100)

    async def ask(number: int) -> None:
        async with limiter:
            asking[0] += 1
            await trio.sleep(0.01 * max(1, asking[0] / KNEE))
            asking[0] -= 1
        if number % 500 == 0:
            print(f"{number:5} answers, limit {limiter.total_tokens}")

    report = await run_batch(ask, range(5000), limit=100)
    print(f"{report.counts.succeeded / report.elapsed:.0f} answers a second; 800 are possible")


if __name__ == "__main__":
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
