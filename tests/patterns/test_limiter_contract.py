"""One contract for every limiter: trio's own, and each of ours that takes its place.

Each behaviour is written once, as trio does for its locks. trio's own limiter is the first subject:
if it does not keep a promise, the promise is wrong.
"""

import pytest
import trio
import trio.testing

from nursery_patterns import AdaptiveLimiter, Admission, CombinedLimiter, Limits

TOKENS = 2


class SlotsOfAdmission:
    """The blocks of an `Admission`, in the form of a limiter's blocks."""

    def __init__(self):
        self._limiter = trio.CapacityLimiter(TOKENS)
        self._admission = Admission(self._limiter, max_waiting=100)

    async def __aenter__(self):
        await self._admission.__aenter__()

    async def __aexit__(self, *error):
        return await self._admission.__aexit__(*error)

    @property
    def borrowed_tokens(self):
        return self._limiter.borrowed_tokens

    @property
    def total_tokens(self):
        return self._limiter.total_tokens

    @total_tokens.setter
    def total_tokens(self, value):
        self._limiter.total_tokens = value


LIMITERS = {
    "trio": lambda: trio.CapacityLimiter(TOKENS),
    "named": lambda: Limits({"name": TOKENS})["name"],
    "adaptive": lambda: AdaptiveLimiter(TOKENS, 1, 10),
    "share of a limiter": lambda: CombinedLimiter(
        trio.CapacityLimiter(TOKENS), trio.CapacityLimiter(100)
    ),
    "limiter of a share": lambda: CombinedLimiter(
        trio.CapacityLimiter(100), trio.CapacityLimiter(TOKENS)
    ),
}
every_limiter = pytest.mark.parametrize("make", LIMITERS.values(), ids=LIMITERS.keys())
every_block = pytest.mark.parametrize(
    "make", [*LIMITERS.values(), SlotsOfAdmission], ids=[*LIMITERS.keys(), "admission"]
)
resizable = pytest.mark.parametrize(
    "make",
    [LIMITERS["trio"], LIMITERS["named"], LIMITERS["adaptive"], SlotsOfAdmission],
    ids=["trio", "named", "adaptive", "admission"],
)


@every_block
async def test_at_most_that_many_tasks_are_inside(make, autojump_clock):
    limiter, inside, peak = make(), 0, 0

    async def hold():
        nonlocal inside, peak
        async with limiter:
            inside += 1
            peak = max(peak, inside)
            await trio.sleep(1)
            inside -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(7):
            nursery.start_soon(hold)
    assert peak == TOKENS
    assert trio.current_time() == 4  # 7 tasks, 2 at a time, 1 s each
    assert limiter.borrowed_tokens == 0


@every_block
async def test_tasks_enter_in_the_order_of_their_arrival(make, autojump_clock):
    limiter, order = make(), []

    async def hold(number):
        async with limiter:
            order.append(number)
            await trio.sleep(
                1 if number else 100
            )  # 0 leaves one token, so one task enters at a time

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(hold, number)
            await trio.testing.wait_all_tasks_blocked()
    assert order == list(range(8))


@every_block
async def test_a_cancelled_waiter_takes_no_token_and_delays_no_other(make, autojump_clock):
    limiter, entered = make(), []

    async def hold(name, seconds):
        async with limiter:
            entered.append((name, trio.current_time()))
            await trio.sleep(seconds)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold, "first", 5)
        nursery.start_soon(hold, "second", 5)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(1) as scope:
            await hold("cancelled", 5)
        assert scope.cancelled_caught
        assert limiter.borrowed_tokens == TOKENS
        await hold("third", 1)
    assert [name for name, _ in entered][2:] == ["third"]
    assert entered[2][1] == 5


@every_block
async def test_an_exception_inside_releases_the_token_and_leaves_unchanged(make):
    limiter = make()
    with pytest.raises(KeyError, match="inside"):
        async with limiter:
            raise KeyError("inside")
    assert limiter.borrowed_tokens == 0


@every_block
async def test_a_cancel_inside_releases_the_token(make, autojump_clock):
    limiter = make()
    with trio.move_on_after(1):
        async with limiter:
            await trio.sleep_forever()
    assert limiter.borrowed_tokens == 0


@every_block
async def test_entering_is_a_checkpoint_also_if_there_is_a_token(make):
    limiter = make()
    with trio.testing.assert_checkpoints():
        await limiter.__aenter__()
    await limiter.__aexit__(None, None, None)


@every_block
async def test_a_cancelled_task_does_not_enter_even_if_there_is_a_token(make):
    limiter, entered = make(), False
    with trio.CancelScope() as scope:
        scope.cancel()
        async with limiter:
            entered = True
    assert not entered
    assert limiter.borrowed_tokens == 0


@every_limiter
async def test_without_a_token_nowait_raises_and_takes_nothing(make, autojump_clock):
    limiter = make()
    limiter.acquire_on_behalf_of_nowait("a")
    limiter.acquire_on_behalf_of_nowait("b")
    with pytest.raises(trio.WouldBlock):
        limiter.acquire_on_behalf_of_nowait("c")
    assert (limiter.borrowed_tokens, limiter.available_tokens) == (2, 0)
    limiter.release_on_behalf_of("a")
    limiter.release_on_behalf_of("b")
    assert (limiter.borrowed_tokens, limiter.available_tokens) == (0, 2)


@every_limiter
async def test_one_task_does_not_take_two_tokens(make):
    limiter = make()
    async with limiter:
        with pytest.raises(RuntimeError, match="already holding"):
            await limiter.acquire()
        with pytest.raises(RuntimeError, match="already holding"):
            limiter.acquire_nowait()
        assert limiter.borrowed_tokens == 1
    assert limiter.borrowed_tokens == 0


@every_limiter
async def test_only_a_holder_can_release(make):
    limiter = make()
    with pytest.raises(RuntimeError, match="isn't holding"):
        limiter.release()
    assert limiter.available_tokens == TOKENS


@every_limiter
async def test_another_borrower_can_hold_the_token_and_another_task_release_it(make):
    limiter, borrower = make(), object()
    await limiter.acquire_on_behalf_of(borrower)

    async def release():
        limiter.release_on_behalf_of(borrower)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(release)
    assert limiter.borrowed_tokens == 0


@resizable
async def test_a_raised_limit_wakes_waiters_at_once(make, autojump_clock):
    limiter, entered = make(), []

    async def hold(number):
        async with limiter:
            entered.append((number, trio.current_time()))
            await trio.sleep(10)

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(hold, number)
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(1)
        limiter.total_tokens = 4
    assert sorted(entered) == [(0, 0), (1, 0), (2, 1), (3, 1)]


@resizable
async def test_a_lowered_limit_takes_no_token_away_and_lets_nobody_in(make, autojump_clock):
    limiter, entered = make(), []

    async def hold(number, seconds):
        async with limiter:
            entered.append((number, trio.current_time()))
            await trio.sleep(seconds)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold, 0, 2)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(hold, 1, 3)
        await trio.testing.wait_all_tasks_blocked()
        limiter.total_tokens = 1
        nursery.start_soon(hold, 2, 1)
    assert entered == [(0, 0), (1, 0), (2, 3)]
