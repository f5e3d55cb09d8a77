"""What is kept counts as what it holds in memory, and comes out as the answer would have had it."""

import datetime as dt
import gc
import json
import math
import tracemalloc

import pytest
import trio

from nursery_patterns import Batch
from tests.support.followed_operations import calling, server_with
from tests.support.servers_in_memory import values_of
from trio_tools.answers.errors import ToolFailure
from trio_tools.operations.item_runner import ItemRunner
from trio_tools.operations.memory_estimate import held_bytes
from trio_tools.operations.operation import Operation

EMOJI = "\U0001f600"


async def made(spec: list) -> object:
    """Return what a name stands for, that many times."""
    await trio.lowlevel.checkpoint()
    name, count = spec
    return MADE[name](count)


async def same(item: object) -> object:
    """Return the item."""
    await trio.lowlevel.checkpoint()
    return item


async def failing(count: int) -> object:
    """Fail with that many characters and empty objects."""
    await trio.lowlevel.checkpoint()
    data = {"text": "x" * count, "rows": [{} for _ in range(count // 100)]}
    raise ToolFailure("m" * 1_000, remediation="r" * 1_000, data=data)


MADE = {
    "empty objects": lambda count: [{} for _ in range(count)],
    "small objects": lambda count: [{"id": n, "name": f"name {n}"} for n in range(count)],
    "numbers": lambda count: [n / 7 for n in range(count)],
    "a text": lambda count: "x" * count,
    "Cyrillic": lambda count: "ж" * count,
    "a text with an emoji": lambda count: "x" * count + EMOJI,
    "no value": lambda _: None,
}


async def count_and_measure(function, items):
    """Run a batch; return the bytes that it counts, and those that it holds."""

    async def run():
        reserved = []
        work = ItemRunner(
            Operation(name="work", fn=function),
            items(),
            page_bytes=20_000,
            reserve=reserved.append,
            count=reserved.append,
        )
        before = work.size
        batch = Batch(work.run, items(), limit=10)
        await batch.run()
        assert work.size == before + sum(reserved)
        return work, batch

    await run()  # whatever is loaded or cached at first is no part of it
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work, batch = await run()
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert batch.progress.value.done == batch.progress.value.total
    return work.size, held


@pytest.mark.parametrize("count", [1, 100, 10_000])
@pytest.mark.parametrize("name", MADE)
async def test_results_count_as_what_they_hold(name, count):
    counted, held = await count_and_measure(made, lambda: [[name, count] for _ in range(60)])
    assert held / 2.2 < counted < held * 2.2


@pytest.mark.parametrize("count", [1, 100, 3_000])
@pytest.mark.parametrize("name", MADE)
async def test_items_count_as_what_they_hold(name, count):
    async def nothing(item: object) -> object:
        await trio.lowlevel.checkpoint()

    items = [MADE[name](count) for _ in range(60)]  # given to the batch as they are
    copied = json.dumps(items)
    counted, held = await count_and_measure(nothing, lambda: json.loads(copied))
    assert held / 2.2 < counted < held * 2.2


async def test_failures_count_as_what_they_hold():
    counted, held = await count_and_measure(failing, lambda: [5_000] * 60)
    assert held / 2 < counted < held * 2
    assert counted > 60 * 10_000  # 2,000 of sentences, 5,000 of text, 50 objects of 64


async def test_failures_that_take_all_memory_stop_the_call_and_none_is_lost():
    server = server_with(failing, max_kept_bytes=100_000)
    async with calling(server) as call:
        answer = await call("batch_process", operation="failing", items=[15_000] * 30)
    counts = answer["data"]["counts"]
    assert counts["failed"] + counts["not_started"] == 30
    assert counts["failed"] >= 3
    assert counts["not_started"]
    codes = [error["error_code"] for error in answer["data"]["errors"]]
    assert set(codes) == {"INTERNAL", "NOT_STARTED"}


def test_a_sample_stands_for_what_is_too_much_to_walk():
    for value, least in (
        ([{} for _ in range(100_000)], 7_200_000),
        ([[n + 1_000, "ab" * 20] for n in range(100_000)], 12_000_000),
        ([1] * 100_000 + [{"n": {}} for _ in range(50_000)], 13_000_000),
    ):
        assert held_bytes(value) == pytest.approx(least, rel=0.25)


def test_what_is_shared_counts_once_and_attributes_count():
    text = "x" * 10_000

    class Point:
        def __init__(self):
            self.text = "y" * 10_000

    assert 10_000 < held_bytes([text] * 50) < 12_000
    assert 10_000 < held_bytes(Point()) < 12_000


VALUES = [
    (math.nan, None),
    ((1, 2), [1, 2]),
    ({"a": {1: EMOJI}}, {"a": {"1": EMOJI}}),
    (dt.date(2026, 1, 2), "2026-01-02"),
    (-(10**40), str(-(10**40))),
    (2**53 - 1, 2**53 - 1),
    (2**53, "9007199254740992"),
    ([{"a": -(2**53)}], [{"a": "-9007199254740992"}]),
    (1e-320, 1e-320),
    ('a"\\\n\u2028ж', 'a"\\\n\u2028ж'),
    (True, True),
    (None, None),
]


async def test_a_value_comes_out_as_json_has_it(era):
    async def value_of(index: int) -> object:
        await trio.lowlevel.checkpoint()
        return VALUES[index][0]

    server = server_with(value_of)
    async with calling(server, era) as call:
        done = await call("batch_process", operation="value_of", items=[*range(len(VALUES))])
        page = await call("get_operation", operation_id=done["data"]["operation_id"])
    for shown in (values_of(done["data"]), [o["value"] for o in page["data"]["outcomes"]]):
        assert [(value, type(value)) for value in shown] == [
            (value, type(value)) for _, value in VALUES
        ]


@pytest.mark.parametrize("size", [600, 5_000])
async def test_a_result_that_nobody_could_read_back_fails_its_item_alone(size):
    async def deep(item: int) -> object:
        await trio.lowlevel.checkpoint()
        value = 10**size if size > 4_300 else 1
        for _ in range(220 if size < 4_300 else 0):
            value = [value]
        return value if item else "fine"

    server = server_with(deep)
    async with calling(server) as call:
        answer = await call("batch_process", operation="deep", items=[0, 1, 0])
    assert values_of(answer["data"]) == ["fine", "fine"]
    assert [error["error_code"] for error in answer["data"]["errors"]] == ["NOT_JSON"]


@pytest.mark.parametrize("page_chars", [1_001, 4_000])
async def test_a_large_text_of_any_letters_is_read_whole_in_parts_of_characters(page_chars):
    text = "".join(
        letter * (1 + n % 3) for n, letter in zip(range(3_000), f'aж€{EMOJI}"\\' * 500, strict=True)
    )
    whole = json.dumps(text, ensure_ascii=False)
    server = server_with(same, max_output_chars=page_chars)
    async with calling(server) as call:
        done = await call("batch_process", operation="same", items=[text])
        (shown,) = values_of(done["data"])
        assert shown["json_chars"] == len(whole)
        assert shown["json_start"] == whole[: min(1_000, page_chars // 2)]
        cursor, start = shown["cursor"], 0
        while cursor:
            asked = {"operation_id": done["data"]["operation_id"], "cursor": cursor}
            page = await call("get_operation", **asked)
            part = page["data"]["json_part"]
            assert (page["data"]["offset"], page["data"]["json_chars"]) == (start, len(whole))
            assert part == whole[start : start + page_chars // 2]
            start += len(part)
            cursor = page["meta"]["pagination"]["cursor"]
    assert start == len(whole)


async def test_a_large_result_that_is_cut_short_is_finished_all_the_same():
    """It is dumped, and a cancel comes before its characters are counted."""
    with trio.CancelScope() as scope:

        async def large(_: object) -> object:
            await trio.lowlevel.checkpoint()
            scope.cancel()
            return "ж" * 50_000

        work = ItemRunner(
            Operation(name="large", fn=large),
            [1],
            page_bytes=20_000,
            reserve=lambda _: None,
            count=lambda _: None,
        )
        batch = Batch(work.run, [1])
        await batch.run()
    (outcome,) = batch.report().outcomes
    assert scope.cancel_called
    assert outcome.value.chars == 50_002
    assert outcome.value.part(0, 3) == '"жж'
