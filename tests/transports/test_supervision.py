"""Unix sockets, sockets that a supervisor opened, what it is told, and who may read the metrics."""

import logging
import os
import re
import socket
import stat
from contextlib import closing, contextmanager
from functools import partial

import pytest
import trio
import trio.testing

from tests.transports.requests import exchange, get, http_server, modern_call
from trio_tools.command_line.main import main
from trio_tools.settings import HttpSettings, Settings
from trio_tools.transports.http import Address, check_http
from trio_tools.transports.http.listening.handed import Handed
from trio_tools.transports.http.listening.unix_socket import bind_unix
from trio_tools.transports.http.operators.supervisor import Supervisor
from trio_tools.transports.http.workers.liveness import WorkerLinks

TOKEN = "m" * 32


@pytest.fixture
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("s")  # a short path


@contextmanager
def listening_for_messages(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(path))
        told.settimeout(0)

        def messages():
            found = []
            while True:
                try:
                    found.append(told.recv(4096).decode())
                except BlockingIOError:
                    return found

        yield messages


async def test_a_unix_socket_serves_its_owner_alone_and_is_removed_at_the_end(folder):
    path = folder / "mcp.sock"
    async with http_server(socket=path) as address:
        assert address == (str(path), 0, f"http+unix://{str(path).replace('/', '%2F')}/mcp")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        answer = await exchange(address, modern_call(1, "echo", text="x"))
        assert answer.status == 200
        with pytest.raises(OSError, match="another process listens there"):
            bind_unix(path, 0o600)
        assert (await exchange(address, get("/healthz"))).status == 200
    assert not path.exists()


async def test_a_stale_socket_is_replaced_and_has_the_mode_that_was_asked_for(folder):
    path = folder / "mcp.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with http_server(socket=path, socket_mode="660") as address:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert (await exchange(address, get("/healthz"))).status == 200


def test_what_is_not_a_stale_socket_is_left_as_it_is(folder):
    path = folder / "file"
    path.write_text("precious")
    with pytest.raises(
        OSError, match=r"cannot listen on .*: something else than a socket is there"
    ):
        bind_unix(path, 0o600)
    assert path.read_text() == "precious"
    with pytest.raises(OSError, match="at most 107 bytes"):
        bind_unix(folder / ("x" * 120), 0o600)
    with pytest.raises(OSError, match="No such file or directory"):
        bind_unix(folder / "none" / "s", 0o600)


def test_a_socket_that_another_process_has_put_there_is_not_removed(folder):
    path = folder / "s"
    bound, remove = bind_unix(path, 0o600)
    with closing(bound):
        path.unlink()
        other, remove_other = bind_unix(path, 0o600)
        with closing(other):
            remove()
            assert path.exists()
            remove_other()
            assert not path.exists()


@pytest.mark.parametrize("mode", ["777777", "rw", "88", "0o600"])
def test_a_mode_that_is_none_is_refused(mode):
    with pytest.raises(ValueError, match='write three octal digits, as in "660"'):
        HttpSettings(socket_mode=mode)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--socket", "/tmp/s"], "--socket is for HTTP"),
        (["--transport", "http", "--socket", "s", "--port", "1"], "leave either it or them out"),
    ],
)
def test_a_socket_where_none_can_be_is_refused(options, words, capsys):
    assert main(["serve", *options]) == 2
    assert words in capsys.readouterr().err


def test_messages_go_where_the_environment_says_and_children_do_not_hear_of_it(folder, monkeypatch):
    with listening_for_messages(folder / "n") as messages:
        monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "n"))
        monkeypatch.setenv("WATCHDOG_USEC", "4000000")
        supervisor = Supervisor.of_environment()
        assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & set(os.environ)
        supervisor.ready()
        with supervisor.reloading():
            pass
        supervisor.stopping()
        first, reloading, again, last = messages()
        assert (first, again, last) == ("READY=1", "READY=1", "STOPPING=1")
        assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", reloading)
    supervisor.ready()  # nobody listens any more: no harm


async def test_the_loop_says_that_it_runs_twice_in_the_time_of_the_watchdog(folder, autojump_clock):
    with listening_for_messages(folder / "n") as messages:
        with trio.move_on_after(9):
            await Supervisor(str(folder / "n"), 4).keep_alive()
        assert messages() == ["WATCHDOG=1"] * 5  # at 0, 2, 4, 6, 8 s
        await Supervisor(str(folder / "n")).keep_alive()
        assert messages() == []


async def worker(stream, *, answers=lambda: True):
    """Do on the link to the parent what a worker does; answer while `answers` is true."""
    await stream.send_all(b"+")
    while await stream.receive_some():
        if answers():
            await stream.send_all(b"+")


