# Each item is tried up to four times. The batch sees only how it ended.
import stamina
import trio

from nursery_patterns import run_batch

FAILURES = {"fine": 0, "flaky": 2, "down": 99}
attempts = dict.fromkeys(FAILURES, 0)


@stamina.retry(on=ConnectionError, attempts=4, wait_initial=0.01, wait_max=0.05, timeout=5)
async def fetch(name: str) -> str:
    attempts[name] += 1
    await trio.sleep(0.01)
    if attempts[name] <= FAILURES[name]:
        raise ConnectionError(f"{name} did not answer")
    return f"{name} answered"


async def main() -> None:
    report = await run_batch(fetch, FAILURES, limit=2)
    for outcome in report.outcomes:
        result = outcome.error if outcome.value is None else outcome.value
        print(f"{outcome.status}: {result} (attempt {attempts[outcome.item]})")


if __name__ == "__main__":
    trio.run(main)
