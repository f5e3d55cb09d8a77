"""What the first batch call needs is loaded after the first list of tools, off the event loop."""

import os
import subprocess
import sys

PROGRAM = """
import sys, trio
from mcp.client import Client
from trio_tools.server import create_server
from trio_tools.settings import Settings

async def main():
    server = create_server(Settings())
    async with Client(server) as client:
        assert "sqlalchemy" not in sys.modules, "before the first list"
        await client.list_tools()
        with trio.fail_after(100):
            while "trio_tools.operations.durable.database" not in sys.modules:
                await trio.sleep(0.01)
    print("loaded")

trio.run(main)
"""


def test_the_library_of_stored_operations_is_loaded_after_the_first_list(tmp_path):
    state = f"sqlite:///{tmp_path / 'state.db'}"
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "TRIO_TOOLS_STATE__URL": state},
        timeout=200,
    )
    assert (ended.stdout, ended.stderr) == ("loaded\n", "")
    assert not (tmp_path / "state.db").exists()  # it is made by the first operation
