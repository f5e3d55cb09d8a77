"""The protocol of an item is the table in docs/engine.md: its events happen, and no others."""

import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import trio

from nursery_patterns import Batch, Observer, Retry, TokenBucket

PAGE = Path(__file__).parents[2] / "docs" / "engine.md"
ROW = re.compile(r"^\| ([a-z_]+) \| `([a-z]+)` \| ([a-z_]+(?:, [a-z_]+)*) \|$", re.MULTILINE)
TABLE = {
    (state, event): next_states.split(", ")
    for state, event, next_states in ROW.findall(PAGE.read_text("utf-8"))
}

OPTIONS = {
    "plain": dict,
    "with a retry": lambda: {"retry": Retry(attempts=3, initial=1, jitter=0)},
    "with a bucket": lambda: {"bucket": TokenBucket(1, 2)},
    "with a limit per key": lambda: {"key": lambda i: i % 2, "limit_per_key": 1},
    "with a shared limiter": lambda: {"limiter": trio.CapacityLimiter(1)},
    "with a timeout": lambda: {"item_timeout": 2},
    "until the first failure": lambda: {"on_error": "cancel"},
}


class Machine(Observer):
    """One machine per item: an event that the table does not have is an error."""

    def __init__(self):
        self.states = defaultdict(lambda: "not_started")
        self.before_waiting = {}
        self.used = Counter()

    def _event(self, index, event, status=None):
        before = self.states[index]
        allowed = TABLE[before, event]  # KeyError: the protocol does not have this event here
        after = status or allowed[0]
        assert after in allowed
        if event == "waiting" and before != "waiting":
            self.before_waiting[index] = before
        self.states[index] = after
        self.used[before, event, after] += 1

    def waiting(self, index, item, *, reason):
        self._event(index, "waiting")

    def started(self, index, item):
        self._event(index, "started")

    def retried(self, index, item, *, attempt, error, delay):
        self._event(index, "retried")

    def ended(self, outcome):
        self._event(outcome.index, "ended", str(outcome.status))

    def cut(self, index, item):
        self._event(index, "cut")

    def run_ended(self):
        """An item that still waits returns to its state of before, without an event."""
        for index, state in self.states.items():
            if state == "waiting":
                self.states[index] = self.before_waiting[index]


async def run_in_pieces(options, piece_seconds):
    """Run a batch, cancel it every so many seconds, and compare each report with the machines."""

    async def fn(i):
        await trio.sleep(i % 4)
        if i % 3 == 0:
            raise ValueError(i)

    machine = Machine()
    batch = Batch(fn, range(12), limit=3, observer=machine, **options)
    while not batch.report().complete:
        with trio.move_on_after(piece_seconds):
            try:
                await batch.run()
            except* ValueError:
                pass  # on_error="cancel"
        machine.run_ended()
        for outcome in batch.report().outcomes:
            assert machine.states[outcome.index] == outcome.status
        piece_seconds += 1  # so that each item gets to its end
    return machine.used


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("piece_seconds", [1, 2.5, 7])
async def test_only_what_the_table_has_happens_to_an_item(options, piece_seconds, autojump_clock):
    await run_in_pieces(options(), piece_seconds)


async def test_all_that_the_table_has_happens(autojump_clock):
    used = Counter()
    for options in OPTIONS.values():
        for piece_seconds in (1, 2.5, 7):
            used += await run_in_pieces(options(), piece_seconds)
    assert {
        (state, event, after) for (state, event), each in TABLE.items() for after in each
    } == set(used)
