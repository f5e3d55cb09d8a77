"""A batch over the values of another one: back-pressure and one cancel from end to end."""

import pytest
import trio

from nursery_patterns import Batch, run_batch, stream_batch
from nursery_patterns.testing import cancel_at_every_checkpoint


async def download(n):
    await trio.sleep(1)
    if n % 5 == 3:
        raise ConnectionError(n)
    return f"page {n}"


async def parse(page):
    await trio.sleep(2)
    if page == "page 7":
        raise ValueError(page)
    return page.upper()


async def test_each_stage_has_its_failures_in_its_own_report(autojump_clock):
    async with stream_batch(download, range(10), limit=4) as pages:
        report = await run_batch(parse, pages.values(), limit=4)
    assert sorted(report.values()) == [f"PAGE {n}" for n in (0, 1, 2, 4, 5, 6, 9)]
    assert [str(error) for error in report.errors()] == ["page 7"]
    first = pages.batch.report()
    assert [str(error) for error in first.errors()] == ["3", "8"]
    assert first.complete
    assert first.counts.succeeded == 8
    assert len(first.outcomes) == 2


async def test_a_slow_stage_slows_the_one_before(autojump_clock):
    downloaded = 0

    async def quick(n):
        nonlocal downloaded
        downloaded += 1
        return n

    async def slow(n):
        await trio.sleep(1)

    with trio.move_on_after(4.5):
        async with stream_batch(quick, range(1_000), limit=3) as pages:
            await run_batch(slow, pages.values(), limit=2)
    assert 5 * 2 <= downloaded <= 5 * 2 + 3 + 2


async def test_a_cancelled_pipeline_is_resumed(autojump_clock):
    first = Batch(download, range(10), limit=2)
    done = []
    for _ in range(2):
        with trio.move_on_after(4.5):
            async with first.stream() as pages:
                second = Batch(parse, pages.values(), limit=2)
                await second.run()
        done += [o.item for o in second.report().outcomes]
    while not first.report().complete:
        async with first.stream() as pages:
            done += [o.item for o in (await run_batch(parse, pages.values())).outcomes]
    assert sorted(done) == [f"page {n}" for n in (0, 1, 2, 4, 5, 6, 7, 9)]


@pytest.mark.parametrize("ordered", [True, False])
def test_wherever_it_is_cut_it_unwinds_as_one(ordered):
    async def scenario(probe):
        first = Batch(download, range(5), limit=2)
        async with first.stream(ordered=ordered) as pages:
            await probe.watch(Batch(parse, pages.values(), limit=2)).run()
        assert [str(error) for error in first.report().errors()] == ["3"]

    cancel_at_every_checkpoint(scenario)
