"""What a model gets through the adapters of two agent libraries, over stdio.

Both forward the text alone by default. They need an older MCP SDK than this server, so they live in
an environment of their own; `.ci/run` makes it.
"""

import json
import sys

import pytest
import trio

from tests.processes.running import ROOT, environment
from tests.support.forms import check_complete
from tests.support.raw_http_servers import answering, reply, serving
from tests.tools.conftest import shop

__all__ = ["shop"]

PYTHON = ROOT / ".venv-adapters/bin/python"
ADAPTERS = ["openai_agents", "langchain_adapters"]
PAGE = "<title>Nurseries</title><p>No task outlives its nursery.</p>"
MD5_OF_A = "0cc175b9c0f1b6a831c399e269772661"
MD5_OF_B = "92eb5ffee6ae2fec3ad71c777531578f"

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(),
    reason="the adapters are not installed: python -m venv .venv-adapters && "
    ".venv-adapters/bin/pip install -r tests/clients/requirements.txt",
)


def calls(site):
    """Return calls, and what a model must find in either form of the answer to each."""
    md5 = [{"text": text, "algorithm": "md5"} for text in "ab"]
    return [
        ("fetch_urls", {"urls": [site, f"{site}/b"]}, [PAGE, site, f"{site}/b", "text/html"]),
        ("query_database", {"sql": "SELECT id, name FROM items"}, ["id", "name", "n0", "n9"]),
        ("query_database", {}, ["items", "name"]),
        ("batch_process", {"operation": "hash", "items": md5}, [MD5_OF_A, MD5_OF_B]),
        ("compute_hash", {"data": "a", "algorithm": "md5"}, ["md5", MD5_OF_A]),
        ("compress_data", {"data": "a" * 99}, ["zstd", "99"]),
        ("get_concurrency_status", {}, ["fetch_urls"]),
    ]


async def answers_through(adapter, wanted, **settings):
    asked = {
        "command": [sys.executable, "-m", "trio_tools", "serve"],
        "environment": environment(**settings),
        "calls": [call[:2] for call in wanted],
    }
    with trio.fail_after(60):
        ended = await trio.run_process(
            [PYTHON, ROOT / f"tests/clients/{adapter}.py"],
            stdin=json.dumps(asked).encode(),
            capture_stdout=True,
        )
    return json.loads(ended.stdout)


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_a_model_gets_each_datum_through_an_adapter(adapter, shop, tmp_path):
    async with serving(answering(reply(PAGE.encode(), "Content-Type: text/html"))) as site:
        wanted = calls(site.url)
        told = await answers_through(
            adapter,
            wanted,
            databases=json.dumps(shop["databases"]),
            fetch='{"allow_private": true, "ports": null}',
            state=json.dumps({"url": f"sqlite:///{tmp_path}/state.db"}),
        )
    assert {name for name, *_ in wanted} < set(told["tools"])
    for (_, _, data), text, structured in zip(
        wanted, told["text"], told["structured"], strict=True
    ):
        envelope = json.loads(structured)
        assert envelope["success"]
        for datum in data:
            assert datum in text
            assert datum in structured
        if adapter == "langchain_adapters":  # both forms are of the same call
            check_complete(text, envelope)
