"""The policy of a call that does work: its place in the status, its queue, its cancellation.

Both use blocks: a call runs while the block of its nursery is open, and holds a slot of its queue
while the block of the slot is open.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from nursery_patterns import Admission, AdmissionStatistics
from trio_tools.answers.errors import ServerOverloaded
from trio_tools.live.calls import RunningCall
from trio_tools.live.state import ServerState
from trio_tools.server.policy.access_log import record_wait
from trio_tools.settings.groups.clients import ClientSettings

_log = logging.getLogger("trio_tools")

_LEAST_RETRY_SECONDS = 0.01


@asynccontextmanager
async def tracked(state: ServerState, running: RunningCall) -> AsyncGenerator[None]:
    """Show the call in the status until all its tasks have ended.

    Inside the block its failures become answers. A failure that left the block together with a
    cancel would be in a group, which no caller could handle.
    """
    state.calls[running.request_id] = running
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_notice_departure, running)
            yield
            # The watcher ends by this event and not by a cancel, which would nearly double its
            # cost.
            running.answered.set()
    except* Exception as errors:  # noqa: BLE001 - of any kind
        # Only together with a cancel, which continues: the tool's nursery failed while it was
        # cancelled.
        _log.debug("a call that was cancelled has failed too", exc_info=errors)
    finally:
        del state.calls[running.request_id]
        if running.admitted and running.answered.is_set():
            state.durations[running.tool].add(trio.current_time() - running.started)


@asynccontextmanager
async def turn(
    queue: Admission,
    share: trio.CapacityLimiter,
    client_id: str,
    seconds: float,
    *,
    timed: bool,
    client: ClientSettings,
) -> AsyncGenerator[None]:
    """Hold a slot of the queue; wait for it within the time of the call.

    Args:
        queue: The queue.
        share: The client's share of the slots; a client waits in it for its own calls.
        client_id: The client.
        seconds: Longest wait.
        timed: Whether the caller can allow more time.
        client: Its weight and its priority.

    Raises:
        Overloaded: The queue is full.
        ServerOverloaded: The calls before it are expected to take longer than its time, or its
            time expired in the queue.
    """
    statistics = queue.statistics()
    _refuse_if_too_late(statistics, seconds, timed=timed)
    if share.available_tokens < 1 and share.statistics().tasks_waiting >= statistics.max_waiting:
        usual = statistics.mean_hold or 1.0
        raise ServerOverloaded(
            f"{share.borrowed_tokens} calls of this client are at work and {queue.max_waiting} "
            "wait already: call again later.",
            data={"retry_after_seconds": round(max(usual, _LEAST_RETRY_SECONDS), 3)},
        )
    asked = trio.current_time()
    with trio.move_on_after(seconds) as patience:
        async with (
            share,
            queue.slot(key=client_id, weight=client.weight, priority=client.priority),
        ):
            patience.deadline = math.inf  # it has a slot
            record_wait(trio.current_time() - asked)
            yield
    if patience.cancelled_caught:
        usual = queue.statistics().mean_hold or 1.0
        raise ServerOverloaded(
            f"This call did not get its turn within {seconds:g} s: call again later"
            f"{', or allow more with timeout_seconds' if timed else ''}.",
            data={"retry_after_seconds": round(max(usual, _LEAST_RETRY_SECONDS), 3)},
        )


def _refuse_if_too_late(queue: AdmissionStatistics, seconds: float, *, timed: bool) -> None:
    """Refuse a call at once that would not get a slot in time, according to recent calls.

    Without recent calls, and during a pause, it may wait.
    """
    expected = queue.expected_wait
    if expected > seconds:
        raise ServerOverloaded(
            f"{queue.waiting} calls wait already, and this one is expected to wait "
            f"{expected:.3g} s for its turn, longer than the {seconds:g} s it has: call again in "
            f"{expected - seconds:.3g} s{', or allow more with timeout_seconds' if timed else ''}.",
            data={
                "expected_wait_seconds": round(expected, 3),
                "retry_after_seconds": round(max(expected - seconds, _LEAST_RETRY_SECONDS), 3),
            },
        )


async def _notice_departure(running: RunningCall) -> None:
    try:
        await running.answered.wait()
    finally:
        running.departed = not running.answered.is_set()
