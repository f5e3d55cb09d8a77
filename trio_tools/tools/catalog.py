"""All tools, by toolset. An explicit list: what is not here is not served."""

from __future__ import annotations

from trio_tools.tools.compute import COMPUTE_HASH
from trio_tools.tools.declaration import Tool
from trio_tools.tools.fetch import FETCH_URLS
from trio_tools.tools.status import GET_CONCURRENCY_STATUS

# The first one is harmless when called with nothing: some clients probe it.
DEFAULT: tuple[Tool, ...] = (GET_CONCURRENCY_STATUS, FETCH_URLS, COMPUTE_HASH)

TOOLSETS: dict[str, tuple[Tool, ...]] = {"default": DEFAULT, "patterns": DEFAULT}
