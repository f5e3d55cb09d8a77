"""Objects that live as long as the server: each external service, opened at its first use.

Services are made with the server and opened when it starts serving. Connections that are served
at the same time share them, and the last one that ends closes them. Rarely used ones are imported
and made at their first use. Calls that several callers share, such as a name look-up, run in a
nursery of the services (`Services.share`).
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cached_property, wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import trio

from nursery_patterns import HedgeStatistics, single_flight
from trio_tools.answers.errors import NotFound, brief_repr, use_one_of
from trio_tools.files.output_folder import OutputFolder
from trio_tools.files.roots import FileRoots
from trio_tools.settings import ApiSettings, Settings
from trio_tools.upstream.homes import Homes

if TYPE_CHECKING:
    from trio_tools.database.databases import Databases
    from trio_tools.database.shared_limits import SharedBucket, SharedLimits
    from trio_tools.http.apis.client import ApiClient
    from trio_tools.http.fetching.fetcher import Fetcher
    from trio_tools.http.fetching.hosts.host import HostState
    from trio_tools.http.wire.client import Share
    from trio_tools.inference.models import Models
    from trio_tools.upstream.upstream import Upstream
    from trio_tools.upstream.upstreams import Upstreams

_P = ParamSpec("_P")
_T = TypeVar("_T")

_CLOSING_SECONDS = 1.0
# The bound on queries and inference is applied by the caller, in the limits of the server, which
# can be resized. The services' own limiters only keep their threads apart from other threads.
_NEVER_BINDING = 1_000
_MAX_REPLY_BYTES = 500_000


class Services:
    """The services of one server.

    Args:
        settings: The operator's settings.
        api_limiter: Bounds the requests to all APIs together; held only while a request is in
            flight.

    Attributes:
        files: The folders that tools may read.
        output: The folder that tools may write into.
        shared_limits: The limits that several servers share; None for a single server.
    """

    def __init__(self, settings: Settings, *, api_limiter: trio.CapacityLimiter) -> None:
        self._settings = settings
        self._api_limiter = api_limiter
        self.files = FileRoots(settings.file_roots, max_file_bytes=settings.max_file_bytes)
        self.output = OutputFolder(settings.output_root)
        self.shared_limits = _shared_limits(settings)
        self._fetcher: Fetcher | None = None
        self._databases: Databases | None = None
        self._apis: dict[str, ApiClient] = {}
        self._open = AsyncExitStack()
        # One nursery for each served connection. The services are open while there is one, and
        # shared calls run in the oldest.
        self._nurseries: list[trio.Nursery] = []
        self._homes = Homes()

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Keep the services open for the block. Blocks may overlap."""
        try:
            async with trio.open_nursery() as nursery:
                self._nurseries.append(nursery)
                try:
                    async with self._homes.opened():
                        if self.has_upstreams:
                            self.upstreams.begin_eager()
                        yield
                finally:
                    self._nurseries.remove(nursery)
                    nursery.cancel_scope.cancel(reason="the connection is served no more")
        finally:
            if not self._nurseries:
                self._fetcher = None
                self._databases = None
                for api in self._apis.values():
                    api.retire()  # its last call has ended
                self._apis.clear()
                with trio.move_on_after(_CLOSING_SECONDS, shield=True):
                    await self._open.aclose()

    def share(
        self, fn: Callable[_P, Awaitable[_T]], *, key: Callable[_P, Hashable] | None = None
    ) -> Callable[_P, Awaitable[_T]]:
        """Return a version of `fn` in which concurrent calls with the same key share one call.

        As `single_flight`, in the nursery of the oldest served connection. When that connection
        ends first, the call is made again in the nursery of the next one. So `fn` must be a
        function that can be called again after a cancel. Without a served connection, calls are
        not shared.

        Args:
            fn: An async function.
            key: A function of the same arguments; by default all the arguments together.
        """
        in_nursery: dict[trio.Nursery, Callable[_P, Awaitable[_T]]] = {}

        @wraps(fn)
        async def shared(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            while self._nurseries:
                nursery = self._nurseries[0]
                if nursery not in in_nursery:
                    in_nursery.clear()  # calls of earlier connections, which have ended
                    in_nursery[nursery] = single_flight(fn, nursery, key=key)
                try:
                    return await in_nursery[nursery](*args, **kwargs)
                except RuntimeError:
                    if nursery in self._nurseries:
                        raise  # by `fn`; otherwise the nursery was cancelled
            return await fn(*args, **kwargs)

        return shared

    def take(self, settings: Settings) -> None:
        """Apply other settings: APIs, upstreams, and timeouts of requests.

        Calls in flight keep the old settings. A replaced client or upstream is closed when its
        last call has ended.
        """
        before, self._settings = self._settings, settings
        timed = _longest(before, "call_external_api") == _longest(settings, "call_external_api")
        for name, client in list(self._apis.items()):
            if not timed or settings.apis.get(name) != before.apis.get(name):
                del self._apis[name]
                client.retire()
        if self._fetcher is not None:
            self._fetcher.timeout_seconds = _longest(settings, "fetch_urls")
        if settings.upstreams != before.upstreams:
            self.upstreams.take(settings.upstreams)

    @property
    def has_upstreams(self) -> bool:
        """Whether the settings have any, so that `upstreams` must be imported."""
        return bool(self._settings.upstreams)

    @property
    def has_made_upstreams(self) -> bool:
        """Whether any were ever made."""
        return "upstreams" in self.__dict__

    async def fetcher(self) -> Fetcher:
        """Return the HTTP client of `fetch_urls`, opened with its first use."""
        if self._fetcher is None:
            self._fetcher = await self._open.enter_async_context(self._make_fetcher())
        return self._fetcher

    def hosts(self, client_id: str) -> Mapping[str, HostState]:
        """Return the web hosts in use or throttled that a client requested, by name."""
        hosts = {} if self._fetcher is None else self._fetcher.hosts()
        return {name: host for name, host in hosts.items() if client_id in host.clients}

    @property
    def hedging(self) -> HedgeStatistics | None:
        """Counts of the fetcher's hedging requests; None if it is not open or sends none."""
        return None if self._fetcher is None else self._fetcher.hedging

    def _make_fetcher(self) -> Fetcher:
        from trio_tools.http.fetching.fetcher import Fetcher  # noqa: PLC0415 - see above
        from trio_tools.http.fetching.types import FetchConfig  # noqa: PLC0415

        settings = dict(self._settings.fetch)
        config = FetchConfig(**settings, timeout_seconds=_longest(self._settings, "fetch_urls"))
        places = self.shared_limits and self.shared_limits.places(
            "hosts", config.max_connections_per_host
        )
        return Fetcher(config, share=self.share, places=places)

    @property
    def databases(self) -> Databases:
        """The databases of the settings. The first query connects."""
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
            NotFound: The settings have no folder of models.
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
        """The upstream MCP servers, by name. Each is started at its first use."""
        from trio_tools.upstream.upstreams import Upstreams  # noqa: PLC0415 - see above

        return Upstreams(self._settings.upstreams, own_name=self._settings.name, homes=self._homes)

    def upstream_bucket(self, upstream: Upstream) -> SharedBucket | None:
        """Return an upstream's rate limit that several servers share; None if it is not shared."""
        rate = upstream.settings.rate_per_second
        if self.shared_limits is None or rate is None:
            return None
        return self.shared_limits.bucket(f"upstreams.{upstream.name}", rate, math.ceil(rate))

    @property
    def apis(self) -> Mapping[str, ApiClient]:
        """The clients of the APIs that were called so far, by name."""
        return self._apis

    async def api(self, name: str) -> ApiClient:
        """Return the client of an API, opened at its first call.

        Raises:
            NotFound: The settings have no such API; the message lists the known ones.
        """
        if name not in self._apis:
            if name not in self._settings.apis:
                raise NotFound(
                    f"no API is named {brief_repr(name)}: {use_one_of(self._settings.apis)}",
                    error_code="UNKNOWN_API",
                    data={"apis": list(self._settings.apis)},
                )
            api = self._settings.apis[name]
            client = _client(
                name, api, self._settings, self._api_limiter, self.share, self.shared_limits
            )
            self._apis[name] = await client.__aenter__()  # closed by `retire`
        return self._apis[name]


def _client(
    name: str,
    api: ApiSettings,
    settings: Settings,
    limiter: trio.CapacityLimiter,
    share: Share,
    shared: SharedLimits | None,
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
        share=share,
        pace=shared and shared.bucket(f"apis.{name}", api.rate_per_second, api.burst),
        places=shared and shared.places(f"apis.{name}", api.max_concurrent),
    )


def _shared_limits(settings: Settings) -> SharedLimits | None:
    if not settings.limits.shared:
        return None
    from trio_tools.database.shared_limits import SharedLimits  # noqa: PLC0415 - see above

    return SharedLimits(settings.state.url.get_secret_value(), replicas=settings.limits.replicas)


def _proxy_of(settings: Settings) -> str | None:
    proxy = settings.fetch.proxy
    return None if proxy is None else proxy.get_secret_value()


def _longest(settings: Settings, tool: str) -> float:
    return settings.limits_of(tool).max_timeout_seconds
