"""Resident memory of a real process stays under the sum of the table in `docs/serving.md`.

`python -m tests.benchmarks memory` does the same with all tools and larger results.
"""

import sys

import pytest

from tests.benchmarks import memory
from trio_tools.tools.catalog import tools_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what is resident")

# Those with the largest peaks of the calls that take little CPU.
ROWS = {
    "compute_hash of a text",
    "compress_data of a text",
    "call_external_api, 4 MB and a reply of 5 MB",
    "get_operation",
}


async def test_20_calls_at_once_with_inputs_at_their_caps_stay_under_the_sum(tmp_path):
    verdicts = await memory.caps(tmp_path, pages=2, pause=0, only=ROWS)
    assert len(verdicts) == len(ROWS)
    assert [verdict for verdict in verdicts if not verdict.reached] == []


def test_the_benchmark_calls_every_tool():
    called = {tool for tool, _ in memory._at_caps("http://site.test", 1).values()}
    assert called == {tool.name for tool in tools_of("default")}
