"""However the options of a batch are combined, it comes to its end, with one outcome per item."""

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from nursery_patterns import Batch, Retry, TokenBucket, released_slot
from tests.support.policies import AsyncItems, IteratorItems, SizedItems

FOR_EVER = 10_000.0


def on_a_virtual_clock(main):
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_an_item_after_its_bucket_takes_the_slot_of_an_item_that_was_tried_again(
    autojump_clock,
):
    # At 2 s the second item has the token of the bucket and waits for the slot, which the first
    # one took back at 1 s and holds until 6 s. Then the first worker waits for its next item.
    times = {}

    async def work(item):
        tried = item in times
        times.setdefault(item, trio.current_time())
        if item == "first" and not tried:
            raise OSError("not yet")
        await trio.sleep(5)
        return trio.current_time()

    with trio.fail_after(FOR_EVER):
        report = await Batch(
            work,
            ["first", "second", "third"],
            limit=1,
            retry=Retry(attempts=2, initial=1, jitter=0, budget=None),
            bucket=TokenBucket(rate=0.5, capacity=1),
        ).run()
    assert report.values() == [6, 11, 16]


async def test_an_item_that_waits_for_its_key_keeps_its_token_when_the_limit_is_lowered(
    autojump_clock,
):
    # At 1 s the third item has ended and holds its token until the second one, which waits for
    # the key of the first, has ended. The limit falls to 1, so there is no token for anybody.
    async def work(item):
        if item != 2:
            await trio.sleep(5)
        return item

    batch = Batch(work, range(3), limit=3, key=lambda item: item == 2, limit_per_key=1)

    async def lower():
        await trio.sleep(1)
        batch.limiter.total_tokens = 1

    with trio.fail_after(FOR_EVER):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lower)
            async with batch.stream(ordered=True) as outcomes:
                assert [outcome.value async for outcome in outcomes] == [0, 1, 2]
    assert trio.current_time() == 10


class Channel:
    """The numbers below n, out of a channel that somebody fills."""

    def __init__(self, n):
        self.n = n

    async def __aiter__(self):
        for number in range(self.n):
            await trio.sleep(number % 2)
            yield number


options = st.fixed_dictionaries(
    {
        "n": st.integers(0, 8),
        "source": st.sampled_from([SizedItems, IteratorItems, AsyncItems, Channel]),
        "limit": st.integers(1, 3),
        "shared": st.none() | st.integers(1, 2),
        "rate": st.sampled_from([None, 0.5, 1, 2]),
        "keys": st.none() | st.integers(1, 2),
        "key_rate": st.sampled_from([None, 1]),
        "failures": st.lists(st.integers(0, 7), max_size=4, unique=True),
        "backoff": st.sampled_from([0, 1, 2]),
        "releases": st.booleans(),
        "seconds": st.lists(st.sampled_from([0, 1, 5]), min_size=1, max_size=4),
        "how": st.sampled_from(["run", "stream", "ordered"]),
        "pause": st.sampled_from([0, 1]),
        "limits": st.lists(st.integers(1, 3), max_size=3),  # one a second, after the first
    }
)


@settings(max_examples=300)
@given(options)
def test_any_combination_of_options_ends(spec):
    tried, got = [], []

    async def work(item):
        again = item in tried
        tried.append(item)
        if item in spec["failures"] and not again:
            raise OSError("not yet")
        seconds = spec["seconds"][item % len(spec["seconds"])]
        if spec["releases"]:
            async with released_slot():
                await trio.sleep(seconds)
        await trio.sleep(seconds)
        return -item

    async def main():
        keys = spec["keys"]
        rate, key_rate = (
            None if each is None else TokenBucket(rate=each, capacity=1)
            for each in (spec["rate"], spec["key_rate"])
        )
        batch = Batch(
            work,
            spec["source"](spec["n"]),
            limit=spec["limit"],
            limiter=None if spec["shared"] is None else trio.CapacityLimiter(spec["shared"]),
            bucket=rate,
            key=None if keys is None else lambda item: item % 2,
            limit_per_key=keys,
            bucket_per_key=None if keys is None else key_rate,
            retry=Retry(attempts=2, initial=spec["backoff"], jitter=0, budget=None)
            if spec["failures"]
            else None,
        )

        async def resize():
            for limit in spec["limits"]:
                await trio.sleep(1)
                batch.limiter.total_tokens = limit

        async def to_the_end():
            if spec["how"] == "run":
                got.extend((await batch.run()).outcomes)
            else:
                async with batch.stream(ordered=spec["how"] == "ordered") as outcomes:
                    async for outcome in outcomes:
                        got.append(outcome)
                        await trio.sleep(spec["pause"])

        with trio.fail_after(FOR_EVER):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(resize)
                await to_the_end()

    on_a_virtual_clock(main)
    assert sorted(outcome.value for outcome in got) == [-n for n in reversed(range(spec["n"]))]
