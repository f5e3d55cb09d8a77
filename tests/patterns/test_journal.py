"""What an observer is told, in which order, and how a journal makes a batch go on where it was."""

import pytest
import trio

from nursery_patterns import Batch, Counts, Journal, Observer, Outcome, Status, run_batch
from nursery_patterns.testing import cancel_at_every_checkpoint
from tests.support.policies import AsyncItems, IteratorItems, SizedItems

SOURCES = pytest.mark.parametrize("source", [SizedItems, IteratorItems, AsyncItems])


class Log(Observer):
    def __init__(self):
        self.events = []

    def started(self, index, item):
        self.events.append(("started", index, item))

    def ended(self, outcome):
        self.events.append(("ended", outcome.index, outcome.status.value))

    def cut(self, index, item):
        self.events.append(("cut", index, item))

    def waiting(self, index, item, *, reason):
        self.events.append(("waiting", index, reason))


class Memory(Journal):
    """A journal that keeps everything in a dict, and counts what is in flight."""

    def __init__(self, kept=None):
        self.kept = {} if kept is None else kept
        self.in_flight = set()
        self.waits = 0

    def outcomes(self):
        return list(self.kept.values())

    def started(self, index, item):
        self.in_flight.add(index)

    def ended(self, outcome):
        self.kept[outcome.index] = outcome
        self.in_flight.discard(outcome.index)

    def cut(self, index, item):
        self.in_flight.discard(index)

    async def ready(self):
        self.waits += 1


async def double(item):
    await trio.sleep(1)
    if item == 3:
        raise ValueError(item)
    return 2 * item


@SOURCES
async def test_an_observer_is_told_of_every_start_and_end_in_order(autojump_clock, source):
    log = Log()
    await run_batch(double, source(4), limit=2, observer=log)
    assert [e for e in log.events if e[0] == "started"] == [("started", i, i) for i in range(4)]
    assert sorted(e for e in log.events if e[0] == "ended") == [
        ("ended", 0, "succeeded"),
        ("ended", 1, "succeeded"),
        ("ended", 2, "succeeded"),
        ("ended", 3, "failed"),
    ]
    for index in range(4):
        assert [e[0] for e in log.events if e[1] == index] == ["started", "ended"]


async def test_an_observer_is_told_what_is_cut_and_what_waits(autojump_clock):
    log = Log()
    limiter = trio.CapacityLimiter(1)
    with trio.move_on_after(1.5):
        await Batch(double, range(3), limiter=limiter, observer=log).run()
    assert log.events == [
        ("started", 0, 0),
        ("waiting", 1, "limiter"),
        ("ended", 0, "succeeded"),
        ("started", 1, 1),
        ("waiting", 2, "limiter"),
        ("cut", 1, 1),
    ]


async def test_an_object_with_only_some_of_the_methods_is_told_those(autojump_clock):
    class Counter:
        ended_items = 0

        def ended(self, outcome):
            self.ended_items += 1

    counter = Counter()
    await run_batch(double, range(5), observer=counter)
    assert counter.ended_items == 5


@SOURCES
@pytest.mark.parametrize("retain", [True, False])
async def test_a_batch_goes_on_where_its_journal_ends(autojump_clock, source, retain):
    kept = {i: Outcome(i, None, Status.SUCCEEDED, f"kept {i}", None, 0.5) for i in (0, 2, 5)}
    runs = []

    async def fn(item):
        runs.append(item)
        await trio.sleep(1)
        return item

    batch = Batch(fn, source(7), limit=2, journal=Memory(kept))
    before = batch.report()
    assert [o.value for o in before.outcomes if o.succeeded] == ["kept 0", "kept 2", "kept 5"]
    assert before.counts.succeeded == 3
    if retain:
        report = await batch.run()
        assert report.values() == ["kept 0", 1, "kept 2", 3, 4, "kept 5", 6]
        assert [o.item for o in report.outcomes] == list(range(7))
    else:
        async with batch.stream(ordered=True) as outcomes:
            assert [o.value async for o in outcomes] == [1, 3, 4, 6]
    assert batch.report().complete
    assert batch.report().counts == Counts(total=7, succeeded=7)
    assert runs == [1, 3, 4, 6]


async def test_a_journal_that_has_all_leaves_nothing_to_run(autojump_clock):
    kept = {i: Outcome(i, i, Status.SUCCEEDED, i) for i in range(1_000)}

    async def never(item):
        raise AssertionError

    report = await run_batch(never, range(1_000), journal=Memory(kept))
    assert report.complete
    assert report.values() == list(range(1_000))


async def test_a_journal_makes_the_batch_wait_before_the_next_start(autojump_clock):
    class Slow(Memory):
        async def ready(self):
            await super().ready()
            while len(self.kept) + len(self.in_flight) >= self.room:  # noqa: ASYNC110
                await trio.sleep(1)

        room = 2

    journal = Slow()
    limiter = trio.CapacityLimiter(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Batch(double, range(3), limit=3, limiter=limiter, journal=journal).run)
        await trio.sleep(10.5)
        assert sorted(journal.kept) == [0, 1]
        assert limiter.borrowed_tokens == 0
        journal.room = 10
    assert sorted(journal.kept) == [0, 1, 2]
    assert trio.current_time() == 12


class Pacing(Memory):
    """A journal that is behind again after each outcome, for a second."""

    def behind(self):
        return len(self.kept) > self.waits

    async def ready(self):
        await super().ready()
        await trio.sleep(1)


