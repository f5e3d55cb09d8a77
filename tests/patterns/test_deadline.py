"""A time budget: what it gave, what was used, and whether it ran out."""

import math

import pytest
import trio

from nursery_patterns import time_budget


async def test_a_budget_that_was_enough(autojump_clock):
    with time_budget(10) as budget:
        await trio.sleep(3)
    await trio.sleep(100)
    assert (budget.seconds, budget.elapsed, budget.headroom) == (10, 3, 7)
    assert (budget.expired, budget.tight) == (False, False)


async def test_a_budget_that_ran_out(autojump_clock):
    with time_budget(10) as budget:
        await trio.sleep(30)
    assert trio.current_time() == 10
    assert (budget.seconds, budget.elapsed, budget.headroom) == (10, 10, 0)
    assert (budget.expired, budget.tight) == (True, True)
    assert budget.cancelled_caught


@pytest.mark.parametrize(("used", "tight"), [(8, False), (8.5, True), (9.5, True)])
async def test_more_than_four_fifths_is_tight(autojump_clock, used, tight):
    with time_budget(10) as budget:
        await trio.sleep(used)
    assert (budget.tight, budget.expired) == (tight, False)


async def test_it_tells_how_it_stands_while_it_runs(autojump_clock):
    with time_budget(10) as budget:
        await trio.sleep(4)
        assert (budget.elapsed, budget.headroom, budget.expired) == (4, 6, False)


async def test_a_nested_budget_never_extends_the_outer_one(autojump_clock):
    with time_budget(5) as outer:
        await trio.sleep(2)
        with time_budget(60) as inner:
            await trio.sleep_forever()
        pytest.fail("the outer budget ends here too")
    assert trio.current_time() == 5
    assert (inner.seconds, inner.elapsed, inner.expired, inner.tight) == (3, 3, True, True)
    assert (outer.seconds, outer.elapsed, outer.expired) == (5, 5, True)


async def test_a_nested_budget_may_be_shorter(autojump_clock):
    with time_budget(5) as outer:
        with time_budget(2) as inner:
            await trio.sleep_forever()
        await trio.sleep(1)
    assert (inner.expired, inner.elapsed) == (True, 2)
    assert (outer.expired, outer.headroom) == (False, 2)


async def test_a_trio_deadline_around_it_counts_as_well(autojump_clock):
    with trio.move_on_after(3), time_budget(10) as budget:
        await trio.sleep_forever()
    assert (budget.seconds, budget.expired) == (3, True)


async def test_no_bound_and_no_time_at_all(autojump_clock):
    with time_budget(math.inf) as endless:
        await trio.sleep(1000)
    assert (endless.headroom, endless.expired, endless.tight) == (math.inf, False, False)
    with time_budget(0) as nothing:
        await trio.sleep(1)
    assert (nothing.elapsed, nothing.expired, nothing.headroom) == (0, True, 0)


async def test_it_is_a_cancel_scope_that_can_be_looked_at_and_cut(autojump_clock):
    with time_budget(10) as budget:
        await trio.sleep(2)
        assert budget.deadline == 10
        budget.cancel("enough")
        await trio.sleep_forever()
    assert (budget.cancel_called, budget.cancelled_caught, budget.expired) == (True, True, False)
    assert (budget.elapsed, budget.headroom) == (2, 8)


async def test_an_error_passes_and_is_timed(autojump_clock):
    budget = time_budget(10)
    with pytest.raises(KeyError), budget:
        await trio.sleep(1)
        raise KeyError
    assert (budget.elapsed, budget.expired) == (1, False)


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        (-1, "ValueError: seconds must be at least 0 seconds, got -1: write time_budget(30)"),
        (
            math.nan,
            "ValueError: seconds must be at least 0 seconds, got nan: write time_budget(30)",
        ),
        ("5", "TypeError: seconds must be a number of seconds, got '5': write time_budget(30)"),
    ],
)
def test_wrong_budgets_are_refused_with_the_right_call(seconds, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        time_budget(seconds)
    assert f"{type(caught.value).__name__}: {caught.value}" == message


async def test_a_scope_around_it_that_is_cancelled_is_no_matter_of_time(autojump_clock):
    with trio.CancelScope() as scope:
        scope.cancel()
        with time_budget(30) as budget:
            await trio.lowlevel.checkpoint()
    assert not budget.expired
    assert budget.seconds == 30
