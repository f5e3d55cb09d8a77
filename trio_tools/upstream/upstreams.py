"""All upstreams of one server, and the nursery of their owners."""

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
        settings: The settings of each upstream, by name.
        own_name: The name of this server.
        homes: The nurseries for owners; by default those of the blocks of `running`.

    Attributes:
        version: Grows with every change of the usable tools.
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
        """Let upstreams live during the block; at its end those in its nursery are closed.

        Blocks may overlap. An upstream lives in the oldest block that is open when it starts.
        When that block ends and others are open, the next call starts it in one of these.
        """
        async with self._homes.opened():
            self.begin_eager()
            yield

    def begin_eager(self) -> None:
        """Start the upstreams with `start = "eager"`."""
        for upstream in self._by_name.values():
            if upstream.settings.start == "eager":
                upstream.begin()

    def take(self, settings: Mapping[str, UpstreamSettings]) -> None:
        """Apply other settings of upstreams.

        An upstream with unchanged settings stays. Any other is closed when its last call has
        ended, and is not listed until then. Its replacement is started like every other upstream.
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
        """Make the tools of all upstreams known, within at most so many seconds.

        An upstream that cannot be started is reported in the status. Tools listed later are a
        change.
        """
        if all(upstream.catalog is not None for upstream in self._by_name.values()):
            return
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for upstream in self._by_name.values():
                    nursery.start_soon(_try_to_list, upstream)

    async def changed(self, version: int) -> int:
        """Wait until the tools differ from those of that version; return the new version."""
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
        return  # the status has the reason
