"""A batch over a frontier goes on in another process: nothing is lost, nothing is done twice."""

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from nursery_patterns import Batch, Frontier, FrontierFull, Journal, Status


def run_on_virtual_clock(fn, *args):
    return trio.run(fn, *args, clock=trio.testing.MockClock(autojump_threshold=0))


class Store:
    """What is on the disk: commits of what a journal heard, each whole or not there."""

    def __init__(self):
        self.added, self.started, self.outcomes = [], {}, {}
        self.runs = 0

    def commit(self, added, started, outcomes):
        self.added += added
        self.started |= started
        self.runs += len(outcomes)
        self.outcomes |= outcomes

    @property
    def entries(self):
        return [(item, self.started.get(item)) for item in self.added]


class StoredLater(Journal):
    """Hears of everything, and has it on the disk when `commit` is called."""

    def __init__(self, store):
        self.store = store
        self.heard = ([], {}, {})

    def outcomes(self):
        return list(self.store.outcomes.values())

    def added(self, item):
        self.heard[0].append(item)

    def started(self, index, item):
        self.heard[1][item] = index

    def ended(self, outcome):
        self.heard[2][outcome.index] = outcome

    def commit(self):
        self.store.commit(*self.heard)
        self.heard = ([], {}, {})


def site_of(links):
    """A function over numbered pages that adds those that a page links to, over some time."""

    async def visit(page, frontier, visits):
        visits.append(page)
        for link in links.get(page, ()):
            await trio.sleep(1)
            try:
                frontier.add(link)
            except FrontierFull:
                return page
        await trio.sleep(1)
        return page

    return visit


def batch_over(store, visit, visits, *, limit, **options):
    journal = StoredLater(store)
    frontier = Frontier.restore(store.entries, **options) if store.added else None
    if frontier is None:
        frontier = Frontier([0], **options)

    async def fn(page):
        return await visit(page, frontier, visits)

    return Batch(fn, frontier, limit=limit, journal=journal), journal


PAGES = st.integers(0, 14)
SITES = st.dictionaries(PAGES, st.lists(PAGES, max_size=5), max_size=15)


def reachable(links):
    found, new = set(), [0]
    while new:
        page = new.pop()
        if page not in found:
            found.add(page)
            new += links.get(page, ())
    return found


