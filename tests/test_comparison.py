"""The table of docs/comparison.md is what happens: each cell is measured, on a virtual clock."""

import re
from collections import Counter
from contextlib import suppress
from pathlib import Path

import aiometer
import anyio  # noqa: TID251 - one of the compared
import pytest
import trio
from trio.testing import MockClock

from nursery_patterns import Batch, run_batch, stream_batch
from tests.support.examples import load_example

DOCS = Path(__file__).parent.parent / "docs"
ROWS = dict(
    re.findall(
        r"^\| ([^|]+) \| (.+) \|$", (DOCS / "comparison.md").read_text("utf-8"), re.MULTILINE
    )
)

ways = load_example("comparison")


class Work:
    """Makes an async function of one item that takes a second, and counts what it does."""

    def __init__(self, *, fails=None, hangs=None):
        self.fails = fails
        self.hangs = hangs
        self.starts = []
        self.finished = Counter()
        self.in_flight = self.peak = 0

    async def do(self, item):
        self.starts.append(trio.current_time())
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            await trio.sleep(0.5)
            if item == self.fails:
                raise ValueError(item)
            await trio.sleep(1000 if item == self.hangs else 0.5)
        finally:
            self.in_flight -= 1
        self.finished[item] += 1
        return str(item)


def four(**options):
    return [Work(**options) for _ in range(4)]


async def raised_by(call):
    """Name what leaves a call: its error, in a group or bare, or nothing."""
    try:
        await call
    except ExceptionGroup as group:
        return f"`ExceptionGroup` of a `{type(group.exceptions[0]).__name__}`"
    except Exception as error:  # noqa: BLE001 - whatever it is
        return f"`{type(error).__name__}`"
    return "nothing"


async def accepted(call):
    return "yes" if await raised_by(call) == "nothing" else "no"


async def most_in_flight():
    hand, meter, free, here = works = four()
    await ways.run_by_hand(hand.do, range(1000), {})
    await ways.run_with_aiometer(meter.do, range(1000))
    await anyio.amap(free.do, range(1000))
    await run_batch(here.do, range(1000), limit=10)
    return [work.peak for work in works]


async def from_source(source):
    work = Work()
    return [
        await accepted(ways.run_by_hand(work.do, source(), {})),
        await accepted(ways.cut_with_aiometer(work.do, source())),
        await accepted(anyio.amap(work.do, source())),
        await accepted(run_batch(work.do, source(), limit=10)),
    ]


async def generator():
    return await from_source(lambda: (item for item in range(20)))


async def async_generator():
    async def items():
        for item in range(20):
            yield item

    return await from_source(items)


async def what_a_failure_raises():
    hand, meter, free, here = four(fails=14)
    return [
        await raised_by(ways.run_by_hand(hand.do, range(20), {})),
        await raised_by(ways.run_with_aiometer(meter.do, range(20))),
        await raised_by(anyio.amap(free.do, range(20))),
        await raised_by(run_batch(here.do, range(20), limit=10)),
    ]


async def results_beside_a_failure():
    hand, meter, free, here = four(fails=14)
    found, of_meter, of_free = {}, [], []
    with suppress(ExceptionGroup):
        await ways.run_by_hand(hand.do, range(20), found)
    with suppress(ValueError):
        of_meter = await ways.run_with_aiometer(meter.do, range(20))
    with suppress(ExceptionGroup):
        of_free = await anyio.amap(free.do, range(20))
    report = await run_batch(here.do, range(20), limit=10)
    return [len(found), len(of_meter), len(of_free), len(report.values())]


async def results_at_a_deadline():
    hand, meter, free, here = four(hangs=14)
    found, of_free = {}, []
    with trio.move_on_after(4):
        await ways.run_by_hand(hand.do, range(20), found)
    of_meter = await ways.cut_with_aiometer(meter.do, range(20))
    with trio.move_on_after(4):
        of_free = await anyio.amap(free.do, range(20))
    report = await run_batch(here.do, range(20), limit=10, timeout=4)
    return [len(found), len(of_meter), len(of_free), len(report.values())]


async def repeated_by_the_next_run():
    works = hand, meter, free, here = four(hangs=14)
    found, batch = {}, Batch(here.do, range(20), limit=10)
    for _ in range(2):
        with trio.move_on_after(4):
            await ways.run_by_hand(hand.do, range(20), found)
        with trio.move_on_after(4):
            await ways.run_with_aiometer(meter.do, range(20))
        with trio.move_on_after(4):
            await anyio.amap(free.do, range(20))
        with trio.move_on_after(4):
            await batch.run()
    return [sum(times - 1 for times in work.finished.values()) for work in works]


def streams():
    hand, meter, free, here = four()
    return {
        hand: ways.stream_by_hand(hand.do, range(100)),
        meter: aiometer.amap(meter.do, range(100), max_at_once=10),
        free: anyio.as_completed(*(free.do(item) for item in range(100))),
        here: stream_batch(here.do, range(100), limit=10),
    }


async def seconds_to_leave_a_stream():
    seconds = []
    for stream in streams().values():
        async with stream as results:
            async for _ in results:
                left = trio.current_time()
                break
        seconds.append(round(trio.current_time() - left))
    return seconds


async def ahead_of_a_busy_consumer():
    ahead = []
    for work, stream in streams().items():
        async with stream as results:
            async for _ in results:
                await trio.sleep(500)
                ahead.append(work.finished.total() - 1)
                break
    return ahead


async def lost_with_a_stream():
    lost = []
    for work, stream in list(streams().items())[:3]:
        with trio.move_on_after(50):
            async with stream as results:
                async for _ in results:
                    await trio.sleep(500)
        lost.append(work.finished.total() - 1)
    work = Work()
    batch = Batch(work.do, range(100), limit=10)
    with trio.move_on_after(50):
        async with batch.stream() as outcomes:
            async for _ in outcomes:
                await trio.sleep(500)
    return [*lost, work.finished.total() - 1 - len(batch.report().values())]


async def started_at_once_at_ten_a_second():
    hand, meter, _, here = works = four()
    await ways.run_by_hand(ways.paced_by_hand(hand.do, 10), range(20), {})
    await ways.pace_with_aiometer(meter.do, range(20))
    await ways.pace_here(here.do, range(20))
    at_once = [sum(start == work.starts[0] for start in work.starts) for work in works]
    return [at_once[0], at_once[1], "no rate", at_once[3]]


MEASURED = {
    "most in flight of 1,000, with a limit of 10": most_in_flight,
    "a generator as the source": generator,
    "an async generator as the source": async_generator,
    "item 14 of 20 fails: the call raises": what_a_failure_raises,
    "… results that the caller gets": results_beside_a_failure,
    "item 14 hangs until a deadline: results that the caller gets": results_at_a_deadline,
    "… finished items that the next run repeats": repeated_by_the_next_run,
    "leaving a stream of 100 at its first result takes, in seconds": seconds_to_leave_a_stream,
    "results ahead of a busy consumer": ahead_of_a_busy_consumer,
    "… finished results lost when it is cancelled": lost_with_a_stream,
    "20 items at 10 per second with a burst of 3: started at once": started_at_once_at_ten_a_second,
}


@pytest.mark.parametrize("row", MEASURED)
def test_a_row_of_the_table_is_what_happens(row):
    cells = trio.run(MEASURED[row], clock=MockClock(autojump_threshold=0))
    assert [str(cell) for cell in cells] == ROWS[row].split(" | ")


def test_no_row_of_the_table_is_without_a_measurement():
    assert ROWS.keys() == MEASURED.keys()
