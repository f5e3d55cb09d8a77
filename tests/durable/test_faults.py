"""Real faults of a disk and of a database: the server goes on in memory, and comes back.

Each test does the same: work before the fault, during it, and after it; nothing that was answered
is lost, and a restart finds all of it.
"""

import os
import subprocess
import sys
from contextlib import contextmanager

import pytest
import trio

from tests.support.followed_operations import server_with
from tests.support.servers_in_memory import envelope_of
from trio_tools.operations.durable import writer
from trio_tools.transports.memory import connect_in_process


async def page(number: int) -> str:
    """Return 40 kB."""
    await trio.lowlevel.checkpoint()
    return f"{number:04}" * 10_000


@pytest.fixture(autouse=True)
def retries_are_quick(monkeypatch):
    monkeypatch.setattr(writer, "_RETRY_SECONDS", 0.05)


async def batch(client, operation_id, count=2):
    asked = {"operation": "page", "items": [*range(count)], "operation_id": operation_id}
    answer = await envelope_of(client, "batch_process", asked)
    assert answer["data"]["counts"]["succeeded"] == count
    return answer["meta"]["warnings"]


async def read(client, operation_id):
    answer = await envelope_of(client, "get_operation", {"operation_id": operation_id})
    assert answer["success"], answer
    return answer["data"]["counts"]["succeeded"]


async def is_in_memory_only(client):
    """Return why, as the status tells it; None if it is not."""
    status = await envelope_of(client, "get_concurrency_status", {})
    assert status["data"]["state"]["in_memory_only"] == bool(status["data"]["state"]["trouble"])
    return status["data"]["state"]["trouble"]


async def goes_on_in_memory_and_returns(url, fault, words):
    """Run servers over a state that fails within the block `fault()`."""
    state = {"state": {"url": url}}
    names = ["before", "during", "after"]
    async with connect_in_process(server_with(page, **state)) as client:
        assert not [w for w in await batch(client, "before") if "memory only" in w]
        with fault():
            warnings = await batch(client, "during", 20)
            assert any(words in warning for warning in warnings), warnings
            assert words in await is_in_memory_only(client)
            assert await read(client, "during") == 20
        with trio.fail_after(60):
            while await is_in_memory_only(client):  # noqa: ASYNC110 - the disk tells nobody
                await trio.sleep(0.05)
        assert not [w for w in await batch(client, "after") if "memory only" in w]
        assert [await read(client, name) for name in names] == [2, 20, 2]
    async with connect_in_process(server_with(page, **state)) as client:
        assert [await read(client, name) for name in names] == [2, 20, 2]


@pytest.fixture
def disk(tmp_path):
    """Mount a disk of 600 kB; a function that mounts it again with other options."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        return subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "trio-tools", folder],
            capture_output=True,
            check=False,
        )

    if mount("size=600k,mode=700").returncode:
        pytest.skip("this system lets nobody mount a small disk")
    try:
        yield folder, lambda options: mount(f"remount,{options}").check_returncode()
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


async def test_a_disk_that_is_full(disk):
    folder, remount = disk

    @contextmanager
    def full():
        yield  # 20 pages of 40 kB do not fit
        remount("size=20m")

    await goes_on_in_memory_and_returns(
        f"sqlite:///{folder}/operations.db", full, "the disk is full"
    )


async def test_a_folder_that_is_read_only_at_the_start(disk):
    folder, remount = disk
    state = {"state": {"url": f"sqlite:///{folder}/operations.db"}}
    remount("ro,size=20m")
    async with connect_in_process(server_with(page, **state)) as client:
        warnings = await batch(client, "op")
        assert any("Read-only file system" in warning for warning in warnings), warnings
        remount("rw,size=20m")
        with trio.fail_after(60):
            while [w for w in await batch(client, "op") if "memory only" in w]:  # noqa: ASYNC110
                await trio.sleep(0.05)
    async with connect_in_process(server_with(page, **state)) as client:
        assert await read(client, "op") == 2


async def test_a_file_that_is_damaged_and_moved_away(state_file):
    @contextmanager
    def damaged():
        for file in state_file.parent.glob("operations.db*"):
            if file.suffix != ".key":
                file.write_bytes(b"no database" * 10_000)
        yield
        for file in state_file.parent.glob("operations.db*"):
            if file.suffix != ".key":
                file.unlink()

    await goes_on_in_memory_and_returns(
        f"sqlite:///{state_file}", damaged, "or set state.url to another file"
    )


async def test_a_postgresql_that_is_stopped_and_started(postgres_server, postgres_url):
    @contextmanager
    def stopped():
        postgres_server.stop()
        try:
            yield
        finally:
            postgres_server.start()

    await goes_on_in_memory_and_returns(postgres_url, stopped, "does not answer as it should")
