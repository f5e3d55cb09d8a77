"""Operations on a cluster, with an engine whose nodes are threads, and what tells of a cluster."""

import pickle
import threading

import pytest
import trio

from nursery_patterns import (
    ClusterError,
    WorkerCrashed,
    connect_cluster,
    current_request,
    use_cluster,
)
from nursery_patterns._cluster_job import run_job
from tests.support.followed_operations import calling
from trio_tools import Operation, Settings, create_server, tool
from trio_tools.server.start_checks import start_problems


class Threads:
    """A `ClusterEngine` whose nodes are threads."""

    def __init__(self, address):
        self.names = []
        self.cancelled = []
        self.held = {}

    def submit(self, job, resources, ended):
        arguments = job.pickled(pickle.dumps)
        self.names.append(job.name)
        if job.args == (HELD,):
            self.held[job] = ended
        elif job.args == (LOST,):
            ended(WorkerCrashed("lost"))
        else:
            threading.Thread(target=lambda: ended(run_job(*arguments))).start()
        return job

    def cancel(self, task):
        self.cancelled.append(task.name)
        self.held.pop(task)(WorkerCrashed("cancelled"))

    def close(self):
        pass


HELD, LOST = -1, -2


def cube(number: int) -> int:
    return number**3


def who(number: int) -> list[object]:
    request = current_request()
    return [request.client_id, 0 < request.remaining <= 20]


async def engine_of_this_run():
    made = []

    def connect(address):
        made.append(Threads(address))
        return made[0]

    await connect_cluster("here", engine=connect)
    return made[0]


def server_of(*operations, tools=(), **settings):
    return create_server(
        Settings(state={"url": "memory"}, **settings), operations=operations, tools=tools
    )


async def test_items_run_on_the_cluster_and_fail_alone():
    engine = await engine_of_this_run()
    operation = Operation(name="cube", fn=cube, runs="cluster")
    async with calling(server_of(operation)) as call:
        answer = await call("batch_process", operation="cube", items=[2, LOST, 3])
        assert [each["value"] for each in answer["data"]["results"]] == [8, 27]
        assert [each["error_code"] for each in answer["data"]["errors"]] == ["WORKER_CRASHED"]
        status = await call("get_concurrency_status")
    assert engine.names == ["cube", "cube", "cube", "cube"]  # the first is the look at it
    assert status["data"]["cluster"] == {
        "address": "here",
        "state": "connected",
        "in_flight": 0,
        "ended": 4,
        "crashed": 1,
        "error": None,
    }


async def test_a_deadline_cancels_what_runs_there_and_travels_along():
    engine = await engine_of_this_run()
    operations = [Operation(name=fn.__name__, fn=fn, runs="cluster") for fn in (cube, who)]
    async with calling(server_of(*operations)) as call:
        answer = await call("batch_process", operation="who", items=[1], timeout_seconds=20)
        assert answer["data"]["results"][0]["value"] == ["anonymous", True]
        cut = await call("batch_process", operation="cube", items=[HELD, 2], timeout_seconds=0.3)
    assert cut["data"]["counts"]["succeeded"] == 1
    assert (engine.cancelled, engine.held) == (["cube"], {})


async def test_built_in_operations_are_sent_there_by_a_setting(tmp_path):
    (tmp_path / "a.txt").write_text("abc")
    engine = await engine_of_this_run()
    names = ("hash", "compress", "fetch")
    server = server_of(
        file_roots=(tmp_path,), operations={name: {"runs": "cluster"} for name in names}
    )
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    async with calling(server) as call:
        for arguments in ({"data": "abc"}, {"path": str(tmp_path / "a.txt")}):
            answer = await call("compute_hash", **arguments)
            assert answer["data"]["hexdigest"] == digest
        missing = await call("compute_hash", path=str(tmp_path / "b.txt"))
        assert missing["data"]["error_code"] == "NOT_FOUND"
        assert (await call("compress_data", data="x" * 99))["data"]["original_bytes"] == 99
        hashed = await call("batch_process", operation="hash", items=["abc"])
        assert hashed["data"]["results"][0]["value"]["hexdigest"] == digest
        listed = {each.name: each.description for each in await server.list_tools()}
    assert len(engine.names) == 6
    for name in ("compute_hash", "compress_data"):
        assert "\nExecution: cluster (CPU-bound), where a cancel frees the core\n" in listed[name]
    assert (
        "Execution: async (I/O-bound); pages are extracted on the cluster" in (listed["fetch_urls"])
    )


