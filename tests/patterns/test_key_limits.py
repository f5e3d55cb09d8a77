"""Each key has limits of its own, and one that is slow or paced delays no other."""

import pytest
import trio

from nursery_patterns import Batch, Observer, Retry, Status, TokenBucket, run_batch, stream_batch
from nursery_patterns.testing import cancel_at_every_checkpoint
from tests.support.items import Recorder
from tests.support.policies import AsyncItems


def host_of(url):
    return url.partition("/")[0]


def urls(host, n):
    return [f"{host}/{i}" for i in range(n)]


async def test_at_most_so_many_of_a_key_are_in_flight(autojump_clock):
    recorder = Recorder(lambda url: 10 if url.startswith("slow") else 1)
    items = [*urls("slow", 6), *urls("fast", 6)]
    report = await run_batch(recorder, items, limit=4, key=host_of, limit_per_key=2)
    assert report.values() == items
    assert [at for at, url in recorder.started if url.startswith("slow")] == [0, 0, 10, 10, 20, 20]
    assert [at for at, url in recorder.started if url.startswith("fast")] == [0, 0, 1, 1, 2, 2]


async def test_within_a_key_no_item_is_overtaken_by_more_than_those_that_run(autojump_clock):
    recorder = Recorder(1)
    items = [url for pair in zip(urls("a", 20), urls("b", 20), strict=True) for url in pair]
    await run_batch(recorder, items, limit=10, key=host_of, limit_per_key=3)
    for host in "ab":
        started = [int(u.partition("/")[2]) for u in recorder.starts() if u.startswith(host)]
        assert all(abs(place - item) < 3 for place, item in enumerate(started))


@pytest.mark.parametrize(
    "bucket", [TokenBucket(rate=1, capacity=1), lambda host: TokenBucket(rate=1, capacity=1)]
)
async def test_each_key_has_a_bucket_of_its_own(autojump_clock, bucket):
    recorder = Recorder(0)
    items = [*urls("a", 4), *urls("b", 4)]
    await run_batch(recorder, items, limit=2, key=host_of, bucket_per_key=bucket)
    for host in "ab":
        assert [at for at, u in recorder.started if u.startswith(host)] == [0, 1, 2, 3]


async def test_a_slot_is_not_held_while_an_item_waits_for_its_key(autojump_clock):
    class Log(Observer):
        waited = ()

        def waiting(self, index, item, *, reason):
            self.waited += ((index, reason),)

    log = Log()
    limiter = trio.CapacityLimiter(2)
    recorder = Recorder(lambda url: 5 if url.startswith("a") else 1)
    items = [*urls("a", 3), *urls("b", 2)]
    async with trio.open_nursery() as nursery:
        batch = Batch(recorder, items, limiter=limiter, key=host_of, limit_per_key=1, observer=log)
        nursery.start_soon(batch.run)
        await trio.sleep(3)
        assert limiter.borrowed_tokens == 1
        counts = batch.report().counts
        assert (counts.in_flight, counts.succeeded, counts.not_started) == (1, 2, 3)
    assert {(1, "key"), (2, "key"), (4, "key")} <= set(log.waited)


@pytest.mark.parametrize("ordered", [True, False])
async def test_streams_come_to_their_end(autojump_clock, ordered):
    items = AsyncItems(30)
    options = {"key": lambda i: i % 3, "limit_per_key": 1, "ordered": ordered}
    recorder = Recorder(lambda i: 1 + i % 3)
    with trio.fail_after(200):
        async with stream_batch(recorder, items, limit=4, **options) as outcomes:
            values = [outcome.value async for outcome in outcomes]
    assert (values if ordered else sorted(values)) == list(range(30))


async def test_so_many_wait_for_their_key_that_pulling_stops(autojump_clock):
    pulled = 0

    def source():
        nonlocal pulled
        for _ in range(5_000):
            pulled += 1
            yield "a"

    async def hang(item):
        await trio.sleep_forever()

    with trio.move_on_after(1):
        await Batch(hang, source(), key=str, limit_per_key=1).run()
    assert 1_000 <= pulled <= 1_010


async def test_with_a_retry_an_item_keeps_its_place_in_its_key(autojump_clock):
    calls = []

    async def fn(url):
        calls.append((trio.current_time(), url))
        await trio.sleep(1)
        if url == "a/0" and trio.current_time() < 3:
            raise ConnectionError

    retry = Retry(attempts=2, initial=5, jitter=0)
    report = await run_batch(fn, urls("a", 2), key=host_of, limit_per_key=1, retry=retry)
    assert report.complete
    assert calls == [(0, "a/0"), (6, "a/0"), (7, "a/1")]


async def test_keys_are_forgotten_when_nobody_uses_them(autojump_clock):
    batch = Batch(trio.sleep, [0] * 5_000, key=lambda _: object(), limit_per_key=1)
    await batch.run()
    assert len(batch._plan.keys._keys) == 0
    batch = Batch(
        trio.sleep,
        range(5_000),
        key=lambda i: i,
        bucket_per_key=TokenBucket(rate=1, capacity=1),
    )
    await batch.run()
    assert len(batch._plan.keys._keys) <= 2_000


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"limit_per_key": 2}, TypeError, "key must be a function of an item, got None: write"),
        ({"key": 3, "limit_per_key": 2}, TypeError, "key must be a function of an item, got 3"),
        ({"key": str}, TypeError, "key needs a limit_per_key or a bucket_per_key: write Batch"),
        ({"key": str, "limit_per_key": 0}, ValueError, "limit_per_key must be at least 1, got 0"),
        ({"key": str, "bucket_per_key": 5}, TypeError, "bucket_per_key must be a TokenBucket"),
    ],
)
def test_a_wrong_call_is_refused_with_the_right_one(options, kind, message):
    with pytest.raises(kind, match=message):
        Batch(trio.sleep, [1], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": lambda _: [], "limit_per_key": 1}, r"the key \[\] of an item cannot be hashed"),
        ({"key": str, "bucket_per_key": lambda _: 5}, "must return a TokenBucket, got 5"),
    ],
)
async def test_an_invalid_key_ends_the_run(options, message):
    batch = Batch(trio.sleep, [0], **options)
    with pytest.RaisesGroup(pytest.RaisesExc(TypeError, match=message)):
        await batch.run()
    assert [o.status for o in batch.report().outcomes] == [Status.NOT_STARTED]


@pytest.mark.parametrize("options", [{"limit_per_key": 1}, {"bucket_per_key": TokenBucket(1, 1)}])
def test_wherever_it_is_cut_nothing_is_lost_and_nothing_is_held(options):
    async def scenario(probe):
        limiter = probe.watch(trio.CapacityLimiter(2))
        batch = Batch(
            trio.sleep, [1, 1, 2, 1], limit=3, limiter=limiter, key=lambda i: i, **options
        )
        probe.kept["batch"] = probe.watch(batch)
        await batch.run()

    async def after(probe):
        assert (await probe.kept["batch"].run()).complete

    cancel_at_every_checkpoint(scenario, after=after)
