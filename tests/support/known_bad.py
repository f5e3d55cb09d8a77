"""Programs that lose something when they are cancelled, for the marker to find.

Each is written anew after a report in the tracker of httpcore, trio or anyio, and named by its
number. The comment `# found` stands at the line of the earliest checkpoint at which it fails.
"""

from collections import OrderedDict, deque
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.lowlevel

from nursery_patterns.testing import InFlightGauge

pytestmark = pytest.mark.cancel_everywhere


def at_rest(probe, gauge):
    def check():
        assert gauge.now == 0, f"{gauge.now} still open"

    probe.check(check)


async def test_httpcore_642_a_close_that_awaits_in_a_finally(probe):
    gauge = InFlightGauge()
    at_rest(probe, gauge)
    gauge.__enter__()
    try:
        await trio.sleep(1)  # found
    finally:
        await trio.sleep(0.1)  # says goodbye, and is cancelled
        gauge.__exit__(None, None, None)


async def test_httpcore_658_a_slot_that_is_given_back_only_after_success(probe):
    slots = probe.watch(trio.CapacityLimiter(2))
    await slots.acquire_on_behalf_of("request")
    await trio.sleep(1)  # found
    slots.release_on_behalf_of("request")


async def test_httpcore_785_a_connection_that_is_connecting_for_ever(probe):
    states = {"connection": "new"}
    probe.check(lambda: _settled(states))
    if states["connection"] == "new":
        states["connection"] = "connecting"
        await trio.sleep(1)  # found
        states["connection"] = "connected"


def _settled(states):
    assert "connecting" not in states.values(), "nobody will ever connect it"


async def test_httpcore_830_a_lock_that_outlives_its_request(probe):
    lock = trio.Lock()

    def check():
        assert not lock.locked(), "nobody can send a request any more"

    probe.check(check)
    await lock.acquire()
    with suppress(ValueError):
        await trio.sleep(1)  # found
    lock.release()


async def test_httpcore_961_a_cancelled_request_that_stays_in_the_queue(probe):
    queue = deque()
    probe.check(lambda: _empty(queue))

    async def request(turn):
        queue.append(turn)
        await turn.wait()
        queue.remove(turn)

    turn = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(request, turn)
        await trio.sleep(1)  # found
        turn.set()


def _empty(queue):
    assert not queue, f"{len(queue)} wait for ever"


async def test_httpcore_1093_a_slot_assigned_to_who_has_been_cancelled(probe):
    gauge = InFlightGauge()
    at_rest(probe, gauge)
    waiting = OrderedDict()

    async def request():
        assigned = trio.Event()
        waiting[assigned] = None
        await assigned.wait()
        await trio.lowlevel.checkpoint()  # found
        gauge.__exit__(None, None, None)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(request)
        await trio.testing.wait_all_tasks_blocked()
        gauge.__enter__()  # a connection for it
        waiting.popitem()[0].set()


async def test_httpcore_305_a_retry_that_takes_a_cancel_for_a_failure():
    for _ in range(2):
        try:
            await trio.sleep(1)  # found
        except BaseException:  # noqa: BLE001
            continue


async def test_trio_455_an_exit_of_two_steps(probe):
    gauge = InFlightGauge()
    at_rest(probe, gauge)

    class Resource:
        async def __aenter__(self):
            gauge.__enter__()

        async def __aexit__(self, *_):
            await trio.lowlevel.checkpoint()
            gauge.__exit__(None, None, None)

    async with Resource():
        await trio.sleep(1)  # found


async def test_trio_1389_a_context_manager_whose_clean_up_waits(probe):
    gauge = InFlightGauge()
    at_rest(probe, gauge)

    @asynccontextmanager
    async def session():
        gauge.__enter__()
        try:
            yield
        finally:
            await trio.sleep(1)
            gauge.__exit__(None, None, None)

    async with session():
        await trio.sleep(1)  # found


async def test_trio_638_work_that_nobody_owns():
    stop = trio.Event()
    trio.lowlevel.spawn_system_task(stop.wait)
    await trio.sleep(1)  # found
    stop.set()


async def test_anyio_1170_a_token_given_to_who_is_gone(probe):
    free, waiting = [1], deque()

    def check():
        assert free == [1], "the token is lost"

    probe.check(check)

    async def use():
        if not free:
            event = trio.Event()
            waiting.append(event)
            await event.wait()  # found
        else:
            free.pop()
        try:
            await trio.sleep(1)
        finally:
            if waiting:
                waiting.popleft().set()  # hands it on
            else:
                free.append(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(use)
        nursery.start_soon(use)
