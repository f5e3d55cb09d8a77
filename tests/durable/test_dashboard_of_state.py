"""`trio-tools dashboard`: the page of a state that other processes write to."""

import csv
import io
import json
import re
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial

import httpx
import pytest
import trio

from tests.transports.test_dashboard import first_event as read_event
from trio_tools import Settings, create_server
from trio_tools.command_line.main import main
from trio_tools.live.stored_view import StoredView
from trio_tools.operations.durable.database import StateDatabase
from trio_tools.operations.durable.location import Location, StateTroubleError
from trio_tools.transports.local_page import serve_page
from trio_tools.transports.memory import connect_in_process

EVIL = "<script>alert(1)</script>"


async def work(item: str) -> str:
    """Return the item, or fail, or wait."""
    await trio.lowlevel.checkpoint()
    if item == "hang":
        await trio.sleep_forever()
    if item.startswith("fail"):
        raise ValueError(item)
    return item


async def run(server, operation_id, items):
    async with connect_in_process(server) as client:
        arguments = {"operation": "work", "items": items, "operation_id": operation_id}
        await client.call_tool("batch_process", arguments)


@asynccontextmanager
async def page_of(state):
    """The page of a state, and a client that has its token."""
    view = StoredView(create_server(Settings(**state)).state)
    try:
        await view.check()
        async with trio.open_nursery() as nursery:
            url = await nursery.start(partial(serve_page, view))
            base, _, token = url.partition("#token=")
            headers = {"authorization": f"Bearer {token}"}
            async with httpx.AsyncClient(base_url=base, headers=headers) as client:
                yield client, view
            nursery.cancel_scope.cancel()
    finally:
        view.close()


async def first_event(client):
    return await read_event(client, {"authorization": client.headers["authorization"]})


async def test_what_servers_have_stored_is_shown_and_downloaded(state):
    await run(create_server(Settings(**state), operations=[work]), EVIL, ["a", f"fail {EVIL}"])
    async with page_of(state) as (client, _):
        data = await first_event(client)
        assert data["server"]["read_only"]
        (operation,) = data["operations"]
        assert (operation["operation_id"], operation["operation"]) == (EVIL, "work")
        assert not operation["running"]
        counts = operation["counts"]
        assert (counts["total"], counts["succeeded"], counts["failed"]) == (2, 1, 1)
        (failed,) = operation["failed"]
        assert (failed["index"], failed["item"]) == (1, f"fail {EVIL}")
        path = "/dashboard/operations/" + "".join(
            f"%{byte:02x}" for byte in operation["key"].encode()
        )
        lines = (await client.get(f"{path}.jsonl")).text.splitlines()
        assert [json.loads(line)["status"] for line in lines] == ["succeeded", "failed"]
        table = list(csv.DictReader(io.StringIO((await client.get(f"{path}.csv")).text)))
        assert [row["value"] for row in table] == ["a", ""]
        refused = await client.post(f"{path}/cancel")
        assert refused.status_code == 405
        assert "trio-tools operations cancel" in refused.text
        page = await client.get("/", headers={"authorization": ""})
        assert "script-src 'sha256-" in page.headers["content-security-policy"]
        assert EVIL not in page.text


async def test_an_operation_that_a_server_works_on_is_running_and_then_is_not(state):
    server = create_server(Settings(**state), operations=[work])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, server, "op", ["a", "hang", "b"])
        with trio.fail_after(30):
            while not (stored := await _records_of(state)) or stored[0].succeeded < 2:  # noqa: ASYNC110
                await trio.sleep(0.02)
        async with page_of(state) as (client, _):
            (operation,) = (await first_event(client))["operations"]
            assert operation["running"]
            assert operation["counts"]["succeeded"] == 2
            server.drain()
            with trio.fail_after(30):
                while operation["running"]:
                    (operation,) = (await first_event(client))["operations"]
            assert operation["counts"]["not_started"] == 1


