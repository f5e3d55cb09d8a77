# One task owns a connection that many callers use. When it breaks, every caller gets an error.
from collections.abc import Awaitable, Callable

import trio


class LostError(Exception):
    """The connection is over; `sent` says whether the request had left."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__(sent)
        self.sent = sent


class Peer:
    """The other side: answers each request after a delay, and breaks on request."""

    def __init__(self) -> None:
        self.fallen = trio.Event()

    async def ask(self, question: str) -> str:
        if question == "fall over":
            self.fallen.set()
        await trio.sleep(0.1)
        return question.upper()


class Connection:
    """Owned by the task that runs it. Callers have a reference, and get an error when it ends."""

    def __init__(self) -> None:
        self._peer = Peer()
        self._over = False
        self._callers: set[trio.CancelScope] = set()

    async def run(self, ready: Callable[["Connection"], None]) -> None:
        try:
            await trio.sleep(0.05)  # the handshake
            ready(self)
            await self._peer.fallen.wait()
        finally:
            self._over = True
            for caller in self._callers:
                caller.cancel()

    async def ask(self, question: str) -> str:
        if self._over:
            raise LostError(sent=False)
        with trio.CancelScope() as call:
            self._callers.add(call)
            try:
                return await self._peer.ask(question)
            finally:
                self._callers.remove(call)
        raise LostError(sent=True)


class Owner:
    """Keeps a connection up while there is a nursery for it."""

    def __init__(self) -> None:
        self.starts = 0
        self._connection: Connection | None = None
        self._news = trio.Event()

    async def run(self) -> None:
        while True:
            self.starts += 1
            try:
                await Connection().run(self._tell)
            finally:
                self._tell(None)

    def _tell(self, connection: Connection | None) -> None:
        self._connection = connection
        news, self._news = self._news, trio.Event()
        news.set()

    async def ask(self, question: str, *, again: bool = False) -> str:
        """Ask; with `again`, a request that may have been done is made once more."""
        while True:
            while self._connection is None:
                await self._news.wait()
            try:
                return await self._connection.ask(question)
            except LostError as lost:
                if lost.sent and not again:
                    raise
                again = again and not lost.sent
                await trio.lowlevel.checkpoint()


async def caller(ask: Callable[[], Awaitable[str]], name: str) -> None:
    try:
        print(f"{name}: {await ask()}")
    except LostError as lost:
        print(f"{name}: lost, sent={lost.sent}")


async def main() -> None:
    owner = Owner()
    async with trio.open_nursery() as home:
        home.start_soon(owner.run)
        with trio.move_on_after(0.01):
            await owner.ask("too impatient")  # a cancelled caller does not affect the connection
        async with trio.open_nursery() as callers:
            callers.start_soon(caller, lambda: owner.ask("buy a ship"), "writes")
            callers.start_soon(caller, lambda: owner.ask("weather?", again=True), "reads")
            callers.start_soon(caller, lambda: owner.ask("fall over"), "breaks it")
        print(f"after that: {await owner.ask('anyone?')}, {owner.starts} connections")
        home.cancel_scope.cancel()


trio.run(main)
