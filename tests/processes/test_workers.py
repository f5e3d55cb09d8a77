"""Several worker processes behind one address, with one parent that owns them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import trio

from tests.processes.running import ROOT, descendants, environment, lives
from tests.transports.lines import call
from tests.transports.requests import PING, exchange, get, modern_call, open_session, post
from trio_tools.__main__ import main
from trio_tools.transports.http import Address

PATIENCE = 120


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


class Workers:
    """A parent with two workers, from outside."""

    def __init__(self, process, log):
        self.process, self.log = process, log

    def said(self, pattern):
        return wait_until(lambda: re.search(pattern, self.log.read_text()))

    def pids(self):
        found = {}
        for child in descendants(self.process.pid):
            line = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            if b"--worker" in line:
                found[json.loads(line[line.index(b"--worker") + 1])["index"]] = child
        return found


@contextmanager
def started(folder):
    command = [sys.executable, "-m", "trio_tools", "serve", "--transport", "http", "--workers", "2"]
    command += ["--port", "0", "--state", f"sqlite:///{folder}/state.db"]
    log = folder / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(command, stderr=errors, cwd=ROOT, env=environment())
    server = Workers(process, log)
    children = []
    try:
        port = int(server.said(r"serving MCP at http://127.0.0.1:(\d+)/mcp with 2 workers")[1])
        server.address = Address("127.0.0.1", port, f"http://127.0.0.1:{port}/mcp")
        yield server
        children = descendants(process.pid)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE)
    wait_until(lambda: not any(map(lives, children)))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with started(tmp_path_factory.mktemp("workers")) as server:
        yield server


async def metrics(server):
    answer = await exchange(server.address, get("/metrics"))
    assert answer.status == 200
    return answer.body.decode()


async def both_are_up(server):
    for _ in range(PATIENCE * 20):
        text = await metrics(server)
        if all(f'trio_tools_worker_up{{worker="{n}"}} 1.0' in text for n in (0, 1)):
            return text
        await trio.sleep(0.05)
    raise AssertionError(text)


async def test_a_session_is_served_on_every_connection_whichever_worker_accepts_it(server):
    await both_are_up(server)
    sessions = [await open_session(server.address) for _ in range(6)]
    for session in sessions:
        for _ in range(4):
            answer = await exchange(server.address, post(PING, **session))
            assert answer.json()["result"] == {}
    asked = "get_concurrency_status"
    answer = await exchange(server.address, post(call(1, asked), **sessions[0]))
    assert not answer.json()["result"].get("isError")
    unknown = {"mcp-session-id": sessions[0]["mcp-session-id"][:3] + "f" * 32}
    assert (await exchange(server.address, post(PING, **unknown))).status == 404


async def test_one_text_of_metrics_has_the_figures_of_every_worker(server):
    await both_are_up(server)
    for number in range(8):
        await exchange(server.address, modern_call(number, "compute_hash", text="x"))
    text = await both_are_up(server)
    counted = re.findall(
        r'^trio_tools_calls_total\{worker="\d".*compute_hash.*\} (\S+)', text, re.MULTILINE
    )
    assert sum(map(float, counted)) == 8
    assert text.count("# TYPE trio_tools_calls_total counter\n") == 1


async def test_the_status_tells_which_worker_answers_and_sums_up_all_of_them(server):
    await both_are_up(server)
    answer = await exchange(server.address, modern_call(1, "get_concurrency_status"))
    told = answer.json()["result"]["structuredContent"]["data"]["workers"]
    assert told["answered_by"] in {0, 1}
    assert (told["count"], told["answering"]) == (2, 2)
    assert told["all"]["connections"] >= 1
    assert told["all"]["items_in_flight"] == 0
    text = answer.json()["result"]["content"][0]["text"]
    assert f"This is worker {told['answered_by']} of 2; all of them together have" in text


async def test_a_worker_that_is_killed_is_started_again_and_the_other_goes_on(server):
    await both_are_up(server)
    os.kill(server.pids()[1], signal.SIGKILL)
    with trio.fail_after(PATIENCE):
        assert (
            await exchange(server.address, modern_call(1, "compute_hash", text="x"))
        ).status == 200
    server.said("worker 1 ended with status -9; it is started again in 0.1 s")
    text = await both_are_up(server)
    assert 'trio_tools_worker_restarts_total{worker="1"} 1.0' in text


async def test_sighup_and_sigterm_reach_every_worker_and_none_outlives_the_parent(server):
    await both_are_up(server)
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: server.log.read_text().count("read the settings again") == 2)
    pids = server.pids().values()
    server.process.terminate()
    assert server.process.wait(PATIENCE) == 0
    assert not any(map(lives, pids))
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--workers", "2"], "--workers is for HTTP"),
        (["--transport", "http", "--workers", "2", "--state", "memory"], "state.url is `memory`"),
        (["--transport", "http", "--workers", "0"], "http.workers: Input should be greater"),
    ],
)
def test_what_workers_cannot_do_is_refused_with_words(options, words, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["trio-tools", "serve", *options])
    with restored_signals():
        assert main() == 2
    assert words in capsys.readouterr().err


def test_a_port_that_is_taken_is_named_before_any_worker_starts(tmp_path, capsys, monkeypatch):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken, restored_signals():
        port = taken.getsockname()[1]
        state = f"sqlite:///{tmp_path}/state.db"
        options = ["--transport", "http", "--workers", "2", "--port", str(port), "--state", state]
        monkeypatch.setattr("sys.argv", ["trio-tools", "serve", *options])
        assert main() == 2
    assert f"cannot listen on 127.0.0.1, port {port}" in capsys.readouterr().err


@contextmanager
def restored_signals():
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
