"""Calls on a cluster: the trio side with an engine of threads, and the same over a real Ray."""

import os
import pickle
import signal
import threading
import time
from functools import partial

import pytest
import trio
import trio.testing

from nursery_patterns import (
    ClusterJob,
    RemoteTraceback,
    WorkerCrashed,
    connect_cluster,
    current_default_cluster_limiter,
    current_request,
    request_context,
    run_batch,
    run_in_cluster,
)
from nursery_patterns._cluster_job import run_job


class Threads:
    """A `ClusterEngine` whose nodes are threads; a job can be held, lost and cancelled."""

    def __init__(self, address):
        self.address = address
        self.threads = {threading.current_thread()}
        self.cancelled = []
        self.closed = False
        self.running = {}

    def submit(self, job: ClusterJob, resources, ended):
        self.threads.add(threading.current_thread())
        arguments = job.pickled(pickle.dumps, Reference)
        arguments = [a.value if isinstance(a, Reference) else a for a in arguments]
        if job.name == "hold":
            self.running[job] = ended
            return job
        if job.name == "lose":
            ended(WorkerCrashed("lost"))
        else:
            threading.Thread(target=lambda: ended(run_job(*arguments))).start()
        return job

    def cancel(self, task):
        self.cancelled.append(task.name)
        self.running.pop(task)(WorkerCrashed("cancelled"))

    def close(self):
        self.closed = True


class Reference:
    def __init__(self, value):
        self.value = value


def hold():
    raise AssertionError


def lose():
    raise AssertionError


def fail(error):
    raise error


def tell_request():
    request = current_request()
    return request and (request.request_id, request.client_id, request.elapsed >= 1.5)


async def until(predicate):
    with trio.fail_after(60):
        while not predicate():  # noqa: ASYNC110 - it comes true in another process or thread
            await trio.sleep(0.01)


@pytest.fixture
async def engine():
    made = []

    def connect(address):
        made.append(Threads(address))
        return made[0]

    await connect_cluster("here", engine=connect, max_bytes=100_000)
    return made[0]


async def test_a_call_returns_its_value_from_the_engines_one_thread(engine):
    report = await run_batch(partial(run_in_cluster, divmod, 7), range(1, 50), limit=20)
    assert report.values() == [divmod(7, n) for n in range(1, 50)]
    assert engine.address == "here"
    assert engine.threads.isdisjoint({threading.main_thread()})
    assert len(engine.threads) == 1


async def test_an_exception_arrives_as_itself_with_its_traceback_there(engine):
    with pytest.raises(KeyError, match=r"^'x'$") as caught:
        await run_in_cluster(fail, KeyError("x"))
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "in fail" in str(caught.value.__cause__)


async def test_what_ends_programs_and_what_is_lost_is_the_failure_of_its_call(engine):
    with pytest.raises(WorkerCrashed, match=r"^fail raised SystemExit\(3\)$"):
        await run_in_cluster(fail, SystemExit(3))
    with pytest.raises(WorkerCrashed, match=r"^lost$"):
        await run_in_cluster(lose)
    assert await run_in_cluster(len, "abc") == 3


async def test_an_exception_that_cannot_be_sent_is_told_by_its_name(engine):
    with pytest.raises(RuntimeError, match=r"^exec raised Odd: no$"):
        await run_in_cluster(
            exec,
            "class Odd(Exception):\n"
            " def __init__(self, a, b): super().__init__('no')\n"
            "raise Odd(1, 2)",
        )


async def test_a_cancel_cancels_the_task_and_waits_until_its_core_is_free(engine):
    limiter = trio.CapacityLimiter(1)
    with trio.move_on_after(0.05) as scope:
        await run_in_cluster(hold, limiter=limiter)
    assert scope.cancelled_caught
    assert (engine.cancelled, engine.running, limiter.borrowed_tokens) == (["hold"], {}, 0)


async def test_the_limiter_bounds_the_calls_in_flight(engine):
    async with trio.open_nursery() as nursery:
        limiter = trio.CapacityLimiter(3)
        for _ in range(10):
            nursery.start_soon(partial(run_in_cluster, hold, limiter=limiter))
        await until(lambda: len(engine.running) == 3)
        await trio.testing.wait_all_tasks_blocked()
        assert (len(engine.running), limiter.statistics().tasks_waiting) == (3, 7)
        nursery.cancel_scope.cancel()
    assert engine.running == {}
    assert current_default_cluster_limiter().total_tokens == 100


async def test_the_request_context_travels_along(engine):
    with request_context("r-1", "someone") as context:
        object.__setattr__(context, "started", context.started - 2)
        assert await run_in_cluster(tell_request) == ("r-1", "someone", True)
    assert await run_in_cluster(tell_request) is None


async def test_a_reference_is_replaced_by_its_value_on_the_node(engine):
    assert await run_in_cluster(divmod, Reference(7), 2) == (3, 1)