async def test_the_parent_of_workers_is_quiet_while_one_of_them_does_not_answer(
    folder, autojump_clock
):
    links, pairs = WorkerLinks(2), [trio.testing.memory_stream_pair() for _ in range(3)]
    with listening_for_messages(folder / "n") as messages:
        async with trio.open_nursery() as nursery:
            supervisor = Supervisor(str(folder / "n"), 4)
            nursery.start_soon(supervisor.keep_alive, links.all_answer)
            nursery.start_soon(links.hear, 0, pairs[0][0], lambda: None)
            nursery.start_soon(worker, pairs[0][1])
            await trio.sleep(9)
            assert messages() == []  # the second one has not come
            blocked = []
            nursery.start_soon(links.hear, 1, pairs[1][0], lambda: None)
            nursery.start_soon(partial(worker, pairs[1][1], answers=lambda: not blocked))
            await trio.sleep(4)  # until 13
            assert messages() == ["WATCHDOG=1"] * 3  # at 9, 10 and 12 s
            blocked.append("its loop")
            await trio.sleep(10)
            assert messages() == []
            blocked.clear()
            await trio.sleep(4)  # until 27
            assert messages() == ["WATCHDOG=1"] * 2  # at 24 and 26 s
            await pairs[1][1].send_stream.aclose()  # it has died
            await trio.sleep(10)
            assert messages() == []
            nursery.start_soon(links.hear, 1, pairs[2][0], lambda: None)
            nursery.start_soon(worker, pairs[2][1])
            await trio.sleep(2)
            assert messages() == ["WATCHDOG=1"] * 2
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("pid", ["1", "", "x"])
def test_a_watchdog_and_sockets_of_another_process_are_not_ours(pid, monkeypatch):
    for name, value in (("WATCHDOG_PID", pid), ("WATCHDOG_USEC", "5"), ("LISTEN_PID", pid)):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert Supervisor.of_environment()._watchdog_seconds is None
    assert Handed.of_environment().clients == []
    assert not [name for name in os.environ if name.startswith(("LISTEN_", "WATCHDOG_"))]


def test_doors_are_guarded_by_the_address_that_the_supervisor_has_bound():
    with socket.create_server(("0.0.0.0", 0)) as outside, socket.create_server(("", 0)) as more:
        handed = Handed([outside], [more])
        http = handed.applied(Settings()).http
        assert (http.host, http.port) == outside.getsockname()
        with pytest.raises(ValueError, match="can be reached from other machines"):
            check_http(http)
        only_metrics = Handed([], [more]).applied(Settings()).http
        with pytest.raises(ValueError, match=r"http\.metrics_host .* can be reached"):
            check_http(only_metrics)


async def status_of(address, token=None, path="/metrics", **headers):
    if token:
        headers["authorization"] = f"Bearer {token}"
    return (await exchange(address, get(path, **headers))).status


async def test_the_token_of_the_metrics_opens_them_and_nothing_else(tmp_path):
    file = tmp_path / "metrics-token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    client = "c" * 32
    async with http_server(metrics_token_file=file, tokens={"alice": client}) as address:
        assert await status_of(address, TOKEN) == 200
        assert await status_of(address, client) == 401
        assert await status_of(address) == 401
        assert await status_of(address, TOKEN, "/dashboard/data") == 401
        assert await status_of(address, TOKEN, "/mcp") == 401
        bearer = {"authorization": f"Bearer {TOKEN}"}
        call = modern_call(1, "echo", text="x", headers=bearer)
        assert (await exchange(address, call)).status == 401


async def test_the_port_of_the_metrics_serves_them_and_nothing_else(caplog):
    caplog.set_level(logging.INFO, "trio_tools")
    async with http_server(metrics_port=0) as address:
        url = re.search(r"serving metrics at (http://127.0.0.1:(\d+)/metrics)", caplog.text)
        metrics = Address("127.0.0.1", int(url[2]), url[1])
        assert await status_of(metrics) == 200
        assert await status_of(metrics, path="/healthz") == 200
        assert await status_of(metrics, path="/readyz") == 200
        assert await status_of(metrics, path="/mcp") == 404
        assert await status_of(metrics, host="evil.example") == 421
        assert await status_of(metrics, origin="http://evil.example") == 403
        assert await status_of(address) == 404
        assert await status_of(address, path="/healthz") == 200


async def test_a_port_of_the_metrics_takes_their_token(caplog):
    caplog.set_level(logging.INFO, "trio_tools")
    async with http_server(metrics_port=0, metrics_token=TOKEN):
        port = int(re.search(r"metrics at http://127.0.0.1:(\d+)/", caplog.text)[1])
        metrics = Address("127.0.0.1", port, "")
        assert await status_of(metrics, TOKEN, host="prometheus.example") == 200
        assert await status_of(metrics, "x" * 32) == 401
        assert await status_of(metrics) == 401


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"metrics_token": "short"}, "http.metrics_token has 5 characters: use at least 16"),
        ({"metrics_port": 1, "metrics_host": "0.0.0.0"}, "can be reached from other machines"),
        ({"metrics_token": TOKEN, "metrics_token_file": "x"}, "leave one out"),
    ],
)
def test_a_weak_door_of_the_metrics_is_refused_at_the_start(given, words):
    with pytest.raises(ValueError, match=words):
        check_http(HttpSettings(**given))
