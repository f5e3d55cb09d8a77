"""All upstreams of one server, and the nursery that their owners live in."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from trio_tools.answers.errors import UpstreamFailed
from trio_tools.settings import UpstreamSettings
from trio_tools.upstream.upstream import Upstream


@dataclass(frozen=True, eq=False)
class _Home:
    """A nursery for owners, and the context they run in: the server's, not that of a caller."""

    nursery: trio.Nursery
    context: contextvars.Context


class Upstreams(Mapping[str, Upstream]):
    """The upstreams by name.

    Args:
        settings: Of each upstream, by name.
        own_name: What this server calls itself.

    Attributes:
        version: Grows whenever the tools that may be used change.
    """

    def __init__(self, settings: Mapping[str, UpstreamSettings], *, own_name: str) -> None:
        self._by_name = {
            name: Upstream(
                name,
                each,
                own_name=own_name,
                start_owner=self._start_owner,
                on_tools_changed=self._tools_changed,
            )
            for name, each in settings.items()
        }
        self.version = 0
        self._change = trio.Event()
        # Of each connection of this server that is served; the oldest one is home to the owners.
        self._homes: list[_Home] = []

    def __getitem__(self, name: str) -> Upstream:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Let upstreams live during the block; at its end those that it owns are closed.

        Blocks may overlap. An upstream lives in the oldest one there is when it is started; when
        that one ends and there are others, the next call starts it there.
        """
        if not self._by_name:
            yield
            return
        async with trio.open_nursery() as nursery:
            home = _Home(nursery, contextvars.copy_context())
            self._homes.append(home)
            try:
                for upstream in self._by_name.values():
                    if upstream.settings.start == "eager":
                        upstream.begin()
                yield
            finally:
                self._homes.remove(home)
                nursery.cancel_scope.cancel(reason="the server ends")

    async def discover(self, seconds: float) -> None:
        """See to it that the tools of all upstreams are known, for so many seconds at most.

        Those that cannot be started are left to the status; what comes later is a change.
        """
        if all(upstream.catalog is not None for upstream in self._by_name.values()):
            return
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for upstream in self._by_name.values():
                    nursery.start_soon(_try_to_list, upstream)

    async def changed(self, version: int) -> int:
        """Wait until the tools are others than at that version; return the version they have."""
        while self.version == version:
            await self._change.wait()
        return self.version

    def _tools_changed(self) -> None:
        self.version += 1
        change, self._change = self._change, trio.Event()
        change.set()

    def _start_owner(self, upstream: Upstream) -> None:
        if not self._homes:
            raise UpstreamFailed("the server is not served, or about to end")
        home = self._homes[0]
        home.context.copy().run(home.nursery.start_soon, upstream.own)


async def _try_to_list(upstream: Upstream) -> None:
    try:
        await upstream.tools()
    except UpstreamFailed:
        return  # the status tells why
