"""Spans for batches and their items, as an exporter of OpenTelemetry's SDK receives them."""

import math
import pickle
import subprocess
import sys
import threading

import pytest
import trio

from nursery_patterns import Batch, Retry, TokenBucket, run_in_cluster, use_cluster
from nursery_patterns._cluster_job import run_job
from nursery_patterns.testing import cancel_at_every_checkpoint

telemetry = pytest.importorskip("nursery_patterns.telemetry", reason="no OpenTelemetry")
sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="OpenTelemetry's SDK is missing")

from opentelemetry import trace  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF  # noqa: E402


class Recorded:
    """A tracer and the spans that it made, in the order of their ends."""

    def __init__(self, **options):
        self.provider = sdk.TracerProvider(shutdown_on_exit=False, **options)
        self.exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    @property
    def spans(self):
        return self.exporter.get_finished_spans()

    def named(self, name):
        return [span for span in self.spans if span.name == name]


@pytest.fixture
def recorded():
    return Recorded()


def indices(spans):
    return sorted(span.attributes["nursery_patterns.item.index"] for span in spans)


def spans_of(recorded, **options):
    return telemetry.ItemSpans(tracer=recorded.tracer, **options)


async def nap(item):
    await trio.sleep(item)


async def test_a_batch_has_a_span_with_its_counts_and_its_items_are_children(
    recorded, autojump_clock
):
    batch = Batch(nap, [1, 2], observer=spans_of(recorded), name="naps")
    with telemetry.batch_span(batch, tracer=recorded.tracer) as around:
        await batch.run()
    (outer,) = recorded.named("batch naps")
    assert outer.attributes == {
        "nursery_patterns.batch.name": "naps",
        "nursery_patterns.batch.total": 2,
        "nursery_patterns.batch.succeeded": 2,
        "nursery_patterns.batch.failed": 0,
        "nursery_patterns.batch.timed_out": 0,
        "nursery_patterns.batch.cancelled": 0,
        "nursery_patterns.batch.not_started": 0,
    }
    items = recorded.named("item")
    assert indices(items) == [0, 1]
    assert {span.parent.span_id for span in items} == {around.get_span_context().span_id}


async def test_what_an_item_does_is_a_child_of_its_span(recorded, autojump_clock):
    async def step(item):
        await trio.sleep(1)
        with recorded.tracer.start_as_current_span(f"step {item}"):
            await trio.sleep(1)

    await Batch(step, [0, 1, 2], limit=2, observer=spans_of(recorded)).run()
    spans = {
        span.attributes["nursery_patterns.item.index"]: span for span in recorded.named("item")
    }
    for index in range(3):
        (inner,) = recorded.named(f"step {index}")
        assert inner.parent.span_id == spans[index].context.span_id


@pytest.mark.parametrize(
    ("sample", "with_span"),
    [(0.25, [0, 4, 8]), (0, []), (1, list(range(10))), (0.5, [0, 2, 4, 6, 8])],
)
async def test_a_share_of_the_items_have_spans_and_the_others_start_none(
    recorded, sample, with_span
):
    async def step(item):
        await trio.lowlevel.checkpoint()
        with recorded.tracer.start_as_current_span("inside"):
            await trio.lowlevel.checkpoint()

    await Batch(step, range(10), limit=3, observer=spans_of(recorded, sample=sample)).run()
    assert indices(recorded.named("item")) == with_span
    assert len(recorded.named("inside")) == len(with_span)


async def test_an_item_that_fails_has_a_span_in_any_case_and_no_message(recorded, autojump_clock):
    async def fail(item):
        await trio.sleep(2)
        if item == 3:
            raise ValueError("the secret s3cr3t")

    batch = Batch(fail, range(5), observer=spans_of(recorded, sample=0))
    with telemetry.batch_span(batch, tracer=recorded.tracer) as around:
        await batch.run()
    (span,) = recorded.named("item")
    assert span.attributes == {
        "nursery_patterns.item.index": 3,
        "nursery_patterns.item.status": "failed",
        "error.type": "ValueError",
    }
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.status.description is None
    assert span.events == ()
    assert span.end_time - span.start_time >= 2_000_000_000
    assert span.parent.span_id == around.get_span_context().span_id


async def test_an_item_that_is_too_slow_is_a_timeout(recorded, autojump_clock):
    await Batch(nap, [9], item_timeout=1, observer=spans_of(recorded)).run()
    (span,) = recorded.spans
    assert span.attributes["error.type"] == "timeout"
    assert span.attributes["nursery_patterns.item.status"] == "timed_out"


async def test_attempts_are_events_and_waits_are_attributes(recorded, autojump_clock):
    tries = []

    async def second_time(item):
        await trio.lowlevel.checkpoint()
        tries.append(item)
        if len(tries) == 1:
            raise OSError("not yet")

    batch = Batch(
        second_time,
        "ab",
        limit=1,
        retry=Retry(attempts=2, initial=1, jitter=0, budget=None),
        bucket=TokenBucket(rate=1, capacity=1),
        observer=spans_of(recorded),
    )
    await batch.run()
    first, second = sorted(recorded.spans, key=lambda span: indices([span]))
    (event,) = first.events
    assert (event.name, dict(event.attributes)) == (
        "retry",
        {
            "nursery_patterns.item.attempt": 1,
            "nursery_patterns.item.delay_seconds": 1,
            "error.type": "OSError",
        },
    )
    assert first.attributes["nursery_patterns.item.attempts"] == 2
    assert second.attributes["nursery_patterns.item.waited_for"] == "bucket"
    assert 0 <= second.attributes["nursery_patterns.item.waited_seconds"] <= 1


