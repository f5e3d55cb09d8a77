"""One call for all who ask for the same at the same time: who shares, and who ends it."""

import gc
import traceback
import weakref
from functools import partial

import pytest
import trio
import trio.testing

from nursery_patterns import Overloaded, single_flight
from nursery_patterns.testing import cancel_at_every_checkpoint


class Calls:
    """An async function that counts its calls, and takes a second."""

    def __init__(self, error=None):
        self.started = []
        self.ended = []
        self.cut = []
        self.error = error

    async def __call__(self, *args, **kwargs):
        self.started.append((args, kwargs))
        try:
            await trio.sleep(1)
        except trio.Cancelled:
            self.cut.append(args)
            raise
        if self.error is not None:
            raise self.error
        self.ended.append(args)
        return [*args]


async def collect(results, index, shared, *args):
    results[index] = await shared(*args)


async def test_callers_at_the_same_time_share_one_call_and_its_value(autojump_clock):
    fetch, results = Calls(), {}
    async with trio.open_nursery() as home, trio.open_nursery() as nursery:
        shared = single_flight(fetch, home)
        for index in range(50):
            nursery.start_soon(collect, results, index, shared, "a")
        nursery.start_soon(collect, results, "other", shared, "b")
        await trio.testing.wait_all_tasks_blocked()
        assert shared.in_flight == 2
        assert repr(shared) == "<single_flight Calls: 2 in flight>"
    assert len(fetch.started) == 2
    assert results["other"] == ["b"]
    assert all(results[index] is results[0] for index in range(50))
    assert trio.current_time() == 1
    assert shared.in_flight == 0


async def test_it_is_no_cache(autojump_clock):
    fetch = Calls()
    async with trio.open_nursery() as nursery:
        shared = single_flight(fetch, nursery)
        await shared("a")
        await shared("a")
    assert len(fetch.started) == 2


async def test_a_key_decides_who_shares(autojump_clock):
    fetch, results = Calls(), {}
    async with trio.open_nursery() as home, trio.open_nursery() as nursery:
        shared = single_flight(fetch, home, key=lambda url: url.lower())
        nursery.start_soon(collect, results, 1, shared, "A")
        nursery.start_soon(collect, results, 2, shared, "a")
    assert len(fetch.started) == 1
    assert results[1] is results[2]


async def test_keywords_are_part_of_the_key(autojump_clock):
    fetch = Calls()
    async with trio.open_nursery() as home, trio.open_nursery() as nursery:
        shared = single_flight(fetch, home)
        nursery.start_soon(partial(shared, "a", x=1, y=2))
        nursery.start_soon(partial(shared, "a", y=2, x=1))
        nursery.start_soon(partial(shared, "a", x=2, y=2))
    assert len(fetch.started) == 2


async def test_a_cancelled_caller_leaves_the_others_alone(autojump_clock):
    fetch, results = Calls(), {}
    async with trio.open_nursery() as home, trio.open_nursery() as nursery:
        shared = single_flight(fetch, home)
        nursery.start_soon(collect, results, 1, shared, "a")
        with trio.move_on_after(0.5) as scope:
            await shared("a")
        assert scope.cancelled_caught
        assert trio.current_time() == 0.5
    assert results == {1: ["a"]}
    assert fetch.cut == []


async def test_the_last_cancelled_caller_cancels_the_call_and_the_next_one_starts_anew(
    autojump_clock,
):
    fetch = Calls()
    async with trio.open_nursery() as home:
        shared = single_flight(fetch, home)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shared, "a")
            nursery.start_soon(shared, "a")
            await trio.sleep(0.5)
            nursery.cancel_scope.cancel()
        assert shared.in_flight == 0
        assert await shared("a") == ["a"]  # also while the old one may still unwind
    assert (len(fetch.started), len(fetch.cut)) == (2, 1)
    assert trio.current_time() == 1.5


async def test_a_caller_that_is_cancelled_already_starts_nothing():
    fetch = Calls()
    async with trio.open_nursery() as nursery:
        shared = single_flight(fetch, nursery)
        with trio.CancelScope() as scope:
            scope.cancel()
            await shared("a")
    assert fetch.started == []


