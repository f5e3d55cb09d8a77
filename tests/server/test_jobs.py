"""Background work of a server, which no connection owns."""

import trio
from trio.testing import wait_all_tasks_blocked

from trio_tools.live.jobs import Jobs


async def test_the_same_job_may_be_started_again_before_it_has_ended(autojump_clock):
    ended = []

    async def job():
        await trio.sleep(1)
        ended.append(trio.current_time())

    jobs = Jobs()
    began = trio.current_time()
    async with jobs.opened():
        for _ in range(3):
            assert jobs.start(job)
            await trio.sleep(0.25)
        await trio.sleep(2)
    assert ended == [began + 1, began + 1.25, began + 1.5]
    assert not jobs.start(job)


async def test_a_job_whose_connection_ends_is_called_again_in_another_one(autojump_clock):
    begun = []

    async def job():
        begun.append(trio.current_time())
        await trio.sleep(2)

    jobs = Jobs()
    second = trio.Event()

    async def other():
        async with jobs.opened():
            await second.wait()

    async with trio.open_nursery() as nursery:
        async with jobs.opened():
            assert jobs.start(job)
            assert jobs.start(job)
            nursery.start_soon(other)
            await wait_all_tasks_blocked()
            await trio.sleep(1)
        await trio.sleep(1)
        assert begun == [begun[0]] * 2 + [begun[0] + 1] * 2
        second.set()
