"""Whose turn it is: by weight within one item of the share, by priority, and nobody for ever."""

import math
from collections import Counter
from functools import partial

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from nursery_patterns import Admission, Limits, Overloaded
from nursery_patterns._fair_queue import FairQueue

WEIGHTS = st.lists(
    st.one_of(st.integers(1, 20), st.floats(0.1, 20, allow_nan=False)), min_size=1, max_size=8
)


def filled(weights, each, ageing=10.0):
    queue = FairQueue(ageing)
    for number in range(each):
        for key, weight in enumerate(weights):
            queue.push((key, number), key=key, weight=weight, priority=0, now=0)
    return queue


@settings(max_examples=40, deadline=None)
@given(weights=WEIGHTS)
def test_every_prefix_of_a_run_is_within_one_item_of_the_ideal_share(weights):
    queue = filled(weights, 40)
    shares = [weight / sum(weights) for weight in weights]
    served = Counter()
    for taken in range(1, 41):  # all keys have somebody waiting for as long
        key, number = queue.pop(0)
        assert number == served[key]  # in order of arrival
        served[key] += 1
        for each, share in enumerate(shares):
            assert abs(served[each] - share * taken) <= 1 + 1e-6


def test_one_heavy_key_among_ten_light_ones_takes_every_second_turn():
    queue = filled([10] + 10 * [1], 10)
    order = [queue.pop(0)[0] for _ in range(20)]
    assert [key == 0 for key in order] == 10 * [True, False]


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_whatever_comes_and_goes_each_item_is_taken_once_or_removed(data):
    queue, inside, taken, number = FairQueue(10.0), set(), [], 0
    for now in range(data.draw(st.integers(1, 80))):
        what = data.draw(st.sampled_from(["push", "push", "pop", "remove"]))
        if what == "push":
            key, priority = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 2))
            weight = data.draw(st.sampled_from([0.5, 1, 3]))
            queue.push(number, key=key, weight=weight, priority=priority, now=now)
            inside.add(number)
            number += 1
        elif inside and what == "pop":
            item = queue.pop(now)
            inside.remove(item)
            taken.append(item)
        elif inside:
            item = data.draw(st.sampled_from(sorted(inside)))
            queue.remove(item)
            inside.remove(item)
        assert len(queue) == len(inside)
        for level in queue._levels.values():
            assert level.lines
            assert all(line.items for line in level.lines.values())
            total = sum(line.weight for line in level.lines.values())
            assert level.total_weight == pytest.approx(total)
    rest = [queue.pop(80) for _ in range(len(queue))]
    assert sorted(rest) == sorted(inside)
    assert len({*taken, *rest}) == len(taken) + len(rest)


def test_a_key_pays_nothing_for_who_left_the_line():
    queue = FairQueue(10.0)
    for item in ("a1", "a2", "b1", "b2"):
        queue.push(item, key=item[0], weight=1, priority=0, now=0)
    queue.remove("a1")
    assert [queue.pop(0) for _ in range(3)] == ["a2", "b1", "b2"]


def test_a_key_cannot_get_ahead_by_leaving_and_coming_back():
    queue = FairQueue(10.0)
    for number in range(20):
        queue.push(("b", number), key="b", weight=1, priority=0, now=0)
    order = []
    for number in range(10):
        queue.push(("a", number), key="a", weight=1, priority=0, now=0)
        order += [queue.pop(0)[0], queue.pop(0)[0]]
    assert order.count("a") == 10


def test_lower_priorities_come_first_whatever_the_weights():
    queue = FairQueue(math.inf)
    for number in range(3):
        queue.push(("late", number), key="x", weight=100, priority=1, now=0)
        queue.push(("soon", number), key="y", weight=0.1, priority=-1, now=5)
    assert [queue.pop(9)[0] for _ in range(6)] == 3 * ["soon"] + 3 * ["late"]


@pytest.mark.parametrize(("waited", "first"), [(9.75, "urgent"), (10.25, "old")])
def test_waiting_for_the_ageing_time_counts_as_one_step(waited, first):
    queue = FairQueue(10.0)
    queue.push("old", key=0, weight=1, priority=1, now=0)
    queue.push("urgent", key=0, weight=1, priority=0, now=waited)
    assert queue.pop(waited) == first


@settings(max_examples=40, deadline=None)
@given(ageing=st.integers(1, 20), steps=st.integers(1, 5))
def test_nobody_starves_behind_a_stream_of_urgent_ones(ageing, steps):
    queue = FairQueue(float(ageing))
    queue.push("patient", key="p", weight=1, priority=steps, now=0)
    for now in range(ageing * steps + 3):
        queue.push(("urgent", now), key="u", weight=1, priority=0, now=now)
        if queue.pop(now) == "patient":
            break
    else:
        pytest.fail("it starved")