class Queue(Memory):
    """A journal that holds up starts while `room` outcomes or more are in its queue."""

    def __init__(self, kept=None, room=3):
        super().__init__(kept)
        self.queue = []
        self.room = room

    def ended(self, outcome):
        super().ended(outcome)
        self.queue.append(outcome)

    def behind(self):
        return len(self.queue) >= self.room

    async def ready(self):
        await super().ready()
        while self.behind():  # noqa: ASYNC110
            await trio.sleep(1)


@SOURCES
@pytest.mark.parametrize("limit", [1, 2])
async def test_a_journal_that_tells_when_it_is_behind_is_awaited_only_then(
    autojump_clock, source, limit
):
    journal, log, limiter = Queue(), Log(), trio.CapacityLimiter(5)
    async with trio.open_nursery() as nursery:
        batch = Batch(
            double, source(8), limit=limit, limiter=limiter, journal=journal, observer=log
        )
        nursery.start_soon(batch.run)
        await trio.sleep(20.5)
        ended = len(journal.queue)
        assert 3 <= ended < 3 + limit  # as many as were in flight may still come
        assert journal.waits == 1
        assert limiter.borrowed_tokens == 0
        journal.queue.clear()
        await trio.sleep(20)
        assert journal.waits == 2
        journal.room = 100
    assert batch.counts == Counts(total=8, succeeded=7, failed=1)
    assert journal.waits == 2
    assert [event for event in log.events if event[0] == "started"] == [
        ("started", i, i) for i in range(8)
    ]


async def test_after_a_journal_was_behind_workers_run_at_once_again(autojump_clock):
    async def one_checkpoint(item):
        await trio.lowlevel.checkpoint()
        turns.append(trio.lowlevel.current_statistics().tasks_runnable)

    turns = []
    journal = Queue(room=50)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Batch(one_checkpoint, range(500), limit=10, journal=journal).run)
        await trio.sleep(0.5)
        journal.room = 10_000
        turns.clear()
    assert len(turns) > 400
    assert max(turns) >= 8  # one item at a time would leave one task or two that can run
    assert journal.waits == 1


def test_a_journal_that_is_never_behind_need_not_be_ready(autojump_clock):
    class Behind(Journal):
        def behind(self):
            raise AssertionError

    trio.run(lambda: run_batch(double, range(2), journal=Behind()), clock=autojump_clock)


async def test_counts_are_those_of_the_report(autojump_clock):
    batch = Batch(double, range(3), limit=2)
    assert batch.counts == Counts(total=3, not_started=3)
    with trio.move_on_after(1.5):
        await batch.run()
    assert batch.counts == batch.report().counts == Counts(total=3, succeeded=2, cancelled=1)


@pytest.mark.parametrize("method", ["started", "ended", "cut", "waiting", "ready", "behind"])
@SOURCES
async def test_a_method_that_raises_ends_the_run_and_loses_nothing(autojump_clock, source, method):
    class Bad(Memory):
        broken = True

    def fail(self, *args, **kwargs):
        if self.broken and self.kept:
            raise OSError("the disk is full")
        return getattr(Memory, method)(self, *args, **kwargs)

    async def fail_later(self):
        await fail(self)

    setattr(Bad, method, fail_later if method == "ready" else fail)
    journal = Bad({0: Outcome(0, 0, Status.SUCCEEDED, 0)})
    limiter = trio.CapacityLimiter(1)
    batch = Batch(double, source(3), limiter=limiter, journal=journal)
    with pytest.RaisesGroup(OSError):
        with trio.fail_after(1.5):
            await batch.run()
    report = batch.report()
    assert report.counts.in_flight == 0
    done = report.counts.done
    assert done == (2 if method == "ended" else 1) or method == "cut"
    journal.broken = False
    report = await batch.run()
    assert report.values() == [0, 2, 4]
    assert limiter.borrowed_tokens == 0


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (Outcome(0, 0, Status.CANCELLED), "the journal has item 0 as cancelled: leave it out"),
        (Outcome(0, 0, Status.NOT_STARTED), "the journal has item 0 as not_started"),
        (Outcome(3, 3, Status.SUCCEEDED, 1), "an outcome of item 3, and there are 3 items"),
        (Outcome(-1, 3, Status.SUCCEEDED, 1), "an outcome of item -1"),
    ],
)
def test_a_journal_of_something_else_is_refused(outcome, message):
    with pytest.raises(ValueError, match=message):
        Batch(double, range(3), journal=Memory({outcome.index: outcome}))


@pytest.mark.parametrize("source", [SizedItems, AsyncItems])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", [Memory, Pacing])
def test_wherever_it_is_cut_what_was_told_is_what_there_is(source, stream, kind):
    kept = {}

    async def scenario(probe):
        kept.clear()
        kept[1] = Outcome(1, None, Status.SUCCEEDED, 1)
        probe.kept["journal"] = journal = kind(kept)
        batch = Batch(quick, source(4), limit=2, journal=journal)
        if not stream:
            probe.watch(batch)
            await batch.run()
        else:
            async with batch.stream(retain=True) as outcomes:
                async for _ in outcomes:
                    pass

    async def after(probe):
        journal = probe.kept["journal"]
        assert not journal.in_flight
        again = probe.watch(Batch(quick, source(4), limit=2, journal=Memory(kept)))
        report = await again.run()
        assert report.values() == [0, 1, 2, 3]

    async def quick(item):
        await trio.sleep(1)
        return item

    cancel_at_every_checkpoint(scenario, after=after)


@pytest.mark.parametrize("role", ["observer", "journal"])
def test_an_object_with_none_of_the_methods_is_refused(role):
    message = f"{role} must be an object with methods such as `ended.*got 42: inherit from"
    with pytest.raises(TypeError, match=message):
        Batch(double, [1], **{role: 42})
