"""A server with a knee, on the virtual clock: what a limiter makes of it."""

import random

import trio

from nursery_patterns import Overloaded


class SimulatedServer:
    """Answers in 0.1 s while at most `knee` requests run; above, all of them slow down.

    It slows down by more than it has to (`power`), as servers do whose requests get in each other's
    way. With `refuses` it answers at once that it is overloaded when as many run.
    """

    def __init__(self, knee=20, *, power=1.5, refuses=None, seed=0):
        self.knee = knee
        self.power = power
        self.refuses = refuses
        self.running = 0
        self.answered = 0
        self._noise = random.Random(seed)

    async def __call__(self, _item=None):
        if self.refuses is not None and self.running >= self.refuses:
            raise Overloaded(retry_after=0.1)
        self.running += 1
        try:
            slowdown = max(1.0, (self.running / self.knee) ** self.power)
            await trio.sleep(0.1 * slowdown * self._noise.uniform(0.8, 1.2))
            self.answered += 1
        finally:
            self.running -= 1


async def load(server, limiter, *, seconds, clients=60, trace=None):
    """Keep a server as busy as the limiter allows, and return its answers per second."""
    before = server.answered

    async def client():
        while True:
            try:
                async with limiter:
                    await server()
            except Overloaded:
                await trio.sleep(0.1)
            if trace is not None:
                trace.append((trio.current_time(), limiter.total_tokens))

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for _ in range(clients):
                nursery.start_soon(client)
    return (server.answered - before) / seconds
