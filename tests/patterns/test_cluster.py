"""Calls on a cluster: the trio side with an engine of threads, and the same over a real Ray."""

import ctypes
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import types
import weakref
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from nursery_patterns import (
    ClusterError,
    ClusterJob,
    ClusterLost,
    RemoteTraceback,
    WorkerCrashed,
    check_in_cluster,
    cluster_statistics,
    connect_cluster,
    current_default_cluster_limiter,
    current_request,
    request_context,
    run_batch,
    run_in_cluster,
    use_cluster,
)
from nursery_patterns._cluster_job import run_job
from nursery_patterns._process_guard import children_of


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


async def test_a_cluster_that_was_lost_is_connected_to_again():
    engines = []

    def connect(address):
        engines.append(Threads(address))
        return engines[-1]

    use_cluster("here", engine=connect)
    assert cluster_statistics().state == "not connected"
    assert await run_in_cluster(len, "abc") == 3
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_loss)
        await until(lambda: engines[0].running)
        [ended] = engines[0].running.values()
        ended(ClusterLost("the node is gone"))
    stood = cluster_statistics()
    assert (stood.state, stood.error, stood.in_flight) == ("lost", "the node is gone", 0)
    assert (stood.ended, stood.crashed) == (2, 1)
    assert await run_in_cluster(len, "abcd") == 4
    assert [engine.closed for engine in engines] == [True, False]
    assert cluster_statistics().state == "connected"


async def expect_loss():
    with pytest.raises(ClusterLost, match=r"^the node is gone$"):
        await run_in_cluster(hold)


async def test_a_function_is_pickled_with_its_first_call_and_let_go(engine):
    table = Counted()
    fn = partial(divmod_of, table)
    for number in (2, 3):
        assert await run_in_cluster(fn, number) == divmod(7, number)
    assert table.pickled == 1
    gone = weakref.ref(fn)
    del fn
    await until(lambda: gone() is None)


class Counted:
    pickled = 0

    def __reduce__(self):
        self.pickled += 1
        return Counted, ()


def divmod_of(_table, number):
    return divmod(7, number)


async def test_the_time_left_travels_along(engine):
    with request_context(), trio.fail_after(100):
        assert 99 < await run_in_cluster(tell_remaining) <= 100
        assert 99 < current_request().remaining <= 100
    with request_context():
        assert await run_in_cluster(tell_remaining) == math.inf


def tell_remaining():
    return current_request().remaining


def test_a_node_sets_the_request_without_importing_trio():
    job = (
        "import sys; from nursery_patterns import _cluster_job as job\n"
        "with job._request_context(('r-1', 'someone', 1.5, 10.0)):\n"
        "    from nursery_patterns._requests import current_request\n"
        "    assert 9 < current_request().remaining <= 10\n"
        "assert 'trio' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", job], check=True)


async def test_calls_that_end_close_together_all_arrive(engine):
    async def call(number):
        assert await run_in_cluster(abs, -number, limiter=trio.CapacityLimiter(1)) == number

    with trio.fail_after(60):
        report = await run_batch(call, range(200), limit=50)
    assert report.counts.succeeded == 200


def test_ray_that_is_not_there_or_not_installed_is_told_in_words(monkeypatch):
    from nursery_patterns import _ray  # noqa: PLC0415 - of the real Ray, as below

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"^run_in_cluster needs Ray, which is not installed"):
        _ray.connect("local")
    found = types.SimpleNamespace(is_initialized=lambda: False, init=None)
    monkeypatch.setitem(sys.modules, "ray", found)
    with pytest.raises(
        ConnectionError, match=r"^there is no Ray cluster at 'ray://127\.0\.0\.1:1'"
    ):
        _ray.connect("ray://127.0.0.1:1")
    for error, kind, message in (
        (RuntimeError("Version mismatch"), RuntimeError, r"cannot be used from here: Version mis"),
        (ConnectionError("no"), ConnectionError, r"^there is no Ray cluster at 'auto' \(no\)"),
    ):
        found.init = partial(fail_to_start, error)
        with pytest.raises(kind, match=message) as caught:
            _ray.connect("auto")
        assert isinstance(caught.value, ClusterError)
    found.init = partial(fail_to_start, Exception("timed out"))
    with pytest.raises(ConnectionError, match=r"^Ray could not be started on this machine: timed"):
        _ray.connect("local")


def fail_to_start(error, **_):
    raise error


def test_the_engine_is_left_when_the_run_ends():
    engines = []

    async def main():
        await connect_cluster(engine=lambda address: engines.append(Threads(address)) or engines[0])
        await run_in_cluster(len, "abc")

    trio.run(main)
    assert engines[0].closed


# --- a real Ray ---------------------------------------------------------------------------------


def handler_of_sigterm():
    """Return the address of the handler in C, which opens a `struct sigaction`."""
    action = (ctypes.c_void_p * 64)()
    ctypes.CDLL(None).sigaction(signal.SIGTERM, None, action)
    return action[0]


@pytest.fixture(scope="module")
def ray():
    """Ray on this machine, started as `run_in_cluster` starts it, in a thread that lives on."""
    ray = pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    from nursery_patterns import _ray  # noqa: PLC0415 - after the check

    before = handler_of_sigterm()
    started, finish = threading.Event(), threading.Event()
    failures = []

    def serve():
        try:
            engine = _ray.connect("local")
        except ClusterError as error:
            failures.append(error)
            started.set()
            return
        started.set()
        finish.wait()
        engine.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        started.wait(120)
        if failures or not started.is_set():
            pytest.skip(f"this machine is too busy to start Ray: {failures}")
        assert handler_of_sigterm() == before
        agents = [pid for node in nodes() for pid, _ in children_of(node)]
        yield ray
    finally:
        finish.set()
        thread.join(30)
    assert agents
    assert not [pid for pid in agents if Path(f"/proc/{pid}/exe").exists()]


def nodes():
    return [pid for pid, name in children_of(os.getpid()) if name == "raylet"]


def spin(note=None):
    if note is not None:
        os.close(os.open(note, os.O_CREAT))
    while True:
        pass


def die_of_some(folder, number):
    if number % 10 == 3:
        with open(f"{folder}/died {number}", "a") as note:  # noqa: PTH123
            note.write("1")
        os._exit(3)
    return number


def length_of_both(table, text):
    return len(table) + len(text)


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

    # Workers that die fail their own calls alone, each once.
    dying = partial(run_in_cluster, die_of_some, str(tmp_path))
    report = await run_batch(dying, range(20), limit=20)
    assert [outcome.index for outcome in report.outcomes if outcome.value is None] == [3, 13]
    for number in (3, 13):
        error = report.outcomes[number].error
        assert isinstance(error, WorkerCrashed)
        assert str(error).startswith("the cluster lost the worker of die_of_some: Worker")
        assert (tmp_path / f"died {number}").read_text() == "1"

    # A result that is too large is told there, and does not come here.
    with pytest.raises(ClusterError, match=r"^the result of bytes has 70,000,0"):
        await run_in_cluster(bytes, 70_000_000)

    # What cannot be run is refused before anything is.
    await check_in_cluster(die_of_some)
    with pytest.raises(TypeError, match=r"must be picklable to be sent to a cluster, but: "):
        await check_in_cluster(partial(len, threading.Lock()))

    # A large function is sent once, through the object store.
    table = bytes(1_000_000)
    report = await run_batch(partial(run_in_cluster, partial(length_of_both, table)), ["a", "bc"])
    assert report.values() == [1_000_001, 1_000_002]

    assert await run_in_cluster(abs, -1, resources={"CPU": 0.5, "memory": 1e6}) == 1