@pytest.mark.parametrize(
    ("fn", "args", "kind", "message"),
    [
        (len, (bytes(200_000),), ValueError, "len and its arguments have 200,"),
        (bytes, (200_000,), ValueError, "the result of bytes has 200,"),
        (len, (threading.Lock(),), TypeError, "len and its arguments must be picklable to be"),
        (trio.sleep, (1,), TypeError, "expected a plain function, got the async function sleep"),
    ],
)
async def test_what_cannot_be_sent_is_refused_by_name(fn, args, kind, message, engine):
    with pytest.raises(kind) as caught:
        await run_in_cluster(fn, *args)
    assert str(caught.value).startswith(message)
    assert engine.running == {}


@pytest.mark.parametrize(
    ("resources", "kind", "message"),
    [
        ({"CPU": -1}, ValueError, "resource 'CPU' must be at least 0 and finite, got -1: write "),
        ({"GPU": "all"}, TypeError, "resource 'GPU' must be a number, got 'all': write "),
        (2, TypeError, "resources must be a Mapping, got 2: write "),
    ],
)
async def test_resources_that_are_none_are_refused(resources, kind, message, engine):
    with pytest.raises(kind) as caught:
        await run_in_cluster(len, "abc", resources=resources)
    assert str(caught.value) == (
        f'{message}await run_in_cluster(fn, argument, resources={{"CPU": 2}})'
    )


async def test_a_cluster_that_is_not_there_fails_each_call_that_asks_for_it():
    tries = []

    def connect(address):
        tries.append(address)
        if len(tries) < 3:
            raise ConnectionError(f"nobody at {address}")
        return Threads(address)

    for _ in range(2):
        with pytest.raises(ConnectionError, match=r"^nobody at far away$"):
            if not tries:
                await connect_cluster("far away", engine=connect)
            else:
                await run_in_cluster(len, "abc")
    assert await run_in_cluster(len, "abc") == 3
    with pytest.raises(RuntimeError, match=r"^this run is connected to a cluster already"):
        await connect_cluster("nearer")


def test_the_engine_is_left_when_the_run_ends():
    engines = []

    async def main():
        await connect_cluster(engine=lambda address: engines.append(Threads(address)) or engines[0])
        await run_in_cluster(len, "abc")

    trio.run(main)
    assert engines[0].closed


# --- a real Ray ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ray():
    """Ray on this machine, started as `run_in_cluster` starts it, in a thread that lives on."""
    ray = pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    from nursery_patterns import _ray  # noqa: PLC0415 - after the check

    handler = signal.getsignal(signal.SIGTERM)
    started, finish = threading.Event(), threading.Event()

    def serve():
        engine = _ray.connect("local")
        started.set()
        finish.wait()
        engine.close()

    thread = threading.Thread(target=serve)
    thread.start()
    assert started.wait(120), "Ray did not start within two minutes"
    assert signal.getsignal(signal.SIGTERM) is handler
    yield ray
    finish.set()
    thread.join()


def spin(note=None):
    if note is not None:
        os.close(os.open(note, os.O_CREAT))
    while True:
        pass


def tell_more(words, number):
    return len(words) * number, current_request().client_id


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
async def test_ray_keeps_the_contract(ray, tmp_path):
    cpus = int(ray.cluster_resources()["CPU"])
    offset = 5
    assert await run_in_cluster(lambda a, b: a + b + offset, 2, 3) == 10  # by value
    with request_context(client_id="someone"):
        words = await trio.to_thread.run_sync(ray.put, ["a"] * 1000)
        assert await run_in_cluster(tell_more, words, 3) == (3000, "someone")
    with pytest.raises(ZeroDivisionError) as caught:
        await run_in_cluster(divmod, 1, 0)
    assert "ZeroDivisionError" in str(caught.value.__cause__)

    # A cancel frees the cores: as many as there are compute, and then others do.
    async with trio.open_nursery() as nursery:
        for number in range(cpus):
            nursery.start_soon(run_in_cluster, spin, str(tmp_path / str(number)))
        await until(lambda: len(list(tmp_path.iterdir())) == cpus)
        cancelled = time.monotonic()
        nursery.cancel_scope.cancel()
    assert time.monotonic() - cancelled < 5  # milliseconds on an idle machine
    with trio.fail_after(60):
        report = await run_batch(partial(run_in_cluster, abs), range(-50, 0), limit=20)
    assert report.values() == list(range(50, 0, -1))

    # A worker that dies fails its own call alone.
    report = await run_batch(partial(run_in_cluster, eval), ["1 + 1", "__import__('os')._exit(3)"])
    assert report.outcomes[0].value == 2
    assert isinstance(report.outcomes[1].error, WorkerCrashed)
    assert str(report.outcomes[1].error).startswith("the cluster lost the worker of eval: Worker")

    assert await run_in_cluster(abs, -1, resources={"CPU": 0.5, "memory": 1e6}) == 1
