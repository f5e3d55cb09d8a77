"""Tools of upstream MCP servers as operations `<upstream>.<tool>`; an item is the arguments."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import BeforeValidator, WithJsonSchema

from nursery_patterns import TokenBucket, released_slot
from trio_tools.operations.operation import Operation
from trio_tools.operations.timeline import ReportProgress
from trio_tools.services import Services

if TYPE_CHECKING:
    from trio_tools.database.shared_limits import SharedBucket
    from trio_tools.upstream.catalog import UpstreamTool
    from trio_tools.upstream.upstream import Upstream
    from trio_tools.upstream.upstreams import Upstreams


class UpstreamOperations(Mapping[str, Operation]):
    """The allowed tools of all upstreams whose tools are known.

    Args:
        services: Have the upstreams, and rates that servers share. No upstream is imported while
            the settings have none.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._buckets: dict[Upstream, TokenBucket | None] = {}
        self._made: dict[str, Operation] = {}
        self._version = -1

    @property
    def _upstreams(self) -> Upstreams | dict[str, Upstream]:
        return self._services.upstreams if self._services.has_upstreams else {}

    def _current(self) -> dict[str, Operation]:
        version = self._services.upstreams.version if self._services.has_upstreams else -1
        if self._version != version:
            self._version = version
            upstreams = self._upstreams.values()
            self._buckets = {each: self._bucket_of(each) for each in upstreams}
            self._made = {
                operation.name: operation
                for upstream in upstreams
                for operation in self._operations_of(upstream)
            }
        return self._made

    def _bucket_of(self, upstream: Upstream) -> TokenBucket | None:
        """Return the existing bucket of the upstream, with its remaining tokens."""
        return self._buckets[upstream] if upstream in self._buckets else _bucket(upstream)

    def _operations_of(self, upstream: Upstream) -> Iterator[Operation]:
        for tool in () if upstream.catalog is None else upstream.catalog.allowed.values():
            shared = self._services.upstream_bucket(upstream)
            bucket = None if shared is not None else self._buckets[upstream]
            yield _operation(upstream, tool, bucket, shared)

    def __getitem__(self, name: str) -> Operation:
        return self._current()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._current())

    def __len__(self) -> int:
        return len(self._current())

    async def prepare(self, name: str) -> None:
        """Make the tool of an operation's name known, if it exists.

        Raises:
            UpstreamFailed: Its upstream cannot be started.
            NotFound: The tool does not exist.
            Forbidden: The settings do not allow it.
        """
        upstream_name, dot, tool = name.partition(".")
        upstream = self._upstreams.get(upstream_name) if dot else None
        if upstream is not None:
            await upstream.tools()
            upstream.tool(tool)


def _bucket(upstream: Upstream) -> TokenBucket | None:
    rate = upstream.settings.rate_per_second
    return None if rate is None else TokenBucket(rate, max(1, math.ceil(rate)))


def _operation(
    upstream: Upstream,
    tool: UpstreamTool,
    bucket: TokenBucket | None,
    shared: SharedBucket | None,
) -> Operation:
    async def call(
        arguments: dict[str, Any], *, report_progress: ReportProgress | None = None
    ) -> Any:
        if shared is not None:
            async with released_slot():  # it waits only for a token
                await shared.acquire()
        return await upstream.call(tool.name, arguments, report_progress)

    def check(arguments: Any) -> Any:
        if not isinstance(arguments, dict):
            raise ValueError(f"the arguments of {tool.name} have to be an object")  # noqa: TRY004
        tool.check(cast("dict[str, Any]", arguments))
        return cast("Any", arguments)

    return Operation(
        name=f"{upstream.name}.{tool.name}",
        fn=call,
        description=tool.description,
        item_type=Annotated[
            dict[str, Any], BeforeValidator(check), WithJsonSchema(tool.input_schema)
        ],
        limit_name=f"upstreams.{upstream.name}",
        item_timeout_seconds=upstream.settings.item_timeout_seconds,
        bucket=bucket,
    )
