"""Tokens are read again when their file changes, and nobody is dropped by it."""

import logging

import trio

from tests.transports.requests import Reader, connect, exchange, get, http_server, modern_call
from trio_tools.transports.http.operators import token_reload as token_reload_module

OLD, NEW = "o" * 32, "n" * 32


async def test_a_file_of_tokens_that_changes_is_read_again(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "trio_tools")
    monkeypatch.setattr(token_reload_module, "CHECK_SECONDS", 0.02)
    file = tmp_path / "tokens"

    def write(text):
        replacement = tmp_path / "tokens.new"
        replacement.write_text(text)
        replacement.chmod(0o600)
        replacement.rename(file)

    async def status(token):
        headers = {"authorization": f"Bearer {token}"}
        return (await exchange(address, get("/metrics", **headers))).status

    write(f"me {OLD}\n")
    with trio.fail_after(20):
        async with http_server(token_file=file) as address, await connect(address) as stream:
            headers = {"authorization": f"Bearer {OLD}"}
            await stream.send_all(modern_call(1, "nap", headers=headers, seconds=1.0))
            await trio.sleep(0.2)
            write(f"me {NEW}\n")
            while await status(NEW) != 200:  # noqa: ASYNC110
                await trio.sleep(0.02)
            assert await status(OLD) == 401
            # What runs goes on.
            assert (await Reader(stream).read()).status == 200
            # A file that is wrong changes nothing.
            write("me short\n")
            while "the tokens stay as they were" not in caplog.text:  # noqa: ASYNC110
                await trio.sleep(0.02)
            assert await status(NEW) == 200