async def test_a_tool_of_an_application_runs_on_the_cluster():
    engine = await engine_of_this_run()

    async with calling(server_of(tools=[tool(cubed, runs="cluster")])) as call:
        assert (await call("cubed", number=3))["data"] == {"result": 27}
    assert len(engine.names) == 1


def cubed(number: int) -> int:
    """Return the cube of a number."""
    return number**3


async def test_a_function_that_cannot_be_pickled_is_refused_before_anything_starts():
    engine = await engine_of_this_run()
    lock = threading.Lock()

    def locked(number: int) -> int:
        with lock:
            return number

    operation = Operation(name="locked", fn=locked, runs="cluster")
    async with calling(server_of(operation)) as call:
        answer = await call("batch_process", operation="locked", items=[1, 2])
    assert (answer["success"], answer["data"]["error_code"]) == (False, "NOT_PICKLABLE")
    assert answer["error"].startswith("Operation 'locked' cannot run on the cluster: ")
    assert "locked and its arguments must be picklable to be sent to a cluster" in answer["error"]
    assert engine.names == []


async def test_a_cluster_that_is_not_there_is_one_answer_and_asked_again_by_the_next_call():
    tries = []

    def connect(address):
        tries.append(address)
        if len(tries) == 1:
            raise Unreachable("nobody answers there")
        return Threads(address)

    use_cluster("here", engine=connect)
    operation = Operation(name="cube", fn=cube, runs="cluster")
    async with calling(server_of(operation)) as call:
        status = (await call("get_concurrency_status"))["data"]["cluster"]
        assert (status["state"], tries) == ("not connected", [])
        answer = await call("batch_process", operation="cube", items=[1, 2])
        assert answer["error"] == "Operation 'cube' cannot run on the cluster: nobody answers there"
        assert answer["data"]["error_code"] == "CLUSTER_UNAVAILABLE"
        status = (await call("get_concurrency_status"))["data"]["cluster"]
        assert (status["state"], status["error"]) == ("failed", "nobody answers there")
        answer = await call("batch_process", operation="cube", items=[2])
        assert answer["data"]["results"][0]["value"] == 8


class Unreachable(ClusterError, ConnectionError):
    pass


async def test_a_server_cannot_use_another_cluster_than_its_program():
    await engine_of_this_run()
    server = server_of(cluster={"address": "head:6379"})
    with pytest.raises(RuntimeError, match="connected to a cluster already, at 'here'"):
        async with server.state.serving():
            pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hush": "cluster"}, r"^operations\.hush\.runs: no operation of this server has that na"),
        ({"query": "cluster"}, r"^operations\.query\.runs: operation 'query' waits and computes "),
        ({"fetch": "thread"}, r"^operations\.fetch\.runs: operation 'fetch' computes in a worker"),
    ],
)
def test_an_operation_that_cannot_be_placed_is_refused_at_the_start(settings, message):
    with pytest.raises(ValueError, match=message):
        server_of(operations={name: {"runs": runs} for name, runs in settings.items()})


@pytest.mark.parametrize("address", ["", "ray://", "head", "http://head:80", "head:port"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ValueError, match=r"cluster.address\n.*not an address of a cluster"):
        Settings(cluster={"address": address})


async def test_the_start_tells_of_a_cluster_that_cannot_be_reached(monkeypatch, tmp_path):
    monkeypatch.setattr("trio_tools.server.start_checks.find_spec", lambda name: object())
    server = server_of(cluster={"address": "ray://127.0.0.1:1"})
    [problem] = await start_problems(server)
    assert problem.startswith("cluster.address is 'ray://127.0.0.1:1', but nothing answers there")
    assert problem.endswith(": start the cluster, or correct the address")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    [problem] = await start_problems(server_of(cluster={"address": "auto"}))
    assert problem.startswith("cluster.address is 'auto', but no Ray runs on this machine: ")
    assert await start_problems(server_of(cluster={"address": "local"})) == []
    monkeypatch.setattr("trio_tools.server.start_checks.find_spec", lambda name: None)
    [problem] = await start_problems(server_of(Operation(name="cube", fn=cube, runs="cluster")))
    assert problem == (
        "cluster.address is 'local', but Ray is not installed: pip install 'trio-tools[cluster]'"
    )
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    monkeypatch.setattr("trio_tools.server.start_checks.find_spec", lambda name: object())
    assert await start_problems(server_of(cluster={"address": f"127.0.0.1:{port}"})) == []
    await listeners[0].aclose()