async def _records_of(state):
    location = Location.of_url(state["state"]["url"])
    if not location.may_hold_operations():
        return []
    database = StateDatabase(location, "test", read_only=True)
    try:
        return await trio.to_thread.run_sync(database.records)
    except StateTroubleError:
        return []
    finally:
        database.close()


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/dashboard/events", {"authorization": ""}, 401),
        ("GET", "/dashboard/events", {"authorization": "Bearer wrong"}, 401),
        ("GET", "/dashboard/events", {"host": "evil.example"}, 421),
        ("GET", "/dashboard/events", {"origin": "https://evil.example"}, 403),
        ("GET", "/", {"host": "evil.example"}, 421),
        ("POST", "/dashboard/operations/x/cancel", {"origin": "https://evil.example"}, 403),
        ("GET", "/dashboard/operations/x.csv", {}, 404),
        ("GET", "/dashboard/operations/%5B1%5D.csv", {}, 404),
        ("GET", "/dashboard/operations/..%2f..%2fetc.csv", {}, 404),
        ("POST", "/mcp", {}, 413),
        ("GET", "/metrics", {}, 404),
        ("GET", "/metrics", {"authorization": ""}, 401),
    ],
)
async def test_what_may_not_be_asked_is_refused(state_with_one, method, path, headers, status):
    async with page_of(state_with_one) as (client, _):
        content = b"{}" if path == "/mcp" else None
        answer = await client.request(method, path, headers=headers, content=content)
        assert answer.status_code == status


@pytest.fixture
async def state_with_one(state):
    await run(create_server(Settings(**state), operations=[work]), "op", ["a"])
    return state


async def test_the_state_is_read_and_not_changed(state_with_one, state_file):
    before = state_file.read_bytes()
    async with page_of(state_with_one) as (client, view):
        await first_event(client)
        (record,) = await view._records()
        with pytest.raises(StateTroubleError, match="read-only"):
            await trio.to_thread.run_sync(view._database.stop, record.owner, "op")
    assert state_file.read_bytes() == before


async def test_a_state_that_breaks_is_told_and_what_was_seen_stays(state_with_one, monkeypatch):
    async with page_of(state_with_one) as (client, view):
        await first_event(client)

        async def broken():
            raise StateTroubleError("the disk is gone")

        monkeypatch.setattr(view, "_records", broken)
        monkeypatch.setattr(view, "_looked_at", float("-inf"))
        data = await first_event(client)
        assert data["server"]["trouble"] == "the disk is gone"
        assert len(data["operations"]) == 1


def test_a_state_that_cannot_be_shown_is_told_in_words(state_file, capsys):
    assert main(["dashboard", "--state", "memory"]) == 2
    assert "state.url is memory" in capsys.readouterr().err
    assert main(["dashboard", "--state", f"sqlite:///{state_file}"]) == 2
    assert "is not there" in capsys.readouterr().err
    assert not state_file.exists()
    state_file.parent.mkdir()
    state_file.write_bytes(b"no database" * 1_000)
    assert main(["dashboard", "--state", f"sqlite:///{state_file}"]) == 2
    assert "is not a SQLite database" in capsys.readouterr().err


async def test_the_command_prints_its_address_and_ends_with_an_interrupt(state_with_one):
    words = [sys.executable, "-m", "trio_tools", "dashboard"]
    words += ["--state", state_with_one["state"]["url"]]
    run_process = partial(trio.lowlevel.open_process, words, stdout=subprocess.PIPE)
    process = await run_process(stderr=subprocess.DEVNULL)
    async with process.stdout:
        said = b""
        with trio.fail_after(60):
            while b"Ctrl-C" not in said:
                said += await process.stdout.receive_some() or pytest.fail(said.decode())
            found = re.search(rb"http://127\.0\.0\.1:(\d+)/#token=(\S+)", said)
            headers = {"authorization": f"Bearer {found[2].decode()}"}
            url = f"http://127.0.0.1:{int(found[1])}"
            async with httpx.AsyncClient(base_url=url, headers=headers) as client:
                data = await first_event(client)
                assert [each["operation_id"] for each in data["operations"]] == ["op"]
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0
