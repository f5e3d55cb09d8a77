"""A cancelled call stops all that it began: threads, statements in databases, worker processes.

What is at work is told by the machine, not by the server: the frames of threads, the list of
processes, PostgreSQL's own list of statements.
"""

import multiprocessing
import os
import sqlite3
import statistics
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from nursery_patterns import (
    abandoned_threads,
    current_default_process_limiter,
    current_default_thread_limiter,
)
from tests.support.followed_operations import ENDLESS, server_with, threads_at_work, until
from tests.support.postgres import AT_WORK
from tests.support.servers_in_memory import connected, status_of
from tests.tools.spinning import spin
from trio_tools.operations.operation import Operation

# From the cancel until nothing is at work, on a machine that does nothing else. On a busy one each
# hand-over from a thread or a process to another waits for the processor, so a wait is measured
# against a control: what a hand-over takes in the same moment. The median of some cancels in a row
# has to keep the bound, at the latest in the last of a few such rows.
BOUND_SECONDS = 0.05
HAND_OVERS = 10
CANCELS = 5
ROWS = 4
ACTIVE = "SELECT state = 'active' FROM pg_stat_activity WHERE pid = %s"


def is_open(name, pid="self"):
    """Tell whether this process, or another one, has a file of that name open."""
    try:
        paths = [os.path.realpath(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:  # the process has ended meanwhile
        return False
    return any(Path(path).name == name for path in paths)


async def time_of_a_hand_over(at_work):
    """Return the seconds that it takes to have a thread answer, and the machine be asked."""
    started = time.perf_counter()
    await trio.to_thread.run_sync(time.perf_counter, limiter=trio.CapacityLimiter(1))
    at_work()
    return time.perf_counter() - started


async def check_cancels(
    server, era, tool, arguments, at_work, *, settled=0.02, cancels=CANCELS, control=None
):
    """Cancel a call in the midst of its work, again and again. The server must go on.

    Args:
        at_work: Tells whether what the call began is at work.
        settled: Seconds to let it work before the cancel.
        cancels: How many make a row.
        control: Returns the seconds that anybody would need to stop that work; by default what some
            hand-overs take.
    """

    async def seconds_of_hand_overs():
        return HAND_OVERS * await time_of_a_hand_over(at_work)

    async def call():
        answer = await client.call_tool(tool, arguments)
        pytest.fail(f"it ended by itself: {answer.structured_content}")

    taken = deque(maxlen=cancels)
    async with connected(server, era) as client:
        for _ in range(cancels * ROWS):
            assert not at_work()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                await until(at_work)
                await trio.sleep(settled)
                assert at_work()  # it is no call that ends by itself
                nursery.cancel_scope.cancel()
                cancelled = time.perf_counter()
            await until(lambda: not at_work() and not server.state.calls)
            wait = time.perf_counter() - cancelled
            taken.append(wait - await (control or seconds_of_hand_overs)())
            await until(lambda: not abandoned_threads())  # a machine that stands still leaves some
            status = await status_of(client)
            assert {limit["in_use"] for limit in status["limits"].values()} <= {0}
            assert status["work_for_departed_callers"] == 0
            assert current_default_thread_limiter().borrowed_tokens == 0
            assert current_default_process_limiter().borrowed_tokens == 0
            if len(taken) == cancels and statistics.median(taken) <= BOUND_SECONDS:
                return
    raise AssertionError(taken)


async def test_a_statement_of_sqlite_ends_with_its_call(tmp_path, era):
    def at_work():
        return any(is_open("shop.db", worker.pid) for worker in multiprocessing.active_children())

    sqlite3.connect(tmp_path / "shop.db").close()
    server = server_with(databases={"shop": {"url": f"sqlite:///{tmp_path}/shop.db"}})
    asked = {"sql": ENDLESS}
    await check_cancels(server, era, "query_database", asked, at_work, cancels=3)


@pytest.mark.parametrize(
    "sql",
    ["SELECT pg_sleep(600)", "SELECT count(*) FROM generate_series(1, 100000000000) AS number"],
)
async def test_a_statement_of_postgresql_ends_with_its_call(
    postgres_folder, postgres_url, era, sql
):
    import psycopg  # noqa: PLC0415 - an extra

    server = server_with(databases={"shop": {"url": postgres_url}})
    with psycopg.connect(host=str(postgres_folder), user="postgres", autocommit=True) as owner:

        def at_work():
            return owner.execute(AT_WORK).fetchall()

        async def seconds_to_stop_it():
            with psycopg.connect(host=str(postgres_folder), user="postgres") as plain:

                def run():
                    with suppress(psycopg.errors.QueryCanceled):
                        plain.execute(sql)

                def is_active():
                    return owner.execute(ACTIVE, [plain.info.backend_pid]).fetchone() == (True,)

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.to_thread.run_sync, run)
                    await until(is_active)
                    await trio.sleep(0.02)
                    started = time.perf_counter()
                    owner.execute("SELECT pg_cancel_backend(%s)", [plain.info.backend_pid])
            return 3 * (time.perf_counter() - started)  # it connects, cancels and reads the answer

        await check_cancels(
            server, era, "query_database", {"sql": sql}, at_work, control=seconds_to_stop_it
        )
        assert threads_at_work() == []


@pytest.mark.parametrize("algorithm", ["sha256", "sha3_512"])
async def test_the_hash_of_a_large_file_ends_with_its_call(tmp_path, era, algorithm):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**30)
    server = server_with(file_roots=(tmp_path,))
    asked = {"path": "large", "algorithm": algorithm}
    await check_cancels(
        server, era, "compute_hash", asked, lambda: threads_at_work() or is_open("large")
    )


@pytest.mark.parametrize(("algorithm", "level"), [("lzma", 9), ("zstd", 11), ("zlib", 9)])
async def test_a_compression_ends_with_its_call(tmp_path, era, algorithm, level):
    (tmp_path / "large").write_text(os.urandom(22_000_000).hex())
    server = server_with(file_roots=(tmp_path,))
    asked = {"path": "large", "algorithm": algorithm, "level": level}
    await check_cancels(server, era, "compress_data", asked, threads_at_work)


async def test_a_worker_process_dies_with_its_call(tmp_path):
    server = server_with(Operation(name="spin", fn=spin, runs="process"))
    note = tmp_path / "pid"

    def at_work():
        pid = int(note.read_text() or 0) if note.exists() else 0
        return pid in {process.pid for process in multiprocessing.active_children()}

    asked = {"operation": "spin", "items": [str(note)]}
    await check_cancels(server, "auto", "batch_process", asked, at_work, cancels=3)
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


async def test_a_model_dies_with_its_call(tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra `inference` is not installed")
    from tests.support.models import save_endless_model  # noqa: PLC0415 - needs onnx

    save_endless_model(tmp_path / "spin.onnx")
    asked = {"model": "spin", "inputs": {"x": [1]}}
    server = server_with(models_folder=tmp_path)

    def at_work():
        maps = [f"/proc/{p.pid}/maps" for p in multiprocessing.active_children()]
        return any("onnxruntime" in Path(m).read_text() for m in maps)

    # From when the worker has the library, it is to load and to run the model.
    await check_cancels(server, "auto", "run_inference", asked, at_work, settled=0.3, cancels=3)
    assert multiprocessing.active_children() == []
