"""Wrong calls fail at once, and their messages have the corrected call. Whole messages."""

import functools
import math

import pytest
import trio

from nursery_patterns import Batch, TokenBucket, run_batch
from tests.support.policies import STREAMS


async def fetch(url):
    return url


def plain(url):
    return url


class Callable:
    async def __call__(self, item):
        return item


WRONG = {
    "a plain function": (
        lambda: Batch(plain, []),
        (
            "TypeError: expected an async function, got the plain function plain: declare it with "
            "`async def plain(item): ...`, or run it in a thread with "
            "Batch(functools.partial(run_in_thread, plain), items, limit=10)"
        ),
    ),
    "a coroutine object": (
        lambda: Batch(fetch("a"), []),
        (
            "TypeError: expected an async function, got the coroutine object fetch(...): pass the "
            "function itself and let each item be its argument, as in Batch(fetch, items, limit=10)"
        ),
    ),
    "a lambda": (
        lambda: Batch(lambda url: fetch(url), []),  # noqa: PLW0108 - the lambda is the case
        (
            "TypeError: expected an async function, got a lambda, which does not show whether "
            "it is async: write Batch(fn, items, limit=10) with `async def fn(item): ...`, or use "
            "functools.partial(async_function, ...)"
        ),
    ),
    "no function at all": (
        lambda: Batch(None, []),
        (
            "TypeError: expected an async function, got None: write Batch(fn, items, limit=10) "
            "with `async def fn(item): ...`"
        ),
    ),
    "items that cannot be iterated": (
        lambda: Batch(fetch, 5),
        (
            "TypeError: items must be an iterable or an async iterable, got 5: "
            "write Batch(fn, [item]) to run one item"
        ),
    ),
    "a limit of 0": (
        lambda: Batch(fetch, [], limit=0),
        "ValueError: limit must be at least 1, got 0: write Batch(fn, items, limit=10)",
    ),
    "a limit that is no whole number": (
        lambda: Batch(fetch, [], limit=2.5),
        "TypeError: limit must be a whole number, got 2.5: write Batch(fn, items, limit=10)",
    ),
    "a limit of True": (
        lambda: Batch(fetch, [], limit=True),
        "TypeError: limit must be a whole number, got True: write Batch(fn, items, limit=10)",
    ),
    "a limiter that is a number": (
        lambda: Batch(fetch, [], limiter=5),
        (
            "TypeError: limiter must be a CapacityLimiter, got 5: "
            "write Batch(fn, items, limiter=trio.CapacityLimiter(10))"
        ),
    ),
    "a bucket that is a number": (
        lambda: Batch(fetch, [], bucket=5),
        (
            "TypeError: bucket must be a TokenBucket, got 5: "
            "write Batch(fn, items, bucket=TokenBucket(rate=5, capacity=5))"
        ),
    ),
    "an item timeout of 0": (
        lambda: Batch(fetch, [], item_timeout=0),
        (
            "ValueError: item_timeout must be above 0 seconds, got 0: "
            "write Batch(fn, items, item_timeout=30)"
        ),
    ),
    "an item timeout that is no number": (
        lambda: Batch(fetch, [], item_timeout=math.nan),
        (
            "ValueError: item_timeout must be above 0 seconds, got nan: "
            "write Batch(fn, items, item_timeout=30)"
        ),
    ),
    "an unknown policy": (
        lambda: Batch(fetch, [], on_error="ignore"),
        "ValueError: on_error must be 'collect' or 'cancel', got 'ignore'",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_call_is_refused_with_the_right_one(wrong):
    make, message = WRONG[wrong]
    with pytest.raises((TypeError, ValueError)) as caught:
        make()
    assert f"{type(caught.value).__name__}: {caught.value}" == message


@pytest.mark.parametrize("policy", [run_batch, *STREAMS])
async def test_the_shorter_calls_check_their_arguments_too(policy):
    with pytest.raises(ValueError, match=r"limit must be at least 1, got 0"):
        await policy(fetch, [], limit=0)
    with pytest.raises(TypeError, match=r"got the plain function plain"):
        await policy(plain, [])


@pytest.mark.parametrize(
    ("timeout", "message"),
    [
        (-1, "timeout must be at least 0 seconds, got -1: write run_batch(fn, items, timeout=30)"),
        (
            math.nan,
            "timeout must be at least 0 seconds, got nan: write run_batch(fn, items, timeout=30)",
        ),
    ],
)
async def test_a_wrong_timeout_is_refused(timeout, message):
    with pytest.raises(ValueError) as caught:
        await run_batch(fetch, [], timeout=timeout)
    assert str(caught.value) == message


async def two_arguments(prefix, item):
    return prefix + item


def decorated(fn):
    @functools.wraps(fn)
    def wrapper(item):
        return fn(item)

    return wrapper


@pytest.mark.parametrize(
    "fn",
    [
        fetch,
        Callable(),
        Callable().__call__,
        functools.partial(two_arguments, "x"),
        functools.partial(functools.partial(two_arguments), "x"),
        decorated(fetch),
    ],
)
async def test_whatever_is_an_async_function_of_one_item_is_taken(fn):
    report = await run_batch(fn, ["a"])
    assert report.values()[0].endswith("a")


async def test_all_options_together_are_taken(autojump_clock):
    report = await run_batch(
        trio.sleep,
        [1],
        timeout=10,
        limit=1,
        limiter=trio.CapacityLimiter(1),
        item_timeout=5,
        bucket=TokenBucket(rate=1, capacity=1),
        on_error="cancel",
        name="all of them",
    )
    assert report.complete


async def test_a_whole_number_too_large_for_a_float_is_a_long_time_and_no_rate():
    report = await run_batch(fetch, ["a"], timeout=10**400, item_timeout=10**400)
    assert report.values() == ["a"]
    batch = Batch(fetch, ["a"])
    batch.item_timeout = 10**400
    assert (await batch.run()).values() == ["a"]
    with pytest.raises(ValueError, match="rate must be above 0 per second and finite"):
        TokenBucket(rate=10**400, capacity=1)


async def test_a_batch_without_a_bound_of_its_own_says_so():
    batch = Batch(fetch, "ab")
    batch.limiter.total_tokens = math.inf
    assert batch.limit == math.inf
    assert (await batch.run()).values() == ["a", "b"]
