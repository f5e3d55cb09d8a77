# A batch stores its outcomes in SQLite. Its process is killed, and the next one continues.
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable

import trio

from nursery_patterns import Batch, Journal, Outcome, Status

KILLED_AT = 60


class SqliteJournal(Journal[int, int]):
    """Commits each outcome before the batch continues: simple, but one disk write per item."""

    def __init__(self, path: str) -> None:
        self.database = sqlite3.connect(path, isolation_level=None)
        self.database.execute("PRAGMA synchronous = FULL")
        self.database.execute("CREATE TABLE IF NOT EXISTS done (i INTEGER PRIMARY KEY, value TEXT)")

    def outcomes(self) -> Iterable[Outcome[int, int]]:
        for index, value in self.database.execute("SELECT i, value FROM done"):
            yield Outcome(index, index, Status.SUCCEEDED, json.loads(value))

    def ended(self, outcome: Outcome[int, int]) -> None:
        if outcome.succeeded:  # the next process runs failed items again
            row = (outcome.index, json.dumps(outcome.value))
            self.database.execute("INSERT INTO done VALUES (?, ?)", row)


async def square(item: int) -> int:
    await trio.sleep(0.001)
    if item == KILLED_AT and "killed" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


async def main() -> None:
    batch = Batch(square, range(100), limit=5, journal=SqliteJournal("done.db"))
    print(f"to begin with: {batch.report().counts.done} of 100")
    report = await batch.run()
    print(f"complete: {report.complete}, sum: {sum(report.values())}")


if __name__ == "__main__":
    if "killed" not in sys.argv:
        ended = subprocess.run([sys.executable, __file__, "killed"], check=False)
        print(f"the first process ended with {ended.returncode}")
    trio.run(main)
