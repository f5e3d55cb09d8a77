"""A rate limit: exact instants, a fair line, cancels that cost nobody anything, retunes."""

import math

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from nursery_patterns import TokenBucket, TokenBucketStatistics
from nursery_patterns._token_bucket import _Refill


class Steps(trio.abc.Instrument):
    """Counts how often each named task was given the processor."""

    def __init__(self):
        self.of = {}

    def before_task_step(self, task):
        self.of[task.name] = self.of.get(task.name, 0) + 1


async def acquire_and_log(bucket, log, name, tokens=1):
    waited = await bucket.acquire(tokens)
    log.append((name, trio.current_time(), waited))


async def settle():
    """Let every task run until it waits, without letting the virtual clock jump."""
    await trio.testing.wait_all_tasks_blocked()


# --- when tokens are handed out ---------------------------------------------------------------


async def test_a_full_bucket_gives_its_capacity_at_once_and_then_one_token_per_period(
    autojump_clock,
):
    bucket = TokenBucket(rate=10, capacity=3)
    times = []
    for _ in range(6):
        await bucket.acquire()
        times.append(trio.current_time())
    assert times == [0, 0, 0, 0.1, 0.2, 0.3]


async def test_a_thousand_acquisitions_fall_on_exact_multiples_of_the_period(autojump_clock):
    bucket = TokenBucket(rate=10, capacity=1)
    for k in range(1000):
        await bucket.acquire()
        assert trio.current_time() == k / 10


async def test_acquire_returns_the_seconds_waited(autojump_clock):
    bucket = TokenBucket(rate=4, capacity=2)
    assert await bucket.acquire(2) == 0.0
    assert await bucket.acquire() == 0.25
    assert await bucket.acquire(2) == 0.5


async def test_a_bucket_never_saves_up_more_than_its_capacity(autojump_clock):
    bucket = TokenBucket(rate=1, capacity=2)
    await bucket.acquire(2)
    await trio.sleep(1000)
    assert bucket.statistics().tokens == 2.0
    assert await bucket.acquire(2) == 0.0
    assert await bucket.acquire() == 1.0


async def test_tokens_accrue_in_fractions_between_requests(autojump_clock):
    bucket = TokenBucket(rate=1, capacity=10)
    await bucket.acquire(10)
    await trio.sleep(2.5)
    assert bucket.statistics().tokens == 2.5
    assert await bucket.acquire(3) == 0.5


async def test_a_waiter_that_wakes_late_still_leaves_the_later_ones_on_schedule(mock_clock):
    bucket = TokenBucket(rate=1, capacity=2)
    bucket.acquire_nowait(2)
    log = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(acquire_and_log, bucket, log, "late")
        await settle()
        mock_clock.jump(1.4)
        await settle()
        nursery.start_soon(acquire_and_log, bucket, log, "next")
        await settle()
        mock_clock.jump(0.6)
    assert [(name, round(at, 9)) for name, at, _ in log] == [("late", 1.4), ("next", 2.0)]


async def test_a_loop_that_stood_still_releases_a_burst_of_at_most_the_capacity(mock_clock):
    bucket = TokenBucket(rate=1, capacity=2)
    bucket.acquire_nowait(2)
    log = []
    async with trio.open_nursery() as nursery:
        for name in range(5):
            nursery.start_soon(acquire_and_log, bucket, log, name)
            await settle()
        mock_clock.jump(1000)
        await settle()
        assert len(log) == 2
        nursery.cancel_scope.cancel()


# --- the line ---------------------------------------------------------------------------------


async def test_waiters_are_served_in_order_of_arrival_whatever_they_ask_for(autojump_clock):
    bucket = TokenBucket(rate=1, capacity=5)
    bucket.acquire_nowait(5)
    log = []
    async with trio.open_nursery() as nursery:
        for name, tokens in [("a", 5), ("b", 1), ("c", 3), ("d", 1)]:
            nursery.start_soon(acquire_and_log, bucket, log, name, tokens)
            await settle()
    assert log == [("a", 5, 5), ("b", 6, 6), ("c", 9, 9), ("d", 10, 10)]


