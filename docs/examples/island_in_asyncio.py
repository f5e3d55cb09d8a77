# A trio island in an asyncio program: the host starts it, uses it, cancels it and stops it cleanly.
import asyncio  # noqa: TID251 - the host
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio

from nursery_patterns import run_batch

T = TypeVar("T")


class Island:
    """A trio run as a guest of the running asyncio loop, in which coroutines of asyncio call."""

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator["Island"]:
        """Start it, and stop it at the end of the block: for the lifespan of an application."""
        island = cls()
        loop = asyncio.get_running_loop()
        started: asyncio.Future[None] = loop.create_future()
        ended: asyncio.Future[Any] = loop.create_future()

        async def main() -> None:
            async with trio.open_nursery() as island._nursery:
                started.set_result(None)
                await trio.sleep_forever()

        trio.lowlevel.start_guest_run(
            main,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            run_sync_soon_not_threadsafe=loop.call_soon,
            host_uses_signal_set_wakeup_fd=True,
            done_callback=ended.set_result,
        )
        await started
        try:
            yield island
        finally:
            assert island._nursery is not None
            island._nursery.cancel_scope.cancel(reason="the host stops")
            (await asyncio.shield(ended)).unwrap()

    async def call(self, fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run an async function of trio; cancelling this coroutine cancels it, and waits for it."""
        assert self._nursery is not None
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        scope = trio.CancelScope()

        async def task() -> None:
            try:
                with scope:
                    value = await fn(*args)
            except Exception as error:  # noqa: BLE001 - it is the caller's
                result.set_exception(error)
            else:
                if scope.cancelled_caught:
                    result.cancel()
                else:
                    result.set_result(value)

        self._nursery.start_soon(task)
        try:
            return await asyncio.shield(result)
        except asyncio.CancelledError:
            scope.cancel(reason="the caller was cancelled")
            await asyncio.wait([result])
            raise


async def fetch(item: int) -> int:
    await trio.sleep(0.01 if item < 100 else 3600)
    return item * item


async def squares(items: list[int]) -> list[int]:
    return (await run_batch(fetch, items, limit=10)).values()


async def main() -> None:
    async with Island.open() as island:  # in FastAPI: within its lifespan
        print(await island.call(squares, [1, 2, 3]))
        try:
            async with asyncio.timeout(0.05):
                await island.call(squares, [100])
        except TimeoutError:
            print("the asyncio side was cancelled, and the batch with it")
        print(await asyncio.gather(*(island.call(squares, [n]) for n in (4, 5))))
    print("stopped")


asyncio.run(main())
