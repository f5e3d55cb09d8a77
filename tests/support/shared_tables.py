"""The tables by which replicas share limits, on the clock of a test."""

import math

import trio

from trio_tools.database.shared_store import LEASE_SECONDS, Beat, FencedError, SharedStoreError


class Tables:
    """The tables of `SharedStore` on the clock of the test."""

    def __init__(self):
        self.away = False
        self.replicas, self.due, self.places = {}, {}, {}

    def lives(self, fence):
        return self.replicas.get(fence, 0) > trio.current_time()


class SimulatedStore:
    def __init__(self, tables):
        self.tables, self.fence = tables, None

    def check(self):
        if self.tables.away:
            raise SharedStoreError("the database is away")
        if self.fence is None:
            self.fence = len(self.tables.replicas) + 1
            self.tables.replicas[self.fence] = trio.current_time() + LEASE_SECONDS
        if not self.tables.lives(self.fence):
            self.fence = None
            raise FencedError

    def take(self, name, rate, burst, tokens):
        self.check()
        now = trio.current_time()
        start = max(self.tables.due.get(name, -math.inf), now - burst / rate)
        self.tables.due[name] = start + tokens / rate
        return start - now

    def hold(self, name, wanted):
        self.check()
        rows = self.tables.places.setdefault(name, {})
        others = {f: row for f, row in rows.items() if f != self.fence and self.tables.lives(f)}
        free = max(0, wanted.capacity - sum(held for _, held in others.values()))
        rivals = sum(wants > 0 for wants, _ in others.values())
        fair = max(1, wanted.capacity // (rivals + 1)) if rivals else wanted.capacity
        held = max(min(wanted.wanted, free, fair), min(wanted.in_use, free))
        rows[self.fence] = (wanted.wanted, held)
        return held

    def beat(self, wanted, unused=()):
        self.check()
        for name in unused:
            self.tables.places.get(name, {}).pop(self.fence, None)
        self.tables.replicas[self.fence] = trio.current_time() + LEASE_SECONDS
        held = {name: self.hold(name, each) for name, each in wanted.items()}
        return Beat(sum(map(self.tables.lives, self.tables.replicas)), held)

    def end(self):
        pass

    def close(self):
        self.tables.replicas.pop(self.fence, None)
