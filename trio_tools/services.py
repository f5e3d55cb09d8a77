"""What lives as long as the server: the HTTP client, the files, and all that holds a door open.

Services are made with the server and opened when it starts serving; several connections that are
served at once share them, and the last one that ends closes them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from trio_tools.files.roots import FileRoots
from trio_tools.http.fetcher import Fetcher
from trio_tools.http.pages import FetchConfig
from trio_tools.settings import Settings

_CLOSING_SECONDS = 1.0


class Services:
    """The services of one server.

    Attributes:
        fetcher: The HTTP client of `fetch_urls`.
        files: The folders that tools may read.
    """

    def __init__(self, settings: Settings) -> None:
        fetch = settings.fetch.model_dump()
        self.fetcher = Fetcher(FetchConfig(**fetch, timeout_seconds=_longest_fetch(settings)))
        self.files = FileRoots(settings.file_roots, max_file_bytes=settings.max_file_bytes)
        self._open = AsyncExitStack()
        # How many are being served. The services are open while it is above 0.
        self._users = 0

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Keep the services open for the block."""
        self._users += 1
        try:
            if self._users == 1:
                await self._open.enter_async_context(self.fetcher)
            yield
        finally:
            self._users -= 1
            if self._users == 0:
                with trio.move_on_after(_CLOSING_SECONDS, shield=True):
                    await self._open.aclose()


def _longest_fetch(settings: Settings) -> float:
    return settings.limits_of("fetch_urls").max_timeout_seconds