def test_entries_that_are_out_of_date_are_bounded():
    queue = FairQueue(10.0)
    queue.push("stays", key="stays", weight=1, priority=0, now=0)
    for number in range(10_000):
        queue.push(number, key=number, weight=1, priority=0, now=0)
        queue.remove(number)
    level = queue._levels[0]
    assert len(level._to_start) + len(level._started) < 200
    assert len(level._served_until) < 200


# --- in front of a limiter --------------------------------------------------------------------


async def settle():
    await trio.testing.wait_all_tasks_blocked()


async def hold(slot, log, name):
    async with slot():
        log.append(name)
        await trio.sleep(1)


@pytest.mark.parametrize("of", ["Admission", "Limits"])
async def test_slots_are_given_by_priority_and_weight(of, autojump_clock):
    if of == "Admission":
        slot = Admission(trio.CapacityLimiter(1), max_waiting=100).slot
    else:
        slot = partial(Limits({"it": 1}).slot, "it")
    log = []
    async with trio.open_nursery() as nursery:
        for name, options in [
            ("holder", {}),
            ("front", {}),
            *[(f"light {n}", {"key": "light"}) for n in range(2)],
            *[(f"heavy {n}", {"key": "heavy", "weight": 2}) for n in range(4)],
            ("urgent", {"key": "light", "priority": -1}),
        ]:
            nursery.start_soon(hold, partial(slot, **options), log, name)
            await settle()
    assert log[:3] == ["holder", "front", "urgent"]
    assert sorted(log[3:6]) == ["heavy 0", "heavy 1", "light 0"]
    assert sorted(log[6:]) == ["heavy 2", "heavy 3", "light 1"]


async def test_a_limits_snapshot_counts_the_whole_line(autojump_clock):
    limits = Limits({"it": 1})
    async with trio.open_nursery() as nursery:
        for key in range(4):
            nursery.start_soon(hold, partial(limits.slot, "it", key=key), [], key)
        await settle()
        assert (limits.snapshot()["it"].in_use, limits.snapshot()["it"].waiting) == (1, 3)
    assert limits.snapshot()["it"].finished == 4


async def test_in_a_full_line_the_urgent_take_the_place_of_the_less_urgent(autojump_clock):
    admission = Admission(trio.CapacityLimiter(1), max_waiting=2)
    log, refused = [], []

    async def call(name, **options):
        try:
            await hold(partial(admission.slot, **options), log, name)
        except Overloaded:
            refused.append(name)

    async with trio.open_nursery() as nursery:
        for name, priority in [("h", 0), ("f", 0), ("late", 1), ("soon", -1), ("later", 2)]:
            nursery.start_soon(partial(call, name, priority=priority))
            await settle()
    assert log == ["h", "f", "soon"]
    assert refused == ["late", "later"]


async def test_in_a_full_line_a_share_counts_by_weight(autojump_clock):
    admission = Admission(trio.CapacityLimiter(1), max_waiting=5)
    refused = []

    async def call(name, **options):
        try:
            await hold(partial(admission.slot, **options), [], name)
        except Overloaded:
            refused.append(name)

    async with trio.open_nursery() as nursery:
        for name in ("h", "f", "a1", "a2", "a3", "a4"):
            nursery.start_soon(partial(call, name, key="a", weight=4))
            await settle()
        nursery.start_soon(partial(call, "b", key="b", weight=0.5))  # 1 for a half is more
        await settle()
        assert refused == ["b"]
        nursery.start_soon(partial(call, "c", key="c", weight=4))
        await settle()
        assert refused == ["b", "a4"]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"key": []}, TypeError, "key must be hashable, got [] (unhashable type: 'list'): write "),
        ({"weight": 0}, ValueError, "weight must be above 0 and finite, got 0: write "),
        ({"weight": math.nan}, ValueError, "weight must be above 0 and finite, got nan: write "),
        ({"priority": math.nan}, ValueError, "priority must be finite, got nan: write "),
        ({"priority": -math.inf}, ValueError, "priority must be finite, got -inf: write "),
        ({"priority": "high"}, TypeError, "priority must be a number, got 'high': write "),
    ],
)
async def test_bad_input_is_refused_with_the_corrected_call(options, kind, message):
    slots = (Admission(trio.CapacityLimiter(1), 1).slot, partial(Limits().slot, "it"))
    for slot in slots:
        with pytest.raises(kind) as caught:
            async with slot(**options):
                pass
        assert str(caught.value).startswith(message + "admission.slot(key=client_id")
