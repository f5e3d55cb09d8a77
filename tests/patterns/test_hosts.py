"""The contract holds wherever trio runs: as a guest of asyncio, under anyio, in a loose run."""

import asyncio  # noqa: TID251 - the host of a guest run
import inspect
from functools import partial
from itertools import product
from random import Random

import anyio  # noqa: TID251 - its trio backend
import pytest
import trio
from trio.testing import MockClock

from nursery_patterns import Batch, Frontier, Retry, Status, TokenBucket, run_batch, stream_batch
from tests.patterns import test_contracts

SOON = 0.01


def in_trio(runs, **options):
    for fn, clock in runs:
        trio.run(fn, clock=clock, **options)


def in_a_loose_run(runs):
    in_trio(runs, strict_exception_groups=False)


def under_anyio(runs):
    for fn, clock in runs:
        anyio.run(fn, backend="trio", backend_options={"clock": clock})


def as_guest_of_asyncio(runs, loop_factory=None, **options):
    async def host():
        loop = asyncio.get_running_loop()
        for fn, clock in runs:
            done = loop.create_future()
            trio.lowlevel.start_guest_run(
                fn,
                clock=clock,
                run_sync_soon_threadsafe=loop.call_soon_threadsafe,
                run_sync_soon_not_threadsafe=loop.call_soon,
                host_uses_signal_set_wakeup_fd=True,
                done_callback=done.set_result,
                **options,
            )
            (await done).unwrap()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(host())


def as_loose_guest_of_asyncio(runs):
    as_guest_of_asyncio(runs, strict_exception_groups=False)


def as_guest_of_uvloop(runs):
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")
    as_guest_of_asyncio(runs, uvloop.new_event_loop)


HOSTS = [
    in_trio,
    in_a_loose_run,
    under_anyio,
    as_guest_of_asyncio,
    as_loose_guest_of_asyncio,
    as_guest_of_uvloop,
]
every_host = pytest.mark.parametrize("host", HOSTS)
loose_runs_are_deprecated = pytest.mark.filterwarnings("ignore:.*strict_exception_groups=False")


async def work(item):
    await trio.sleep(SOON if item % 2 else 0)
    if item == 3:
        raise ValueError(item)
    return item


async def numbers(n):
    for i in range(n):
        await trio.lowlevel.checkpoint()
        yield i


async def every_item_has_one_outcome():
    for items in (range(20), iter(range(20)), numbers(20)):
        report = await run_batch(work, items, limit=4, bucket=TokenBucket(1e6, 100))
        assert report.complete
        assert [o.index for o in report.outcomes] == list(range(20))
        assert report.counts.failed == 1


async def streams_give_all():
    async with stream_batch(work, range(20), limit=4) as outcomes:
        assert sorted([o.index async for o in outcomes]) == list(range(20))
    async with stream_batch(work, numbers(20), limit=4, ordered=True) as outcomes:
        assert [o.index async for o in outcomes] == list(range(20))


async def a_failure_leaves_as_a_group_of_depth_one():
    batch = Batch(work, range(9), limit=2, on_error="cancel")
    with pytest.RaisesGroup(ValueError):
        await batch.run()
    with pytest.RaisesGroup(ValueError):
        async with Batch(work, [1, 3], on_error="cancel").stream() as outcomes:
            async for _ in outcomes:
                pass
    assert (await batch.run()).counts.succeeded == 8


async def a_cut_batch_keeps_what_finished_and_goes_on():
    async def fn(item):
        if item == 5 and not go_on.is_set():
            scope.cancel()
        await trio.sleep(SOON)
        return item

    go_on = trio.Event()
    batch = Batch(fn, range(10), limit=2)
    with trio.CancelScope() as scope:
        await batch.run()
    assert scope.cancelled_caught
    assert 0 < batch.report().counts.succeeded < 10
    go_on.set()
    assert (await batch.run()).values() == list(range(10))


async def a_deadline_is_kept():
    report = await run_batch(trio.sleep, [0, 3600], timeout=5 * SOON)
    assert [o.status for o in report.outcomes] == [Status.SUCCEEDED, Status.CANCELLED]


async def policies_work():
    failed = set()

    async def fn(item):
        await trio.lowlevel.checkpoint()
        if item < 5:
            frontier.add(item + 1)
        if item not in failed:
            failed.add(item)
            raise ConnectionError
        return item

    frontier = Frontier([0])
    retry = Retry(attempts=2, initial=0, budget=None)
    report = await run_batch(fn, frontier, retry=retry, key=lambda i: i % 2, limit_per_key=1)
    assert sorted(report.values()) == [0, 1, 2, 3, 4, 5]


SCENARIOS = [
    every_item_has_one_outcome,
    streams_give_all,
    a_failure_leaves_as_a_group_of_depth_one,
    a_cut_batch_keeps_what_finished_and_goes_on,
    a_deadline_is_kept,
    policies_work,
]


@loose_runs_are_deprecated
@every_host
@pytest.mark.parametrize("contract", SCENARIOS)
def test_the_contract_holds(host, contract):
    host([(contract, None)])


def contracts():
    """Return the tests of the contract suite that run in the run of a host."""
    of_runs_of_their_own = {test_contracts.test_a_loose_trio_run_changes_nothing_about_the_group}
    named = [fn for name, fn in vars(test_contracts).items() if name.startswith("test_")]
    return [fn for fn in named if fn not in of_runs_of_their_own]


def cases_of(contract):
    """Return the runs of a contract: one for each set of its parameters, on a clock of its own."""
    marks = getattr(contract, "pytestmark", [])
    tables = [mark.args for mark in marks if mark.name == "parametrize"]
    assert not any("," in names for names, _ in tables)
    on_a_clock = "autojump_clock" in inspect.signature(contract).parameters
    for values in product(*(values for _, values in tables)):
        arguments = dict(zip((name for name, _ in tables), values, strict=True))
        clock = MockClock(autojump_threshold=0) if on_a_clock else None
        if on_a_clock:
            arguments["autojump_clock"] = clock
        yield partial(contract, **arguments), clock


# In trio itself the contract suite runs as it is. A case of a contract runs in one of the others,
# in turn, so that each of them sees every contract, and all of them together see every case.
OTHERS = HOSTS[1:]


@loose_runs_are_deprecated
@pytest.mark.parametrize("contract", contracts())
@pytest.mark.parametrize("host", OTHERS)
def test_the_contract_suite_passes(host, contract):
    cases = list(cases_of(contract))
    Random(contract.__name__).shuffle(cases)  # else one host would see one kind of source alone
    first = OTHERS.index(host)
    host(cases[first :: len(OTHERS)] or cases[:1])


@pytest.mark.parametrize("call", ["run_batch", "stream_batch", "Batch"])
def test_outside_of_trio_the_message_says_how_to_run_it(call):
    async def main():
        if call == "run_batch":
            await run_batch(work, [1])
        elif call == "Batch":
            await Batch(work, [1]).run()
        else:
            async with stream_batch(work, [1]):
                pass

    with pytest.raises(RuntimeError, match=rf"^{call}.* needs a trio run.*trio\.run\(main\)"):
        asyncio.run(main())
