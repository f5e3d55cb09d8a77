"""`POST /reload`, SIGHUP and `trio-tools reload`."""

import argparse
import logging
import os
import signal
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from tests.transports.requests import exchange, get, post
from trio_tools.command_line.main import main
from trio_tools.command_line.reload import reload
from trio_tools.server import create_server
from trio_tools.settings import Settings
from trio_tools.transports import serve_http
from trio_tools.transports.reload import Reload, ReloadRefused

ME, YOU = "m" * 32, "y" * 32


def bearer(token):
    return {"authorization": f"Bearer {token}"}


@asynccontextmanager
async def served(read, **http):
    settings = Settings(http={"port": 0, **http})
    async with trio.open_nursery() as nursery:
        serve = partial(serve_http, settings, server=create_server(settings), read_settings=read)
        yield await nursery.start(serve)
        nursery.cancel_scope.cancel()


def settings_with(**http):
    return lambda: Settings(log_level="error", max_items=7, http={"port": 0, **http})


async def ask(address, **headers):
    return await exchange(address, post(b"", path="/reload", **headers))


async def test_a_client_with_a_token_lets_the_settings_be_read_again():
    async with served(settings_with(tokens={"you": YOU}), tokens={"me": ME}) as address:
        answer = await ask(address, **bearer(ME))
        assert answer.status == 200
        assert answer.json() == {
            "taken": ["log_level", "http.tokens"],
            "needs_restart": ["max_items"],
        }
        assert (await ask(address, **bearer(ME))).status == 401
        assert (await ask(address, **bearer(YOU))).json() == {
            "taken": [],
            "needs_restart": ["max_items"],
        }


async def test_many_reloads_at_once_end_nothing():
    async with served(settings_with(tokens={"me": ME}), tokens={"me": ME}) as address:
        answers = []

        async def once():
            answers.append((await ask(address, **bearer(ME))).status)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(once)
        assert answers == [200] * 10
        assert (await exchange(address, get("/readyz"))).status == 200


async def test_the_door_is_closed_to_everybody_else():
    async with served(settings_with(tokens={"me": ME}), tokens={"me": ME}) as address:
        assert (await ask(address)).status == 401
        assert (await ask(address, **bearer("wrong" * 8))).status == 401
        assert (await ask(address, **bearer(ME), origin="https://evil.example")).status == 403
        assert (await ask(address, **bearer(ME), host="evil.example")).status == 421
        assert (await exchange(address, get("/reload", **bearer(ME)))).status == 405
    async with served(settings_with(), host="0.0.0.0", insecure=True) as address:
        there = address._replace(host="127.0.0.1")
        assert (await ask(there, host=f"0.0.0.0:{address.port}")).status == 403


async def test_wrong_settings_are_told_and_change_nothing(caplog):
    def read():
        return Settings(log_level="loud")

    async with served(read) as address:
        answer = await ask(address)
        assert answer.status == 409
        (problem,) = answer.json()["problems"]
        assert problem.startswith("setting log_level: ")
    assert "the settings stay as they were" in caplog.text


async def test_tokens_that_would_let_everybody_in_are_refused():
    read = settings_with(tokens={"me": "short"})
    async with served(read, tokens={"me": ME}) as address:
        answer = await ask(address, **bearer(ME))
        assert answer.status == 409
        assert "at least 16" in answer.json()["problems"][0]
        assert (await ask(address, **bearer(ME))).status == 409


async def test_the_command_tells_what_was_taken_and_what_was_not(capsys, monkeypatch):
    monkeypatch.setenv("TOKEN", ME)

    def options(address, token_env="TOKEN", pid=None):
        url = f"http://{address.host}:{address.port}/"
        return argparse.Namespace(url=url, token_env=token_env, pid=pid)

    async with served(settings_with(tokens={"me": ME}), tokens={"me": ME}) as address:
        assert await reload(options(address), Settings(), []) == 0
        assert capsys.readouterr().out == "took: log_level\nneeds a restart: max_items\n"
        assert await reload(options(address, None), Settings(), []) == 1
        assert "refuses (401): A bearer token is needed" in capsys.readouterr().err
    assert await reload(options(address), Settings(), []) == 1
    assert "does not answer" in capsys.readouterr().err
    assert await reload(options(address, pid=2**22 + 1), Settings(), []) == 1
    assert "cannot receive a signal" in capsys.readouterr().err


def test_the_command_takes_a_url_or_a_process(capsys):
    for words in (["--pid", "1", "--url", "http://x"], ["--pid", "x"]):
        with pytest.raises(SystemExit, match="2"):
            main(["reload", *words])
    assert "not allowed with" in capsys.readouterr().err


async def test_a_hangup_takes_limits_and_the_level_of_the_log(caplog):
    caplog.set_level(logging.INFO)
    server = create_server(Settings())
    two = {"fetch_urls": {"max_calls": 2}}
    read = [Settings(limits=two, log_level="error")]
    again = Reload(lambda: read[0], server.reload, owns_log=True)
    level = logging.getLogger().level
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(again.listen)
            await trio.testing.wait_all_tasks_blocked()
            os.kill(os.getpid(), signal.SIGHUP)
            with trio.fail_after(20):
                while server.state.settings.limits_of("fetch_urls").max_calls != 2:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            await again()  # behind the one of the signal
            assert logging.getLogger().level == logging.ERROR
            nursery.cancel_scope.cancel()
    finally:
        logging.getLogger().setLevel(level)


async def test_a_cancel_while_the_settings_are_read_leaves_all_as_it_was():
    server = create_server(Settings())
    reading, release = trio.Event(), trio.Event()

    def read():
        trio.from_thread.run_sync(reading.set)
        trio.from_thread.run(release.wait)
        return Settings(log_level="error")

    before = server.state.settings
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Reload(read, server.reload, owns_log=False))
        await reading.wait()
        nursery.cancel_scope.cancel()
    release.set()
    assert server.state.settings is before


async def test_reloads_come_one_after_the_other():
    taken = []
    server = create_server(Settings())
    again = Reload(lambda: Settings(max_items=0), server.reload, owns_log=False)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(_refused, again, taken)
    assert taken == ["setting max_items: Input should be greater than 0"] * 3


async def _refused(again, told):
    try:
        await again()
    except ReloadRefused as refused:
        told.extend(refused.lines)


async def test_an_upstream_that_is_this_server_itself_is_refused():
    def read():
        url = "https://tools.example/mcp"
        return Settings(
            upstreams={"us": {"url": url}}, http={"port": 0, "allowed_hosts": ["tools.example"]}
        )

    async with served(read, allowed_hosts=["tools.example"]) as address:
        answer = await ask(address)
        assert answer.status == 409
        (problem,) = answer.json()["problems"]
        assert problem.startswith("upstreams.us.url is where this server itself is served")