@given(
    links=SITES,
    limit=st.integers(1, 4),
    kills=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=5),
    by_number=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_whenever_it_is_killed_every_page_has_one_outcome_in_the_end(
    links, limit, kills, by_number
):
    store, visits, visit = Store(), [], site_of(links)
    options = {"priority": float} if by_number else {}

    async def process(committed_at, killed_at):
        """Commit once at a moment, and be killed at a later one: the rest is not on the disk."""
        batch, journal = batch_over(store, visit, visits, limit=limit, **options)
        known = {outcome.index: outcome.item for outcome in batch.report().outcomes}
        assert {i: o.item for i, o in store.outcomes.items()}.items() <= known.items()
        assert sorted(known) == list(range(len(known)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(batch.run)
            await trio.sleep(committed_at)
            journal.commit()
            await trio.sleep(killed_at)
            nursery.cancel_scope.cancel()

    async def last_process():
        batch, journal = batch_over(store, visit, visits, limit=limit, **options)
        report = await batch.run()
        journal.commit()
        return report

    for committed_at, killed_at in kills:
        run_on_virtual_clock(process, committed_at, killed_at)
    report = run_on_virtual_clock(last_process)
    assert report.complete
    assert sorted(report.values()) == sorted(reachable(links))
    assert [o.index for o in report.outcomes] == list(range(len(reachable(links))))
    assert store.runs == len(store.outcomes) == len(reachable(links))  # nothing stored runs again
    assert {o.index: o.item for o in report.outcomes} == {v: k for k, v in store.started.items()}


@given(kill=st.integers(0, 30), limit=st.integers(1, 3), most=st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_its_bound_and_its_order_are_those_of_a_run_without_a_kill(kill, limit, most):
    links = {0: [9, 3, 5, 1], 3: [12, 2], 9: [4], 1: [13, 14], 2: [0, 3]}
    visit = site_of(links)
    options = {"priority": float, "max_items": most}

    async def run(store, seconds, visits):
        batch, journal = batch_over(store, visit, visits, limit=limit, **options)
        with trio.move_on_after(seconds):
            await batch.run()
        journal.commit()
        return batch.report()

    whole, cut = Store(), Store()
    order = []
    expected = run_on_virtual_clock(run, whole, 1_000, order)
    run_on_virtual_clock(run, cut, kill, [])
    before = set(cut.started)
    again = []
    report = run_on_virtual_clock(run, cut, 1_000, again)
    assert len(report.outcomes) <= most
    assert report.complete
    assert len(cut.added) == len(set(cut.added)) == len(expected.outcomes)
    if limit == 1:  # with several in flight, a kill changes what is found first
        assert [o.item for o in report.outcomes] == order
        assert again == [page for page in order if page not in before or page in again]


async def test_a_report_of_a_restored_batch_has_it_all_before_it_runs():
    frontier = Frontier.restore([("a", 0), ("b", 2), ("c", None), ("d", 1), ("e", None)])
    store = Store()

    async def nothing(item):
        await trio.lowlevel.checkpoint()
        return item.upper()

    batch = Batch(nothing, frontier, journal=StoredLater(store))
    assert [(o.index, o.item, o.status) for o in batch.report().outcomes] == [
        (0, "a", Status.NOT_STARTED),
        (1, "d", Status.NOT_STARTED),
        (2, "b", Status.NOT_STARTED),
        (3, "c", Status.NOT_STARTED),
        (4, "e", Status.NOT_STARTED),
    ]
    report = await batch.run()
    assert report.values() == ["A", "D", "B", "C", "E"]


async def test_an_index_that_was_taken_before_its_item_started_is_given_to_what_waits():
    frontier = Frontier.restore([("a", 0), ("b", None), ("c", 2)])
    batch = Batch(trio.sleep, frontier)
    assert [outcome.item for outcome in batch.report().outcomes] == ["a", "b", "c"]
    assert not frontier  # nothing waits in it


@pytest.mark.parametrize(
    ("entries", "kind", "message"),
    [
        ([("a", 0), ("b", 0)], ValueError, "'a' and 'b' both have the index 0"),
        ([("a", 0), ("b", 2)], ValueError, "restore every item that was added"),
        ([(["a"], 0)], TypeError, "cannot be hashed"),
        ([("a",)], TypeError, r"got \('a',\): write Frontier\.restore\(\[\(first, 0\)"),
        (["ab"], TypeError, "got 'ab'"),
        ([("a", -1)], TypeError, "at least 0, or None"),
        (None, TypeError, "must be an iterable"),
        (
            [("a", None)] * 3 + [(str(n), None) for n in range(3)],
            FrontierFull,
            "3 items were added",
        ),
    ],
)
def test_entries_that_do_not_fit_are_refused(entries, kind, message):
    with pytest.raises(kind, match=message):
        Frontier.restore(entries, max_items=3)


def test_a_journal_of_items_that_never_started_is_refused():
    store = Store()
    store.commit(["a"], {"a": 0}, {3: _ended(3)})
    with pytest.raises(ValueError, match="make the frontier with"):
        Batch(trio.sleep, Frontier(["a"]), journal=StoredLater(store))


def _ended(index):
    async def fail(_):
        await trio.lowlevel.checkpoint()
        raise ValueError

    async def run():
        return (await Batch(fail, [0] * (index + 1)).run()).outcomes[index]

    return trio.run(run)


async def test_a_journal_that_raises_keeps_an_item_out():
    class Full(StoredLater):
        def added(self, item):
            if item == "b":
                raise OSError("no space left")

    async def visit(item):
        await trio.lowlevel.checkpoint()
        with pytest.raises(OSError, match="no space"):
            frontier.add("b")
        return frontier.add("c") if item == "a" else None

    frontier = Frontier(["a"])
    report = await Batch(visit, frontier, journal=Full(Store())).run()
    assert [outcome.item for outcome in report.outcomes] == ["a", "c"]


async def test_the_keys_of_restored_items_were_seen_whether_or_not_they_started():
    frontier = Frontier.restore([("a1", 0), ("b1", None)], key=lambda item: item[0])
    added = {}

    async def add_all(item):
        for other in ("a2", "b2", "c2"):
            added.setdefault(other, frontier.add(other))
        await trio.lowlevel.checkpoint()

    report = await Batch(add_all, frontier).run()
    assert added == {"a2": False, "b2": False, "c2": True}
    assert [outcome.item for outcome in report.outcomes] == ["a1", "b1", "c2"]
