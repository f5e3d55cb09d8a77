"""What lives as long as the server: each door to the outside, opened when it is first used.

Services are made with the server and opened when it starts serving; several connections that are
served at once share them, and the last one that ends closes them. Those that few callers need are
imported and made with their first use.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING

import trio

from trio_tools.answers.errors import NotFound, brief_repr
from trio_tools.files.roots import FileRoots
from trio_tools.settings import ApiSettings, Settings

if TYPE_CHECKING:
    from trio_tools.database.databases import Databases
    from trio_tools.http.apis.client import ApiClient
    from trio_tools.http.fetching.fetcher import Fetcher
    from trio_tools.http.fetching.host_throttle import HostState
    from trio_tools.inference.models import Models
    from trio_tools.upstream.upstreams import Upstreams

_CLOSING_SECONDS = 1.0
# The bound on queries and inference is held by whoever calls, in the limits of the server, which
# can be resized. The services' own limiters only keep their threads apart from other threads.
_NEVER_BINDING = 1_000
_MAX_REPLY_BYTES = 500_000


class Services:
    """The services of one server.

    Args:
        settings: What the operator decided.
        api_limiter: Bounds the requests to all APIs together; held only while one is in flight.

    Attributes:
        files: The folders that tools may read.
    """

    def __init__(self, settings: Settings, *, api_limiter: trio.CapacityLimiter) -> None:
        self._settings = settings
        self._api_limiter = api_limiter
        self.files = FileRoots(settings.file_roots, max_file_bytes=settings.max_file_bytes)
        self._fetcher: Fetcher | None = None
        self._databases: Databases | None = None
        self._apis: dict[str, ApiClient] = {}
        self._open = AsyncExitStack()
        # How many are being served. The services are open while it is above 0.
        self._users = 0

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Keep the services open for the block."""
        self._users += 1
        try:
            if not self._settings.upstreams:
                yield
            else:
                async with self.upstreams.running():
                    yield
        finally:
            self._users -= 1
            if self._users == 0:
                self._fetcher = None
                self._databases = None
                self._apis.clear()
                with trio.move_on_after(_CLOSING_SECONDS, shield=True):
                    await self._open.aclose()

    async def fetcher(self) -> Fetcher:
        """Return the HTTP client of `fetch_urls`, opened with its first use."""
        if self._fetcher is None:
            self._fetcher = await self._open.enter_async_context(self._make_fetcher())
        return self._fetcher

    def hosts(self, client_id: str) -> Mapping[str, HostState]:
        """Return the web hosts in use or in trouble that a client asked for, by name."""
        hosts = {} if self._fetcher is None else self._fetcher.hosts()
        return {name: host for name, host in hosts.items() if client_id in host.clients}

    def _make_fetcher(self) -> Fetcher:
        from trio_tools.http.fetching.fetcher import Fetcher  # noqa: PLC0415 - see above
        from trio_tools.http.fetching.types import FetchConfig  # noqa: PLC0415

        fetch = self._settings.fetch.model_dump()
        del fetch["crawl"], fetch["crawl_robots"]  # of the operation, not of the client
        fetch["proxy"] = _proxy_of(self._settings)
        return Fetcher(FetchConfig(**fetch, timeout_seconds=_longest(self._settings, "fetch_urls")))

    @property
    def databases(self) -> Databases:
        """The databases of the settings. Nothing is connected to before the first query."""
        from trio_tools.database.databases import Databases  # noqa: PLC0415 - see above
        from trio_tools.database.results import DatabaseConfig  # noqa: PLC0415

        if self._databases is None:
            self._databases = Databases(
                [
                    DatabaseConfig(name, database.url.get_secret_value())
                    for name, database in self._settings.databases.items()
                ],
                limiter=trio.CapacityLimiter(_NEVER_BINDING),
            )
            self._open.push_async_callback(self._databases.aclose)
        return self._databases

    @cached_property
    def models(self) -> Models:
        """The models of the settings.

        Raises:
            NotFound: The settings name no folder of models.
        """
        from trio_tools.inference.models import Models  # noqa: PLC0415 - see above

        folder = self._settings.models_folder
        if folder is None:
            raise NotFound(
                "this server has no models: let the operator set models_folder to a folder of "
                "ONNX files",
                error_code="NO_MODELS",
            )
        return Models(folder, limiter=trio.CapacityLimiter(_NEVER_BINDING))

    @cached_property
    def upstreams(self) -> Upstreams:
        """The MCP servers behind this one, by name. None is started before it is used."""
        from trio_tools.upstream.upstreams import Upstreams  # noqa: PLC0415 - see above

        return Upstreams(self._settings.upstreams, own_name=self._settings.name)

    @property
    def apis(self) -> Mapping[str, ApiClient]:
        """The APIs that were called so far, by name."""
        return self._apis

    async def api(self, name: str) -> ApiClient:
        """Return the client of an API, opened with its first call.

        Raises:
            NotFound: The settings name no such API; the message lists those there are.
        """
        if name not in self._apis:
            if name not in self._settings.apis:
                known = ", ".join(self._settings.apis) or "none is configured"
                raise NotFound(
                    f"no API is named {brief_repr(name)}; there are: {known}",
                    error_code="UNKNOWN_API",
                    data={"apis": list(self._settings.apis)},
                )
            client = _client(name, self._settings.apis[name], self._settings, self._api_limiter)
            self._apis[name] = await self._open.enter_async_context(client)
        return self._apis[name]


def _client(
    name: str, api: ApiSettings, settings: Settings, limiter: trio.CapacityLimiter
) -> ApiClient:
    from trio_tools.http.apis.client import ApiClient  # noqa: PLC0415 - see above
    from trio_tools.http.apis.types import ApiConfig  # noqa: PLC0415

    return ApiClient(
        ApiConfig(
            name=name,
            base_url=api.base_url,
            auth_env=api.auth_env,
            auth_header=api.auth_header,
            auth_prefix=f"{api.auth_scheme} " if api.auth_scheme else "",
            rate_per_second=api.rate_per_second,
            burst=api.burst,
            max_concurrent=api.max_concurrent,
            allowed_methods=api.allowed_methods,
            allowed_path_prefixes=api.allowed_path_prefixes,
            timeout_seconds=_longest(settings, "call_external_api"),
            max_reply_bytes=min(_MAX_REPLY_BYTES, settings.max_output_chars),
            proxy=_proxy_of(settings),
            proxy_resolves=settings.fetch.proxy_resolves,
        ),
        limiter=limiter,
    )


def _proxy_of(settings: Settings) -> str | None:
    proxy = settings.fetch.proxy
    return None if proxy is None else proxy.get_secret_value()


def _longest(settings: Settings, tool: str) -> float:
    return settings.limits_of(tool).max_timeout_seconds
