"""Named limiters: made on demand, resized while in use, looked at while in use."""

import math
from functools import partial

import pytest
import trio
import trio.testing

from nursery_patterns import CombinedLimiter, Limits, LimitSnapshot, run_batch


async def hold(limiter, seconds):
    async with limiter:
        await trio.sleep(seconds)


async def test_a_limit_bounds_its_holders_and_counts_them(autojump_clock):
    limits = Limits({"fetch": 2})
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(hold, limits["fetch"], 10)
        await trio.sleep(5)
        assert limits.snapshot() == {"fetch": LimitSnapshot(2, 2, 3, 2, 0, 2)}
        await trio.sleep(10)
        assert limits.snapshot() == {"fetch": LimitSnapshot(2, 2, 1, 4, 2, 2)}
    assert limits.snapshot() == {"fetch": LimitSnapshot(2, 0, 0, 5, 5, 2)}


async def test_a_snapshot_adds_up_even_in_the_instant_of_a_resize(autojump_clock):
    limits = Limits({"a": 1})
    limits.resize("a", 0)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(hold, limits["a"], 1)
        await trio.testing.wait_all_tasks_blocked()
        limits.resize("a", 5)  # granted, and none of them has run yet
        assert limits.snapshot()["a"] == LimitSnapshot(5, 5, 0, 5, 0, 5)


async def test_a_lowered_limit_lets_holders_finish(autojump_clock):
    limits = Limits({"a": 3})
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(hold, limits["a"], 2)
        await trio.sleep(1)
        limits.resize("a", 1)
        assert limits.snapshot()["a"] == LimitSnapshot(1, 3, 0, 3, 0, 3)
        async with limits["a"]:
            assert trio.current_time() == 2


async def test_a_name_is_made_when_it_is_first_asked_for():
    limits = Limits({"a": 1}, default=7)
    assert list(limits) == ["a"]
    assert "b" not in limits
    assert limits["b"].total_tokens == 7
    assert limits["b"] is limits["b"]
    assert (list(limits), len(limits)) == (["a", "b"], 2)
    assert Limits()["any"].total_tokens == 10


async def test_without_a_default_an_unknown_name_is_an_error():
    limits = Limits({"a": 1, "b": 2}, default=None)
    with pytest.raises(KeyError) as caught:
        limits["c"]
    assert caught.value.args == ("no limit is named 'c'; there are: a, b",)
    assert limits.get("c") is None


async def test_a_limit_is_a_capacity_limiter_to_everybody(autojump_clock):
    limits = Limits(default=1)
    limiter = limits["a"]
    assert isinstance(limiter, trio.CapacityLimiter)
    assert repr(limiter).startswith("<trio.CapacityLimiter at ")
    assert await trio.to_thread.run_sync(sum, [1, 2], limiter=limiter) == 3
    limiter.acquire_nowait()
    assert (limiter.borrowed_tokens, limiter.available_tokens) == (1, 0)
    with pytest.raises(trio.WouldBlock):
        limiter.acquire_on_behalf_of_nowait("me")
    limiter.release()
    assert limits.snapshot() == {"a": LimitSnapshot(1, 0, 0, 2, 2, 1)}
    assert (await run_batch(trio.sleep, [1, 2], limiter=limiter)).complete


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Limits(3),
            (
                "TypeError: capacities must be a Mapping, got 3: "
                'write Limits({"fetch": 10}, default=10)'
            ),
        ),
        (
            lambda: Limits({"a": 0}),
            (
                "ValueError: the capacity of 'a' must be at least 1, got 0: "
                'write Limits({"fetch": 10}, default=10)'
            ),
        ),
        (
            lambda: Limits(default=2.5),
            (
                "TypeError: default must be a whole number, got 2.5: "
                'write Limits({"fetch": 10}, default=10)'
            ),
        ),
        (
            lambda: Limits().resize("a", -1),
            'ValueError: capacity must be at least 0, got -1: write limits.resize("fetch", 10)',
        ),
    ],
)
def test_wrong_capacities_are_refused_with_the_right_call(make, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        make()
    assert f"{type(caught.value).__name__}: {caught.value}" == message


async def test_a_batch_takes_a_place_once_per_item(autojump_clock):
    limits = Limits({"a": 2})
    await run_batch(trio.sleep, [1] * 7, limiter=limits["a"])
    assert limits.snapshot() == {"a": LimitSnapshot(2, 0, 0, 7, 7, 2)}


def test_a_limit_may_be_lifted_as_any_capacity_limiter_may():
    limits = Limits({"a": 1})
    limits["a"].total_tokens = math.inf
    assert limits.snapshot()["a"].capacity == math.inf


async def test_a_share_keeps_one_callers_items_from_taking_everything(autojump_clock):
    everybody = trio.CapacityLimiter(3)
    greedy = CombinedLimiter(trio.CapacityLimiter(2), everybody)
    modest = CombinedLimiter(trio.CapacityLimiter(2), everybody)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(run_batch, trio.sleep, [100] * 9, limiter=greedy))
        await trio.testing.wait_all_tasks_blocked()
        assert (everybody.borrowed_tokens, greedy.available_tokens, modest.available_tokens) == (
            2,
            0,
            1,
        )
        await run_batch(trio.sleep, [1] * 4, limiter=modest)  # one at a time
        assert trio.current_time() == 4
        nursery.cancel_scope.cancel()
    assert (everybody.borrowed_tokens, greedy.available_tokens) == (0, 2)


async def test_a_combined_limiter_takes_both_tokens_or_none(autojump_clock):
    first, second = trio.CapacityLimiter(2), trio.CapacityLimiter(1)
    both = CombinedLimiter(first, second)
    assert isinstance(both, trio.CapacityLimiter)
    second.acquire_on_behalf_of_nowait("another")
    with pytest.raises(trio.WouldBlock):
        both.acquire_nowait()
    with trio.move_on_after(1) as waiting:
        await both.acquire()
    assert waiting.cancelled_caught
    assert first.borrowed_tokens == 0
    second.release_on_behalf_of("another")
    assert await trio.to_thread.run_sync(sum, [1, 2], limiter=both) == 3
    async with both:
        assert (first.borrowed_tokens, second.borrowed_tokens) == (1, 1)
    assert (first.borrowed_tokens, second.borrowed_tokens) == (0, 0)
    with pytest.raises(TypeError, match=r"second must be a trio\.CapacityLimiter, got 3"):
        CombinedLimiter(first, 3)
