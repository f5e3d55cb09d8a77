"""All upstreams of one server, and the nursery that their owners live in."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager

import trio

from trio_tools.answers.errors import UpstreamFailed
from trio_tools.settings import UpstreamSettings
from trio_tools.upstream.homes import Homes
from trio_tools.upstream.upstream import Upstream


class Upstreams(Mapping[str, Upstream]):
    """The upstreams by name.

    Args:
        settings: Of each upstream, by name.
        own_name: What this server calls itself.
        homes: Where they live; by default in the blocks of `running`.

    Attributes:
        version: Grows whenever the tools that may be used change.
    """

    def __init__(
        self,
        settings: Mapping[str, UpstreamSettings],
        *,
        own_name: str,
        homes: Homes | None = None,
    ) -> None:
        self._own_name = own_name
        self._by_name = {name: self._make(name, each) for name, each in settings.items()}
        self.version = 0
        self._change = trio.Event()
        self._homes = Homes() if homes is None else homes

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
        async with self._homes.opened():
            self.begin_eager()
            yield

    def begin_eager(self) -> None:
        """Start those that are not to wait for their first call."""
        for upstream in self._by_name.values():
            if upstream.settings.start == "eager":
                upstream.begin()

    def take(self, settings: Mapping[str, UpstreamSettings]) -> None:
        """Have the upstreams of these settings from now on.

        One whose settings are as before goes on. Any other is closed when its last call has ended,
        and is found by nobody until then; the one in its place is started like every other.
        """
        before = self._by_name
        self._by_name = dict[str, Upstream]()
        for name, each in settings.items():
            kept = before.get(name)
            if kept is None or kept.settings != each:
                kept = self._make(name, each)
                if each.start == "eager" and self._homes:
                    kept.begin()
            self._by_name[name] = kept
        for name, upstream in before.items():
            if self._by_name.get(name) is not upstream:
                upstream.retire()
        self._tools_changed()

    def _make(self, name: str, settings: UpstreamSettings) -> Upstream:
        return Upstream(
            name,
            settings,
            own_name=self._own_name,
            start_owner=self._start_owner,
            on_tools_changed=self._tools_changed,
        )

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
        self._homes.start(upstream.own)


async def _try_to_list(upstream: Upstream) -> None:
    try:
        await upstream.tools()
    except UpstreamFailed:
        return  # the status tells why
