"""What a list of tools costs each conversation, beside that of other servers from PyPI.

Those that are on the path are asked over stdio: `uv tool install mcp-server-fetch`, likewise
mcp-server-git and mcp-server-time; mcp-server-sqlite starts only `--with 'mcp<2'`. Characters are
those of the tools as JSON without blanks.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import trio
from mcp.client import Client

from tests.benchmarks._runner import Verdict
from tests.benchmarks.calls_clients import LineTalk
from tests.transports.lines import request
from trio_tools.server import create_server
from trio_tools.settings import Settings

_PEERS = ("mcp-server-fetch", "mcp-server-git", "mcp-server-time", "mcp-server-sqlite")
_MOST = 12_000


def _chars(tools: list[object]) -> int:
    return len(json.dumps(tools, separators=(",", ":"), ensure_ascii=False))


async def _ours() -> list[object]:
    with tempfile.TemporaryDirectory() as folder:
        databases = {"app": {"url": f"sqlite:///{folder}/app.db"}}
        settings = Settings.model_validate({"file_roots": (Path(folder),), "databases": databases})
        async with Client(create_server(settings)) as client:
            listed = await client.list_tools()
    return listed.model_dump(mode="json", by_alias=True, exclude_none=True)["tools"]


def _theirs(program: str) -> list[object]:
    with tempfile.TemporaryDirectory() as folder:  # one of them makes a database where it is
        process = subprocess.Popen(
            [program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
        )
        try:
            return LineTalk(process).exchange(request(1, "tools/list"))["result"]["tools"]
        finally:
            process.kill()
            process.communicate()


def run(options: list[str]) -> int:
    """Print the size of each list, in all and per tool."""
    del options
    ours = trio.run(_ours)
    lists = {"ours, with a file root and a database": ours}
    for name in _PEERS:
        program = shutil.which(name)
        if program is None:
            print(f"{name} is not installed")
        else:
            lists[name] = _theirs(program)
    for name, tools in lists.items():
        chars = _chars(tools)
        each = chars / len(tools)
        print(f"{name:40} {len(tools):3} tools {chars:7,} characters {each:7,.0f} per tool")
    verdict = Verdict(
        "tools/list of a server with a root and a database", _chars(ours), _MOST, "ch"
    )
    print(verdict)
    return 0 if verdict.reached else 1