class Particular(Exception):
    """Its constructor takes other arguments than it keeps, so that it cannot be copied."""

    def __init__(self, code, detail):
        super().__init__(f"{code}: {detail}")
        self.code = code


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        OSError(2, "gone", "file"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        Particular(5, "odd"),
        Overloaded("full", retry_after=3),
        ExceptionGroup("several", [ValueError("a"), Particular(1, "b")]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_failure_is_everybodys_each_with_an_exception_of_his_own(error, autojump_clock):
    error.add_note("from the call")
    caught = []

    async def caller(shared):
        try:
            await shared()
        except Exception as exc:  # noqa: BLE001 - of any kind
            caught.append(exc)
            exc.add_note("mine")

    async with trio.open_nursery() as home, trio.open_nursery() as nursery:
        shared = single_flight(Calls(error), home)
        for _ in range(3):
            nursery.start_soon(caller, shared)
    assert len({id(exc) for exc in caught} | {id(error)}) == 4
    for exc in caught:
        assert type(exc) is type(error)
        assert str(exc) == str(error)
        assert {k: v for k, v in vars(exc).items() if k != "__notes__"} == {
            k: v for k, v in vars(error).items() if k != "__notes__"
        }
        assert exc.__notes__ == ["from the call", "mine"]
        names = [frame.name for frame in traceback.extract_tb(exc.__traceback__)]
        assert "__call__" in names  # where it failed
    assert error.__notes__ == ["from the call"]


class Traced(Exception):
    pass


async def test_nothing_is_kept_after_the_last_one():
    kept = []

    def keep(thing):
        kept.append(weakref.ref(thing))
        return thing

    async def make(_):
        return keep(Calls())

    async def fail(_):
        raise keep(Traced(keep(Calls())))

    async def fail_and_drop(shared):
        try:
            await shared(1)
        except Traced as error:
            keep(error)

    gc.collect()
    gc.disable()
    try:
        async with trio.open_nursery() as nursery:
            await single_flight(make, nursery)(1)
            await fail_and_drop(single_flight(fail, nursery))
            await trio.testing.wait_all_tasks_blocked()
            assert [reference() for reference in kept] == [None, None, None, None]
    finally:
        gc.enable()


async def test_a_call_that_waits_for_itself_is_refused():
    async def look_up(name):
        return await shared(name)

    async with trio.open_nursery() as nursery:
        shared = single_flight(look_up, nursery)
        with pytest.raises(RuntimeError) as caught:
            await shared("a")
    assert str(caught.value).endswith(
        "look_up with key (('a',), ()) would wait for itself: inside of it call "
        "test_a_call_that_waits_for_itself_is_refused.<locals>.look_up directly, or use another key"
    )


async def test_callers_are_told_when_the_nursery_is_cancelled(autojump_clock):
    async def call(shared):
        with pytest.raises(RuntimeError, match="was cancelled with the nursery that it lives in"):
            await shared()

    async with trio.open_nursery() as callers, trio.open_nursery() as nursery:
        callers.start_soon(call, single_flight(Calls(), nursery))
        await trio.sleep(0.5)
        nursery.cancel_scope.cancel()
    assert trio.current_time() == 0.5


async def test_a_nursery_that_is_closed_is_trios_error():
    async with trio.open_nursery() as nursery:
        shared = single_flight(Calls(), nursery)
    with pytest.raises(RuntimeError, match="Nursery is closed to new arrivals"):
        await shared()
    assert shared.in_flight == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n: single_flight(len, n), "plain function len"),
        (
            lambda n: single_flight(trio.sleep, None),
            ("nursery must be a Nursery, got None: write single_flight(fn, nursery)"),
        ),
        (
            lambda n: single_flight(trio.sleep, n, key=3),
            (
                "key must be a function of the same "
                "arguments, got 3: write single_flight(fn, nursery, key=lambda url: url.host)"
            ),
        ),
    ],
)
async def test_wrong_arguments_are_refused_with_the_corrected_call(call, message):
    async with trio.open_nursery() as nursery:
        with pytest.raises(TypeError) as caught:
            call(nursery)
    assert message in str(caught.value)


async def test_a_key_that_cannot_be_hashed_is_refused_with_the_corrected_call():
    async with trio.open_nursery() as nursery:
        shared = single_flight(Calls(), nursery)
        with pytest.raises(TypeError) as caught:
            await shared([1])
    assert str(caught.value) == (
        "calls of Calls are shared by a key that can be hashed, got (([1],), ()): "
        "write single_flight(fn, nursery, key=lambda argument: ...)"
    )


def test_a_cancel_anywhere_leaves_no_call_behind():
    async def scenario(probe):
        fetch = Calls()
        async with trio.open_nursery() as home:
            shared = single_flight(fetch, home)
            probe.check(lambda: assert_ended(shared, fetch))
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(shared, "a")

    def assert_ended(shared, fetch):
        assert shared.in_flight == 0
        assert len(fetch.started) == len(fetch.ended) + len(fetch.cut)

    assert cancel_at_every_checkpoint(scenario) > 5


async def test_a_function_of_several_arguments_is_shared_by_all_of_them(autojump_clock):
    calls = []

    async def look_up(host, port, *, family=4):
        calls.append((host, port, family))
        await trio.sleep(1)

    async with trio.open_nursery() as nursery, trio.open_nursery() as callers:
        shared = single_flight(look_up, nursery)
        callers.start_soon(shared, "a", 443)
        callers.start_soon(shared, "a", 443)
        callers.start_soon(shared, "a", 80)
        callers.start_soon(partial(shared, "a", 443, family=6))
    assert sorted(calls) == [("a", 80, 4), ("a", 443, 4), ("a", 443, 6)]
