# One batch on a virtual clock: a limit of three, a deadline, and the run that resumes.
from collections.abc import Iterator
from dataclasses import dataclass

import trio
from trio.testing import MockClock

from nursery_patterns import Batch, Counts, Status

DEADLINE = 4.5
LATER = 5.0  # when the batch is run again
SECONDS = [2, 60, 1, 1, 2, 2, 1, 1, 1]  # for each page; page 1 hangs at first
BROKEN = 3


@dataclass
class Bar:
    """A page in flight: from when to when, and what became of it."""

    page: int
    start: float
    end: float
    status: Status


class Recorder:
    """Fetches pages, and remembers from when to when."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, float, float]] = []

    async def fetch(self, page: int) -> str:
        start = trio.current_time()
        try:
            await trio.sleep(SECONDS[page] if start < LATER else 1)
            if page == BROKEN:
                raise ConnectionError("no such page")
        finally:
            self.spans.append((page, start, trio.current_time()))
        return f"page {page}"


async def record() -> tuple[list[Bar], list[Counts]]:
    recorder = Recorder()
    batch = Batch(recorder.fetch, range(len(SECONDS)), limit=3)
    with trio.move_on_at(DEADLINE):
        await batch.run()
    cut = batch.report()
    bars = [Bar(*span, cut.outcomes[span[0]].status) for span in recorder.spans]
    await trio.sleep_until(LATER)

    recorder.spans.clear()
    report = await batch.run()
    bars += [Bar(*span, report.outcomes[span[0]].status) for span in recorder.spans]
    return bars, [cut.counts, report.counts]


def drawn(bars: list[Bar]) -> Iterator[str]:
    ink = {Status.SUCCEEDED: "#", Status.FAILED: "x", Status.CANCELLED: "."}
    for page in range(len(SECONDS)):
        line = [" "] * 28
        for bar in (bar for bar in bars if bar.page == page):
            first, last = round(bar.start * 4), round(bar.end * 4)
            line[first:last] = ink[bar.status] * (last - first)
        yield f"page {page}  {''.join(line)}".rstrip()


if __name__ == "__main__":
    recorded, counts = trio.run(record, clock=MockClock(autojump_threshold=0))
    print("\n".join(drawn(recorded)))
    print("at the deadline:", counts[0])
    print("run again:      ", counts[1])
