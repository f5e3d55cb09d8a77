"""The contract holds wherever trio runs: as a guest of asyncio, under anyio, in a loose run."""

import asyncio  # noqa: TID251 - the host of a guest run
import importlib.util

import anyio  # noqa: TID251 - its trio backend
import pytest
import trio

from nursery_patterns import Batch, Frontier, Retry, Status, TokenBucket, run_batch, stream_batch

SOON = 0.01


def in_trio(fn):
    return trio.run(fn)


def in_a_loose_run(fn):
    return trio.run(fn, strict_exception_groups=False)


def under_anyio(fn):
    return anyio.run(fn, backend="trio")


def as_guest_of_asyncio(fn, **options):
    async def host():
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        trio.lowlevel.start_guest_run(
            fn,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            run_sync_soon_not_threadsafe=loop.call_soon,
            host_uses_signal_set_wakeup_fd=True,
            done_callback=done.set_result,
            **options,
        )
        return (await done).unwrap()

    return asyncio.run(host())


def as_loose_guest_of_asyncio(fn):
    return as_guest_of_asyncio(fn, strict_exception_groups=False)


def as_guest_of_uvloop(fn):
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

        async def host():
            loop = asyncio.get_running_loop()
            done = loop.create_future()
            trio.lowlevel.start_guest_run(
                fn,
                run_sync_soon_threadsafe=loop.call_soon_threadsafe,
                done_callback=done.set_result,
                host_uses_signal_set_wakeup_fd=True,
            )
            return (await done).unwrap()

        return runner.run(host())


HOSTS = [
    in_trio,
    in_a_loose_run,
    under_anyio,
    as_guest_of_asyncio,
    as_loose_guest_of_asyncio,
    as_guest_of_uvloop,
]


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


CONTRACT = [
    every_item_has_one_outcome,
    streams_give_all,
    a_failure_leaves_as_a_group_of_depth_one,
    a_cut_batch_keeps_what_finished_and_goes_on,
    a_deadline_is_kept,
    policies_work,
]


@pytest.mark.filterwarnings("ignore:.*strict_exception_groups=False")
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("contract", CONTRACT)
def test_the_contract_holds(host, contract):
    if host is as_guest_of_uvloop and importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")
    host(contract)


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
