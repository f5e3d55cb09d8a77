"""`trio-tools top`: one snapshot for a pipe, a live view with keys for a terminal."""

import os
import pty
import sys
import termios
from contextlib import contextmanager
from functools import partial

import trio

from tests.transports.test_dashboard import run, site

COMMAND = [sys.executable, "-m", "trio_tools", "top", "--url"]


async def test_a_pipe_gets_one_snapshot():
    async with site() as (client, server):
        await run(server, "nightly", ["a", "fail", "b"])
        command = [*COMMAND, str(client.base_url)]
        with trio.fail_after(60):
            done = await trio.run_process(command, capture_stdout=True)
    shown = done.stdout.decode()
    assert "nightly" in shown
    assert "3/3" in shown


async def test_a_server_that_is_not_there_is_an_error_with_words():
    with trio.fail_after(60):
        done = await trio.run_process(
            [*COMMAND, "http://127.0.0.1:9"], check=False, capture_stderr=True, capture_stdout=True
        )
    assert done.returncode == 1
    assert "http://127.0.0.1:9 does not answer" in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


async def test_a_terminal_is_followed_until_q_and_left_as_it_was():
    with open_terminal() as (ours, theirs):
        before = termios.tcgetattr(theirs)
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
        async with site() as (client, server), trio.open_nursery() as nursery:
            await run(server, "nightly", ["a", "fail", "b"])
            command = [*COMMAND, str(client.base_url)]
            streams = {"stdin": theirs, "stdout": theirs, "env": environment}
            process = await nursery.start(partial(trio.run_process, command, **streams))
            with trio.fail_after(60):
                await read_until(ours, b"nightly")
                os.write(ours, b"r")
                await read_until(ours, b"reason")  # a column of the table of failed items
                os.write(ours, b"rq")  # two keys that were pressed quickly arrive together
                # Its last screens are read too, so that it does not wait for room.
                nursery.start_soon(read_until, ours, b"nothing that it writes")
                await process.wait()
            nursery.cancel_scope.cancel()
        assert process.returncode == 0
        assert termios.tcgetattr(theirs) == before


@contextmanager
def open_terminal():
    """Open a terminal: the end of the person, and the end of the program."""
    ours, theirs = pty.openpty()
    try:
        yield ours, theirs
    finally:
        os.close(ours)
        os.close(theirs)


async def read_until(descriptor, words):
    seen = b""
    while words not in seen:
        await trio.lowlevel.wait_readable(descriptor)
        seen += os.read(descriptor, 65_536)
