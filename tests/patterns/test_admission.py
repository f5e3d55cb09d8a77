"""A bounded line in front of a limiter: who gets in, who is refused, and fair to whom."""

import copy
import math
import pickle
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from nursery_patterns import Admission, AdmissionStatistics, Limits, Overloaded


async def settle():
    """Let every task run until it waits, without letting the virtual clock jump."""
    await trio.testing.wait_all_tasks_blocked()


async def hold(admission, seconds, log=None, name=None, key=None):
    async with admission.slot(key):
        if log is not None:
            log.append((name, trio.current_time()))
        await trio.sleep(seconds)


@asynccontextmanager
async def crowd(admission, *calls):
    """Start `hold` calls one by one, each settled before the next; cancel them at the end."""
    async with trio.open_nursery() as nursery:
        for call in calls:
            nursery.start_soon(hold, admission, *call)
            await settle()
        yield nursery
        nursery.cancel_scope.cancel()


@pytest.fixture(params=["trio's limiter", "a counted limiter"])
def make_limiter(request):
    if request.param == "trio's limiter":
        return trio.CapacityLimiter
    return lambda capacity: Limits({"it": capacity})["it"]


def nobody_is_left(admission):
    return (
        admission.waiting == 0
        and admission._front is None
        and len(admission._queue) == 0
        and not admission._holders
        and admission.limiter.borrowed_tokens == 0
    )


# --- slots and the line -----------------------------------------------------------------------