async def test_acquire_nowait_takes_what_is_there_and_refuses_the_rest(autojump_clock):
    bucket = TokenBucket(rate=1, capacity=2)
    bucket.acquire_nowait(2)
    with pytest.raises(trio.WouldBlock):
        bucket.acquire_nowait()
    await trio.sleep(1)
    bucket.acquire_nowait()


async def test_acquire_nowait_does_not_overtake_a_waiter_that_wants_more(autojump_clock):
    bucket = TokenBucket(rate=1, capacity=5)
    bucket.acquire_nowait(5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bucket.acquire, 5)
        await trio.sleep(3)
        assert bucket.statistics() == TokenBucketStatistics(
            rate=1.0, capacity=5, tokens=3.0, waiting=1
        )
        with pytest.raises(trio.WouldBlock):
            bucket.acquire_nowait()


async def test_each_waiter_is_woken_exactly_once(autojump_clock):
    steps = Steps()
    bucket = TokenBucket(rate=7, capacity=3)
    bucket.acquire_nowait(3)
    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(bucket.acquire, 1 + number % 3, name=f"waiter-{number}")
        await settle()
        trio.lowlevel.add_instrument(steps)
    trio.lowlevel.remove_instrument(steps)
    assert {name: count for name, count in steps.of.items() if name.startswith("waiter")} == {
        f"waiter-{number}": 1 for number in range(50)
    }


async def test_nothing_runs_while_nothing_is_due(mock_clock):
    steps = Steps()
    bucket = TokenBucket(rate=1, capacity=5)
    bucket.acquire_nowait(5)
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(bucket.acquire, 5, name=f"waiter-{number}")
        await settle()
        trio.lowlevel.add_instrument(steps)
        mock_clock.jump(4.999)
        await settle()
        trio.lowlevel.remove_instrument(steps)
        assert not [name for name in steps.of if name.startswith("waiter")]
        nursery.cancel_scope.cancel()


# --- cancellation -----------------------------------------------------------------------------


async def test_a_cancelled_waiter_takes_no_token_and_delays_no_one(autojump_clock):
    bucket = TokenBucket(rate=1, capacity=5)
    bucket.acquire_nowait(5)
    log = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(acquire_and_log, bucket, log, "first")
        await settle()
        with trio.move_on_after(0.5):
            await bucket.acquire(3)
        nursery.start_soon(acquire_and_log, bucket, log, "second")
    assert [(name, at) for name, at, _ in log] == [("first", 1), ("second", 2)]


