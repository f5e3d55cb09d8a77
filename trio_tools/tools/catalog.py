"""All tools, by toolset. The list is explicit: other tools are not served."""

from __future__ import annotations

from trio_tools.tools.api import CALL_EXTERNAL_API
from trio_tools.tools.batch import BATCH_PROCESS, CANCEL_OPERATION, GET_OPERATION
from trio_tools.tools.compute import COMPRESS_DATA, COMPUTE_HASH
from trio_tools.tools.crawl import CRAWL_SITE
from trio_tools.tools.database import QUERY_DATABASE
from trio_tools.tools.datasets import PROCESS_LARGE_DATASET
from trio_tools.tools.declaring.declaration import Tool
from trio_tools.tools.fetch import FETCH_URLS
from trio_tools.tools.inference import RUN_INFERENCE
from trio_tools.tools.patterns.toolset import PATTERN_NAMES, pattern_tools
from trio_tools.tools.status import GET_CONCURRENCY_STATUS

# The first one is harmless without arguments: some clients probe it.
DEFAULT: tuple[Tool, ...] = (
    GET_CONCURRENCY_STATUS,
    FETCH_URLS,
    CRAWL_SITE,
    CALL_EXTERNAL_API,
    QUERY_DATABASE,
    COMPUTE_HASH,
    COMPRESS_DATA,
    RUN_INFERENCE,
    BATCH_PROCESS,
    PROCESS_LARGE_DATASET,
    GET_OPERATION,
    CANCEL_OPERATION,
)

BUILT_IN_NAMES: frozenset[str] = frozenset({*(tool.name for tool in DEFAULT), *PATTERN_NAMES})
"""Names of all our tools. An application's tool cannot use them."""


def tools_of(toolset: str) -> tuple[Tool, ...]:
    """Return the tools of a toolset, for one server."""
    return (*DEFAULT, *pattern_tools()) if toolset == "patterns" else DEFAULT
