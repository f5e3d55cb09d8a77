"""Nothing starts once a cancel or a deadline has come, whatever the items do."""

import pytest
import trio

from nursery_patterns import Batch, TokenBucket, run_batch, stream_batch
from tests.support.policies import AsyncItems, SizedItems

SOURCES = pytest.mark.parametrize("source", [SizedItems, AsyncItems])


async def take_all(fn, items, *, timeout, **options):
    with trio.move_on_after(timeout):
        async with stream_batch(fn, items, **options) as outcomes:
            async for _ in outcomes:
                pass


WAYS = pytest.mark.parametrize("way", [run_batch, take_all])


@SOURCES
@WAYS
async def test_items_that_are_shielded_end_and_no_others_start(autojump_clock, way, source):
    started = []

    async def commit(item):
        started.append(trio.current_time())
        with trio.CancelScope(shield=True):
            await trio.sleep(0.1)

    await way(commit, source(100), limit=3, timeout=0.05)
    assert started == [0, 0, 0]
    assert trio.current_time() == 0.1


@SOURCES
@WAYS
async def test_items_that_block_do_not_hide_the_deadline(mock_clock, way, source):
    started = []

    async def block(item):
        started.append(trio.current_time())
        mock_clock.jump(0.02)  # as time does while an item blocks

    await way(block, source(1_000), limit=2, timeout=0.05)
    assert started == [0, 0.02, 0.04]


@pytest.mark.parametrize(
    "options", [dict, lambda: {"bucket": TokenBucket(1e6, 1_000)}, lambda: {"limit": 1}]
)
@SOURCES
async def test_an_item_that_cancels_without_a_checkpoint_is_the_last_one(source, options):
    started = []

    async def fn(item):
        started.append(item)
        if item == 7:
            scope.cancel()

    with trio.CancelScope() as scope:
        await Batch(fn, source(1_000), **options()).run()
    assert started == list(range(8))


async def test_a_consumer_that_cancels_is_followed_by_no_start(autojump_clock):
    started = []

    async def fn(item):
        started.append(item)
        await trio.sleep(1)

    with trio.CancelScope() as scope:
        async with stream_batch(fn, range(100), limit=4) as outcomes:
            async for _ in outcomes:
                scope.cancel()
    assert started == [0, 1, 2, 3]