async def test_at_most_the_limiters_tokens_are_inside_and_all_get_their_turn(
    autojump_clock, make_limiter
):
    admission = Admission(make_limiter(3), max_waiting=20)
    log = []
    async with trio.open_nursery() as nursery:
        for name in range(10):
            nursery.start_soon(hold, admission, 1, log, name)
            await settle()
    assert log == [(name, name // 3) for name in range(10)]
    assert nobody_is_left(admission)


async def test_a_full_queue_refuses_at_once(autojump_clock, make_limiter):
    admission = Admission(make_limiter(1), max_waiting=2)
    async with crowd(admission, (100,), (100,), (100,)):
        with pytest.raises(Overloaded) as refusal:
            async with admission:
                pytest.fail("there is no slot")
        assert trio.current_time() == 0
        assert str(refusal.value) == (
            "all 1 slots are taken and 2 of at most 2 tasks wait already: try again in 3 s"
        )
        assert refusal.value.retry_after == 3.0
    assert nobody_is_left(admission)


async def test_with_no_line_it_is_a_slot_at_once_or_never(autojump_clock):
    admission = Admission(trio.CapacityLimiter(1), max_waiting=0)
    async with crowd(admission, (1,)):
        with pytest.raises(Overloaded):
            await hold(admission, 0)
        await trio.sleep(2)
        await hold(admission, 0)
    assert admission.statistics().admitted == 2


async def test_it_is_full_once_a_newcomer_would_neither_get_a_slot_nor_find_room(autojump_clock):
    limiter = trio.CapacityLimiter(2)
    without_line, with_line = Admission(limiter, max_waiting=0), Admission(limiter, max_waiting=1)
    async with crowd(with_line, (100,)):
        assert not without_line.full
        async with crowd(with_line, (100,)):
            assert (without_line.full, with_line.full) == (True, False)
            async with crowd(with_line, (100,)):
                assert with_line.full


@pytest.mark.parametrize("leaver", ["front", "middle", "last"])
async def test_a_cancelled_waiter_frees_its_place_at_once(autojump_clock, leaver):
    admission = Admission(trio.CapacityLimiter(1), max_waiting=3)
    scopes = {name: trio.CancelScope() for name in ("front", "middle", "last")}
    log = []

    async def wait_as(name):
        with scopes[name]:
            await hold(admission, 1, log, name)

    async with crowd(admission, (5,)) as nursery:
        for name in scopes:
            nursery.start_soon(wait_as, name)
            await settle()
        with pytest.raises(Overloaded):
            await hold(admission, 0)
        scopes[leaver].cancel()
        await settle()
        assert admission.waiting == 2
        nursery.start_soon(hold, admission, 1, log, "newcomer")
        await trio.sleep(10)
    assert [name for name, _ in log] == [n for n in [*scopes, "newcomer"] if n != leaver]
    assert [at for _, at in log] == [5, 6, 7]
    assert nobody_is_left(admission)


async def test_a_waiter_called_to_the_front_and_cancelled_in_that_moment_passes_the_role_on(
    autojump_clock,
):
    admission = Admission(trio.CapacityLimiter(1), max_waiting=5)
    log = []
    front, second = trio.CancelScope(), trio.CancelScope()

    async def wait_in(scope):
        with scope:
            await hold(admission, 1, log, "nobody")

    async with crowd(admission, (1,)) as nursery:
        nursery.start_soon(wait_in, front)
        await settle()
        nursery.start_soon(wait_in, second)
        await settle()
        nursery.start_soon(hold, admission, 1, log, "third")
        await settle()
        front.cancel()
        second.cancel()
        await trio.sleep(3)
    assert log == [("third", 1)]
    assert nobody_is_left(admission)


async def test_cancelling_everyone_at_any_moment_leaves_no_trace(autojump_clock):
    for moment in range(12):
        admission = Admission(trio.CapacityLimiter(2), max_waiting=6)
        with trio.move_on_after(moment / 4):
            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(hold, admission, 0.5, None, None, number % 3)
        assert nobody_is_left(admission)


async def test_an_error_in_the_block_gives_the_slot_back():
    admission = Admission(trio.CapacityLimiter(1), max_waiting=0)
    with pytest.raises(KeyError):
        async with admission:
            raise KeyError
    with pytest.raises(KeyError):
        async with admission.slot("a"):
            raise KeyError
    assert nobody_is_left(admission)


async def test_a_scope_that_is_cancelled_already_takes_no_slot():
    admission = Admission(trio.CapacityLimiter(1), max_waiting=0)
    with trio.CancelScope() as scope:
        scope.cancel()
        async with admission:
            pytest.fail("the scope is cancelled")
    assert nobody_is_left(admission)


async def test_entering_is_always_a_checkpoint():
    admission = Admission(trio.CapacityLimiter(1), max_waiting=0)
    with trio.testing.assert_checkpoints():
        async with admission:
            pass


async def test_entering_again_in_the_same_task_says_that_it_would_wait_for_itself():
    admission = Admission(trio.CapacityLimiter(2), max_waiting=5)
    async with admission:
        with pytest.raises(RuntimeError, match="holds a slot of this limiter already"):
            async with admission.slot("other key"):
                pytest.fail("one task, one slot")
    assert nobody_is_left(admission)


async def test_who_holds_the_limiter_itself_is_told_instead_of_waiting_behind_who_waits_for_it(
    autojump_clock,
):
    limiter = trio.CapacityLimiter(1)
    admission = Admission(limiter, max_waiting=5)
    async with limiter:
        with pytest.raises(RuntimeError, match="already holding"):
            await hold(admission, 0)
        async with crowd(admission, (1,)):
            with pytest.raises(RuntimeError, match="holds a slot of this limiter already"):
                await hold(admission, 0)
    assert nobody_is_left(admission)


async def test_an_unhashable_key_fails_also_while_there_is_no_line():
    with pytest.raises(TypeError, match="unhashable type: 'list'"):
        await hold(Admission(trio.CapacityLimiter(1), max_waiting=5), 0, key=[])


# --- the limiter is an ordinary one -----------------------------------------------------------


async def test_more_tokens_let_waiters_in_at_once_and_zero_pauses(autojump_clock, make_limiter):
    limiter = make_limiter(1)
    limiter.total_tokens = 0
    admission = Admission(limiter, max_waiting=10)
    log = []
    async with trio.open_nursery() as nursery:
        for name in range(6):
            nursery.start_soon(hold, admission, 10, log, name)
            await settle()
        await trio.sleep(1)
        assert log == []
        limiter.total_tokens = 4
        await settle()
        assert log == [(0, 1), (1, 1), (2, 1), (3, 1)]
        limiter.total_tokens = 1
    assert log[4:] == [(4, 11), (5, 21)]


async def test_a_newcomer_does_not_slip_past_the_line_into_a_slot_that_has_just_come_free(
    autojump_clock,
):
    limiter = trio.CapacityLimiter(1)
    admission = Admission(limiter, max_waiting=10)
    log = []
    async with trio.open_nursery() as nursery:
        for name in ["inside", "front", "second"]:
            nursery.start_soon(hold, admission, 1, log, name)
            await settle()
        limiter.total_tokens = 3  # one for the front, and one that nobody has taken yet
        await hold(admission, 1, log, "newcomer")
    assert sorted(log) == [("front", 0), ("inside", 0), ("newcomer", 1), ("second", 0)]


async def test_the_front_and_those_who_use_the_limiter_directly_are_served_in_order_of_arrival(
    autojump_clock,
):
    limiter = trio.CapacityLimiter(1)
    admission = Admission(limiter, max_waiting=10)
    log = []

    async def hold_directly(name):
        async with limiter:
            log.append((name, trio.current_time()))
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for name in ["inside", "front"]:
            nursery.start_soon(hold, admission, 1, log, name)
            await settle()
        nursery.start_soon(hold_directly, "direct")
        await settle()
        nursery.start_soon(hold, admission, 1, log, "second")
        await settle()
    assert log == [("inside", 0), ("front", 1), ("direct", 2), ("second", 3)]
    assert nobody_is_left(admission)


# --- fairness between keys --------------------------------------------------------------------


async def test_one_call_of_one_key_waits_for_one_of_the_other_keys_thousand(autojump_clock):
    admission = Admission(trio.CapacityLimiter(1), max_waiting=2000)
    log = []
    async with trio.open_nursery() as nursery:
        for number in range(1000):
            nursery.start_soon(hold, admission, 1, log, f"a{number}", "a")
        await settle()
        nursery.start_soon(hold, admission, 1, log, "b", "b")
        await settle()
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    # At 0 one holds a slot and another is the front; one more of key a comes before b.
    assert [at for name, at in log if name == "b"] == [3]


async def test_keys_are_served_in_turn_and_each_in_order_of_arrival(autojump_clock):
    admission = Admission(trio.CapacityLimiter(1), max_waiting=20)
    log = []
    async with trio.open_nursery() as nursery:
        for name in ["a0", "a1", "a2", "a3", "b0", "b1", "c0"]:
            nursery.start_soon(hold, admission, 1, log, name, name[0])
            await settle()
    assert [name for name, _ in log] == ["a0", "a1", "a2", "b0", "c0", "a3", "b1"]


async def test_a_full_queue_makes_room_for_a_key_with_fewer_waiting_tasks(autojump_clock):
    admission = Admission(trio.CapacityLimiter(1), max_waiting=4)
    entered, refused = [], []

    async def call(name):
        try:
            await hold(admission, 1, entered, name, name[0])
        except Overloaded:
            refused.append((name, trio.current_time()))

    async with trio.open_nursery() as nursery:
        for name in ["a0", "a1", "a2", "a3", "a4"]:  # a0 is inside, a1 the front
            nursery.start_soon(call, name)
            await settle()
        nursery.start_soon(call, "b0")  # takes the place of a4
        await settle()
        assert refused == [("a4", 0)]
        nursery.start_soon(call, "c0")  # and of a3
        await settle()
        assert refused == [("a4", 0), ("a3", 0)]
        nursery.start_soon(call, "a5")  # a key cannot displace its own
        nursery.start_soon(call, "b1")  # nor one that has as many in line
        nursery.start_soon(call, "d0")  # nor one that has one, which would only change places
        await settle()
        assert sorted(refused[2:]) == [("a5", 0), ("b1", 0), ("d0", 0)]
        assert admission.waiting == 4
    assert [name for name, _ in entered] == ["a0", "a1", "a2", "b0", "c0"]
    assert nobody_is_left(admission)
    assert admission.statistics().refused == 5


# --- retry_after ------------------------------------------------------------------------------


async def refusal_of(admission):
    with pytest.raises(Overloaded) as refusal:
        await hold(admission, 0)
    return refusal.value.retry_after


async def test_retry_after_is_the_mean_hold_times_the_place_in_line_over_the_capacity(
    autojump_clock,
):
    admission = Admission(trio.CapacityLimiter(2), max_waiting=3)
    await hold(admission, 8)
    assert admission.statistics().mean_hold == 8.0
    async with crowd(admission, *[(100,)] * 5):
        assert await refusal_of(admission) == 8.0 * 4 / 2


async def test_the_mean_follows_recent_holds(autojump_clock):
    admission = Admission(trio.CapacityLimiter(1), max_waiting=0)
    await hold(admission, 8)
    await hold(admission, 16)
    assert admission.statistics().mean_hold == 9.0
    for _ in range(100):
        await hold(admission, 2)
    assert admission.statistics().mean_hold == pytest.approx(2, abs=1e-3)


async def test_retry_after_grows_while_the_holders_are_stuck(autojump_clock):
    admission = Admission(trio.CapacityLimiter(1), max_waiting=0)
    await hold(admission, 2)
    async with crowd(admission, (math.inf,)):
        assert await refusal_of(admission) == 2.0
        await trio.sleep(60)
        assert await refusal_of(admission) == 60.0


async def test_retry_after_is_finite_before_any_sample_and_while_paused(autojump_clock):
    limiter = trio.CapacityLimiter(0)
    admission = Admission(limiter, max_waiting=0)
    assert await refusal_of(admission) == 1.0


async def test_concurrent_holders_do_not_mix_up_their_times(autojump_clock):
    admission = Admission(trio.CapacityLimiter(2), max_waiting=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold, admission, 8)
        await trio.sleep(4)
        nursery.start_soon(hold, admission, 8)
    assert admission.statistics().mean_hold == 8.0


# --- statistics and arguments -----------------------------------------------------------------


async def test_statistics_tell_the_whole_state(autojump_clock):
    admission = Admission(trio.CapacityLimiter(1), max_waiting=2)
    async with crowd(admission, (100,), (100,), (100,)):
        await refusal_of(admission)
        assert admission.statistics() == AdmissionStatistics(
            capacity=1,
            holding=1,
            waiting=2,
            max_waiting=2,
            admitted=1,
            refused=1,
            mean_hold=None,
        )


async def test_max_waiting_can_be_changed_while_tasks_wait(autojump_clock):
    admission = Admission(trio.CapacityLimiter(1), max_waiting=2)
    async with crowd(admission, (100,), (100,), (100,)):
        admission.max_waiting = 1
        await refusal_of(admission)
        assert admission.waiting == 2
    with pytest.raises(ValueError, match="max_waiting must be at least 0, got -1"):
        admission.max_waiting = -1


def test_a_number_in_place_of_the_limiter_is_refused_with_the_corrected_call():
    with pytest.raises(
        TypeError,
        match=r"^limiter must be a trio.CapacityLimiter, got 10: "
        r"write Admission\(trio.CapacityLimiter\(10\), max_waiting=20\)$",
    ):
        Admission(10, 5)


def test_max_waiting_must_be_a_whole_number():
    with pytest.raises(TypeError, match="max_waiting must be a whole number"):
        Admission(trio.CapacityLimiter(1), math.inf)


def test_overloaded_can_be_raised_with_nothing_but_the_seconds():
    error = Overloaded(retry_after=2.5)
    assert (error.retry_after, str(error)) == (2.5, "the waiting line is full: try again in 2.5 s")


@pytest.mark.parametrize("through", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_overloaded_can_be_copied_and_pickled_as_any_exception(through):
    error = Overloaded("full", retry_after=2.5)
    error.add_note("item 7")
    again = through(error)
    assert type(again) is Overloaded
    assert (again.retry_after, str(again), again.__notes__) == (2.5, "full", ["item 7"])


async def test_a_queue_full_of_one_keys_tasks_is_full_for_that_key_only(autojump_clock):
    admission = Admission(trio.CapacityLimiter(1), max_waiting=3)

    async def hold(key):
        async with admission.slot(key):
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            assert not admission.full_for("greedy")
            nursery.start_soon(hold, "greedy")
            await trio.testing.wait_all_tasks_blocked()
        assert (admission.full, admission.full_for("greedy")) == (True, True)
        assert not admission.full_for("modest")
        admission.max_waiting = 1  # the line has its front and nobody to make way
        await trio.sleep(2)
        assert admission.full_for("modest")


async def test_the_keys_are_those_of_all_tasks_that_hold_a_slot_or_wait(autojump_clock):
    admission = Admission(trio.CapacityLimiter(1), max_waiting=2)

    async def hold(key):
        async with admission.slot(key):
            await trio.sleep(1)

    assert admission.keys() == set()
    async with trio.open_nursery() as nursery:
        for number, key in enumerate("aab"):
            nursery.start_soon(hold, key)
            await trio.testing.wait_all_tasks_blocked()
            assert admission.keys() == {*"aab"[: number + 1]}
        await trio.sleep(1.5)
        assert admission.keys() == {"a", "b"}
        await trio.sleep(1)
        assert admission.keys() == {"b"}
        nursery.cancel_scope.cancel()
    assert admission.keys() == set()
    refused = pytest.RaisesGroup(Overloaded)
    with refused:
        async with trio.open_nursery() as nursery:
            for key in "abcd":
                nursery.start_soon(hold, key)
    assert admission.keys() == set()