async def test_when_a_big_head_is_cancelled_those_behind_it_go_at_their_own_instant(
    autojump_clock,
):
    bucket = TokenBucket(rate=1, capacity=10)
    bucket.acquire_nowait(10)
    log = []
    big = trio.CancelScope()

    async def want_ten():
        with big:
            await bucket.acquire(10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(want_ten)
        await settle()
        for name, tokens in [("b", 2), ("c", 1), ("d", 4)]:
            nursery.start_soon(acquire_and_log, bucket, log, name, tokens)
            await settle()
        await trio.sleep(2.5)
        big.cancel()
    assert [(name, at) for name, at, _ in log] == [("b", 2.5), ("c", 3), ("d", 7)]


async def test_a_waiter_cancelled_at_the_instant_it_is_due_leaves_its_token_to_the_next(
    autojump_clock,
):
    bucket = TokenBucket(rate=1, capacity=1)
    bucket.acquire_nowait()
    log = []
    async with trio.open_nursery() as nursery:
        with trio.move_on_at(1):
            nursery.start_soon(acquire_and_log, bucket, log, "other", 1)
            await bucket.acquire()
    assert log == [("other", 1, 1)]
    assert bucket.statistics() == TokenBucketStatistics(1.0, 1, 0.0, 0)


async def test_cancelling_a_thousand_waiters_leaves_an_empty_line_and_all_tokens(autojump_clock):
    bucket = TokenBucket(rate=1, capacity=3)
    bucket.acquire_nowait(3)
    with trio.move_on_after(2):
        async with trio.open_nursery() as nursery:
            for _ in range(1000):
                nursery.start_soon(bucket.acquire, 3)
    assert bucket.statistics() == TokenBucketStatistics(1.0, 3, 2.0, 0)


async def test_a_scope_that_is_cancelled_already_takes_no_token():
    bucket = TokenBucket(rate=1, capacity=1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await bucket.acquire()
    assert scope.cancelled_caught
    bucket.acquire_nowait()


async def test_acquire_is_always_a_checkpoint():
    bucket = TokenBucket(rate=1, capacity=1)
    with trio.testing.assert_checkpoints():
        await bucket.acquire()


# --- retuning ---------------------------------------------------------------------------------


async def test_a_raised_rate_reaches_the_head_at_once(autojump_clock):
    bucket = TokenBucket(rate=1, capacity=10)
    bucket.acquire_nowait(10)
    log = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(acquire_and_log, bucket, log, "head", 10)
        await trio.sleep(2)  # 2 tokens accrue at the old rate and stay
        bucket.rate = 4
    assert log == [("head", 4, 4)]


async def test_a_lowered_rate_puts_the_head_off(autojump_clock):
    bucket = TokenBucket(rate=2, capacity=4)
    bucket.acquire_nowait(4)
    log = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(acquire_and_log, bucket, log, "head", 4)
        await trio.sleep(1)
        bucket.rate = 0.5
    assert log == [("head", 5, 5)]


async def test_a_rate_lowered_after_the_alarm_has_gone_off_takes_nothing_back(mock_clock):
    bucket = TokenBucket(rate=1, capacity=1)
    bucket.acquire_nowait()
    log = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(acquire_and_log, bucket, log, "head")
        await settle()
        mock_clock.jump(1)
        bucket.rate = 0.001
        await settle()
        assert log == [("head", 1, 1)]


async def test_a_retune_that_moves_the_due_instant_while_the_head_wakes_is_waited_out(mock_clock):
    bucket = TokenBucket(rate=3, capacity=1)
    bucket.acquire_nowait()
    log = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(acquire_and_log, bucket, log, "head")
        await settle()
        # Wake it too early, as a retune up and down again within one loop step would.
        next(iter(bucket._queue)).scope.cancel()
        await settle()
        assert log == []
        mock_clock.jump(1 / 3)
    assert [name for name, _, _ in log] == ["head"]


async def test_a_bucket_may_be_made_before_the_run_and_starts_full():
    bucket = await trio.to_thread.run_sync(TokenBucket, 5, 2)
    assert bucket.statistics() == TokenBucketStatistics(5.0, 2, 2.0, 0)
    bucket.rate = 1
    assert await bucket.acquire(2) == 0.0


def test_a_bucket_may_be_retuned_before_the_run():
    bucket = TokenBucket(rate=5, capacity=2)
    bucket.rate = 1

    async def main():
        assert await bucket.acquire(2) == 0.0
        assert await bucket.acquire() == 1.0

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# --- arguments --------------------------------------------------------------------------------


async def test_asking_for_more_than_the_capacity_fails_at_once_and_says_what_to_do():
    bucket = TokenBucket(rate=10, capacity=5)
    message = (
        r"tokens must be at most the capacity 5, got 6, which the bucket can never hold: "
        r"take them in parts, or write TokenBucket\(rate=10, capacity=6\)"
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        await bucket.acquire(6)
    with pytest.raises(ValueError, match=f"^{message}$"):
        bucket.acquire_nowait(6)
    assert bucket.statistics().tokens == 5.0


@pytest.mark.parametrize("tokens", [0, -1])
async def test_fewer_than_one_token_are_refused(tokens):
    with pytest.raises(ValueError, match="tokens must be at least 1"):
        await TokenBucket(rate=10, capacity=5).acquire(tokens)


@pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf])
async def test_a_rate_that_is_no_rate_is_refused_in_the_constructor_and_in_a_retune(rate):
    with pytest.raises(ValueError, match="rate must be above 0 per second and finite"):
        TokenBucket(rate=rate, capacity=1)
    bucket = TokenBucket(rate=2, capacity=1)
    with pytest.raises(ValueError, match="rate must be above 0 per second and finite"):
        bucket.rate = rate
    assert bucket.rate == 2.0


@pytest.mark.parametrize("rate", ["10", None, True])
def test_a_rate_that_is_no_number_is_a_type_error(rate):
    with pytest.raises(TypeError, match="rate must be a number per second"):
        TokenBucket(rate=rate, capacity=1)


@pytest.mark.parametrize(("capacity", "error"), [(0, ValueError), (1.5, TypeError)])
def test_a_capacity_that_is_no_count_is_refused(capacity, error):
    with pytest.raises(error, match="capacity must be"):
        TokenBucket(rate=1, capacity=capacity)


# --- the arithmetic ---------------------------------------------------------------------------

spans = st.floats(min_value=0, max_value=1e4)
rates = st.floats(min_value=1e-3, max_value=1e6)


@given(
    rate=rates,
    capacity=st.integers(1, 1000),
    requests=st.lists(st.tuples(spans, st.integers(1, 1000)), max_size=50),
)
def test_whoever_comes_back_when_its_tokens_are_due_is_served(rate, capacity, requests):
    refill = _Refill(rate, capacity)
    now = 0.0
    for pause, wanted in requests:
        now += pause
        tokens = min(wanted, capacity)
        now = max(now, refill.due(tokens))
        assert refill.take(tokens, now)


@given(
    rate=rates,
    capacity=st.integers(1, 100),
    attempts=st.lists(st.tuples(spans, st.integers(1, 100)), max_size=100),
)
def test_no_span_of_time_hands_out_more_than_the_burst_plus_its_rate(rate, capacity, attempts):
    refill = _Refill(rate, capacity)
    now, handed_out = 0.0, []
    for pause, wanted in attempts:
        now += pause
        if wanted <= capacity and refill.take(wanted, now):
            handed_out.append((now, wanted))
    for first, (start, _) in enumerate(handed_out):
        total = 0
        for at, tokens in handed_out[first:]:
            total += tokens
            assert total <= (capacity + (at - start) * rate) * (1 + 1e-9) + 1e-6


def test_in_a_second_run_the_bucket_has_the_tokens_it_had_at_the_end_of_the_first():
    bucket = TokenBucket(rate=2, capacity=3)

    async def take_all():
        waited = [await bucket.acquire() for _ in range(5)]
        return sum(waited), bucket.statistics().tokens

    runs = [
        trio.run(take_all, clock=trio.testing.MockClock(rate=0, autojump_threshold=0)),
        trio.run(take_all, clock=trio.testing.MockClock(rate=0, autojump_threshold=0)),
    ]
    assert runs == [(1.0, 0.0), (2.5, 0.0)]


def test_the_clock_of_a_second_run_may_be_far_behind_that_of_the_first():
    bucket = TokenBucket(rate=1_000, capacity=1)

    async def take_two_at(start):
        trio.lowlevel.current_clock().jump(start)
        await bucket.acquire()
        await bucket.acquire()
        return trio.current_time() - start

    for start in (1_000_000.0, 0.0, 500.0):
        clock = trio.testing.MockClock(rate=0, autojump_threshold=0)
        assert trio.run(take_two_at, start, clock=clock) < 0.003


async def test_two_runs_at_a_time_are_refused_with_the_fix():
    bucket = TokenBucket(rate=0.001, capacity=1)  # on the real clock, which no thread makes jump
    await bucket.acquire()

    async def other_run():
        with pytest.raises(RuntimeError, match=r"one run at a time: give each run its own, as in"):
            bucket.acquire_nowait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bucket.acquire)
        await trio.testing.wait_all_tasks_blocked()
        await trio.to_thread.run_sync(trio.run, other_run)
        nursery.cancel_scope.cancel()
