"""An outcome keeps what is to be read of a failure, and none of what the item held."""

import gc
import traceback
import types
import weakref

import pytest
import trio

from nursery_patterns import Batch, run_batch

pytestmark = pytest.mark.usefixtures("no_collector")


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Body:
    """Something large that an item holds."""


bodies = []


def held():
    bodies.append(weakref.ref(body := Body()))
    return body


async def fails(item):
    body = held()
    raise ValueError(item, id(body))


async def fails_with_a_cause(item):
    body = held()
    try:
        await fails(item)
    except ValueError as error:
        error.add_note("a note")
        raise KeyError(item, id(body)) from error


async def fails_in_its_handler(item):
    body = held()
    try:
        await fails(item)
    except ValueError:
        raise KeyError(item, id(body))  # noqa: B904


async def fails_in_its_nursery(item):
    body = held()

    async def child():
        raise ValueError(item, id(body))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)
        nursery.start_soon(fails, item)


async def takes_too_long(item):
    body = held()
    await trio.sleep_forever()
    return body


async def fails_while_it_is_cut(item):
    body = held()
    try:
        await trio.sleep_forever()
    finally:
        raise ValueError(item, id(body))


ITEMS = [
    fails,
    fails_with_a_cause,
    fails_in_its_handler,
    fails_in_its_nursery,
    takes_too_long,
    fails_while_it_is_cut,
]


@pytest.mark.parametrize("on_error", ["collect", "cancel"])
@pytest.mark.parametrize("fn", ITEMS)
async def test_nothing_that_an_item_held_lives_on_in_its_outcome(autojump_clock, fn, on_error):
    bodies.clear()
    batch = Batch(fn, range(5), limit=2, item_timeout=1, on_error=on_error)
    raised = []
    with trio.move_on_after(0.5 if fn is fails_while_it_is_cut else 10):
        try:
            await batch.run()
        except* Exception as group:  # noqa: BLE001
            raised.append(group)
    assert batch.report().errors()
    await trio.lowlevel.checkpoint()
    assert bodies
    assert [ref for ref in bodies if ref() is not None] == []


@pytest.mark.parametrize("fn", ITEMS)
async def test_a_report_that_is_dropped_is_freed_without_a_collection(autojump_clock, fn):
    class Item:
        pass

    items = [Item() for _ in range(5)]
    alive = [weakref.ref(item) for item in items]
    with trio.move_on_after(0.5):
        await run_batch(fn, items)
    await trio.lowlevel.checkpoint()
    del items
    assert [ref for ref in alive if ref() is not None] == []


def reachable(thing):
    seen, new = {}, [thing]
    while new:
        thing = new.pop()
        if id(thing) in seen or isinstance(thing, type | types.ModuleType | types.FunctionType):
            continue
        seen[id(thing)] = thing
        new.extend(gc.get_referents(thing))
    return list(seen.values())


@pytest.mark.parametrize("fn", ITEMS)
@pytest.mark.parametrize("on_error", ["collect", "cancel"])
async def test_no_frame_of_the_engine_and_no_task_is_reached_from_an_outcome(
    autojump_clock, fn, on_error
):
    batch = Batch(fn, [1, 2], item_timeout=1, on_error=on_error)
    try:
        await batch.run()
    except* Exception:  # noqa: BLE001
        pass
    for outcome in batch.report().outcomes:
        for thing in reachable(outcome):
            assert not isinstance(thing, trio.lowlevel.Task | trio.Nursery | Batch)
            if isinstance(thing, types.FrameType):
                assert "nursery_patterns" not in thing.f_code.co_filename
                assert thing.f_locals == {}
                assert thing.f_back is None


async def test_the_lines_of_a_failure_are_kept():
    report = await run_batch(fails_with_a_cause, [1])
    (error,) = report.errors()
    text = "".join(traceback.format_exception(error))
    here = fails.__code__.co_filename
    line = fails.__code__.co_firstlineno + 2
    assert f'  File "{here}", line {line}, in fails\n    raise ValueError(item, id(body))\n' in text
    assert "in fails_with_a_cause\n    raise KeyError(item, id(body)) from error\n" in text
    assert "a note" in text
    assert "_engine.py" not in text


async def test_an_error_of_a_task_that_still_runs_leaves_that_task_alone():
    shared = []
    ready, go_on = trio.Event(), trio.Event()

    async def loader():
        try:
            raise ConnectionError("refused")  # noqa: TRY301
        except ConnectionError as error:
            shared.append(error)
        ready.set()
        await go_on.wait()
        shared.append("went on")

    async def fn(item):
        raise shared[0]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(loader)
        await ready.wait()
        report = await run_batch(fn, [1, 2])
        assert [type(error) for error in report.errors()] == [ConnectionError] * 2
        go_on.set()
    assert shared[1:] == ["went on"]


async def test_unwrapping_leaves_no_cycle():
    async def fn(item):
        raise ValueError(item)

    report = await run_batch(fn, [1])
    ref = weakref.ref(report)
    with pytest.raises(ValueError, match="1"):
        report.outcomes[0].unwrap()
    with pytest.raises(ValueError, match="1"):
        report.raise_errors(unwrap=True)
    del report
    assert ref() is None