async def test_a_cancel_ends_the_spans_and_the_next_run_makes_new_ones(recorded, autojump_clock):
    batch = Batch(nap, [1, 5, 5], limit=2, observer=spans_of(recorded))
    with trio.move_on_after(2), telemetry.batch_span(batch, tracer=recorded.tracer):
        await batch.run()
    (outer,) = recorded.named("batch nap")
    assert outer.attributes["error.type"] == "cancelled"
    assert outer.status.status_code is trace.StatusCode.UNSET
    cut = [s for s in recorded.named("item") if s.attributes.get("error.type") == "cancelled"]
    assert indices(cut) == [1, 2]
    with telemetry.batch_span(batch, tracer=recorded.tracer) as again:
        await batch.run()
    later = [
        s for s in recorded.named("item") if s.parent.span_id == again.get_span_context().span_id
    ]
    assert indices(later) == [1, 2]
    assert batch.report().complete


async def test_an_error_that_leaves_the_block_is_named_and_its_words_are_not(recorded):
    batch = Batch(nap, [0], name="naps")
    with pytest.raises(KeyError), telemetry.batch_span(batch, tracer=recorded.tracer):
        raise KeyError("s3cr3t")
    (span,) = recorded.spans
    assert span.attributes["error.type"] == "KeyError"
    assert span.status.status_code is trace.StatusCode.ERROR
    assert "s3cr3t" not in span.to_json()


async def test_a_trace_that_is_not_sampled_has_no_items():
    quiet = Recorded(sampler=ALWAYS_OFF)
    batch = Batch(nap, [0, 0], observer=spans_of(quiet))
    with telemetry.batch_span(batch, tracer=quiet.tracer):
        await batch.run()
    assert quiet.spans == ()


async def test_the_context_of_the_caller_is_as_before(recorded):
    before = trace.get_current_span()
    batch = Batch(nap, [0] * 20, limit=4, observer=spans_of(recorded, sample=0.5))
    await batch.run()
    async with batch.stream():
        pass
    assert trace.get_current_span() is before


async def test_several_observers_are_told_in_their_order(recorded):
    told = []

    class Note:
        def __init__(self, name):
            self.name = name

        def started(self, index, item):
            told.append(self.name)

    await Batch(nap, [0], observer=[Note("a"), spans_of(recorded), Note("b")]).run()
    assert told == ["a", "b"]
    assert len(recorded.spans) == 1


def test_spans_end_wherever_a_batch_is_cancelled():
    async def scenario(probe):
        recorded = Recorded()
        batch = Batch(nap, [0, 0.1, 0.1], limit=2, observer=spans_of(recorded))
        try:
            with telemetry.batch_span(batch, tracer=recorded.tracer):
                await batch.run()
        finally:
            started = sum(1 for o in batch.report().outcomes if o.status != "not_started")
            assert len(recorded.named("item")) == started
            assert len(recorded.named("batch nap")) == 1

    cancel_at_every_checkpoint(scenario)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (1.5, "sample must be at most 1, got 1.5: write ItemSpans(sample=0.1)"),
        (-1, "sample must be at least 0 and finite, got -1: write ItemSpans(sample=0.1)"),
        (math.nan, "sample must be at least 0 and finite, got nan: write ItemSpans(sample=0.1)"),
    ],
)
def test_a_share_out_of_its_bounds_is_refused(sample, message):
    with pytest.raises(ValueError, match="sample") as caught:
        telemetry.ItemSpans(sample=sample)
    assert str(caught.value) == message


def test_what_is_no_batch_has_no_span():
    with pytest.raises(TypeError, match="batch must be a Batch"), telemetry.batch_span([1]):
        pass


class Threads:
    """A `ClusterEngine` whose nodes are threads."""

    def __init__(self, address):
        self.address = address

    def submit(self, job, resources, ended):
        arguments = job.pickled(pickle.dumps)
        threading.Thread(target=lambda: ended(run_job(*arguments))).start()
        return job

    def cancel(self, task):
        raise AssertionError

    def close(self):
        pass


def current_trace_id():
    return format(trace.get_current_span().get_span_context().trace_id, "032x")


async def test_a_call_on_the_cluster_belongs_to_the_trace_of_its_caller(recorded):
    use_cluster("threads", engine=Threads)
    with recorded.tracer.start_as_current_span("caller") as span:
        there = await run_in_cluster(current_trace_id)
    assert there == format(span.get_span_context().trace_id, "032x")
    assert await run_in_cluster(current_trace_id) == "0" * 32


def test_the_library_imports_no_opentelemetry_by_itself():
    program = (
        "import sys, nursery_patterns as n, trio\n"
        "trio.run(n.run_batch, trio.sleep, [0, 0])\n"
        "print([m for m in sys.modules if m.startswith('opentelemetry')])"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert out.stdout == "[]\n"
