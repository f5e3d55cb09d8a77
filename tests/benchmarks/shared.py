"""A bucket that three replicas share: what they let through in 20 s. Needs --url of PostgreSQL."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import trio

from trio_tools.database.shared_limits import SharedLimits

SECONDS = 20.0
RATE, BURST = 50, 5


async def replica(url: str, until: float) -> None:
    limits, taken = SharedLimits(url), 0

    async def take() -> None:
        nonlocal taken
        while True:
            await bucket.acquire()
            taken += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(limits.run)
        bucket = limits.bucket("benchmark", RATE, BURST)
        await trio.sleep(max(0.0, until - SECONDS - time.time()))
        late = time.time() - (until - SECONDS)
        for _ in range(10):
            nursery.start_soon(take)
        await trio.sleep(until - time.time())
        nursery.cancel_scope.cancel()
    print(taken, late)


def run(options: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--until", type=float)
    chosen = parser.parse_args(options)
    if chosen.until is not None:
        trio.run(replica, chosen.url, chosen.until)
        return 0
    until = time.time() + SECONDS + 25  # they need some time to start
    command = [sys.executable, "-m", "tests.benchmarks.shared", "--url", chosen.url]
    started = [
        subprocess.Popen([*command, "--until", str(until)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    told = [each.communicate()[0].split() for each in started]
    taken = [int(each[0]) for each in told]
    late = max(float(each[1]) for each in told)
    if late > 1:
        print(f"a replica started {late:.1f} s late: the machine is too busy")
    meant = RATE * SECONDS
    print(
        f"{taken} are {sum(taken)} of {meant:g} tokens in {SECONDS:g} s: {sum(taken) / meant:.1%}"
    )
    return 0 if abs(sum(taken) - BURST - meant) <= meant * 0.05 else 1


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
