"""What docs/scaling.md says of many replicas, in a simulation on the virtual clock.

2,000 hosts answer with heavy tails and refuse what is too much for them; four replicas fetch from
them with shared limits, and one of them is killed on the way.
"""

import random
from collections import Counter

import trio

from nursery_patterns import Batch
from tests.services.test_shared_limits import tables as tables  # noqa: PLC0414 - a fixture
from tests.support.shared_tables import SimulatedStore
from trio_tools.database.shared_limits import SharedLimits
from trio_tools.http.fetching.hosts.host_throttle import HostLimits

HOSTS, ITEMS, REPLICAS = 2_000, 2_400, 4
AT_ONCE, PER_HOST = 100, 4
LEASE = 10.0  # of an operation, as in `operations.durable`


class World:
    """Hosts that take their time, and refuse more than some requests at once."""

    def __init__(self):
        self.chance = random.Random(7)
        self.room = [self.chance.choice([1, 2, 3, 8]) for _ in range(HOSTS)]
        self.in_flight = Counter()
        self.most = Counter()
        self.refused = 0
        self.done = Counter()

    async def answer(self, host):
        """Return whether the host took the request."""
        self.in_flight[host] += 1
        self.most[host] = max(self.most[host], self.in_flight[host])
        try:
            if self.in_flight[host] > self.room[host]:
                self.refused += 1
                await trio.sleep(0.01)
                return False
            await trio.sleep(min(20.0, 0.05 * self.chance.paretovariate(1.1)))
            return True
        finally:
            self.in_flight[host] -= 1


class Replica:
    def __init__(self, world, tables):
        self.world = world
        self.limits = SharedLimits(SimulatedStore(tables))
        places = self.limits.places("hosts", PER_HOST)
        self.hosts = HostLimits(max_per_host=PER_HOST, max_cooldown_seconds=60, places=places)
        self.scope = trio.CancelScope()

    async def fetch(self, item):
        host = item * item % HOSTS  # some hosts have many of the items
        name = str(host)
        while True:
            await self.hosts.enter(name)
            try:
                started = trio.current_time()
                if await self.world.answer(host):
                    self.hosts.answered_well(name)
                    self.world.done[item] += 1
                    return
                self.hosts.refused(name, started=started, retry_after=1)
            finally:
                self.hosts.leave(name)

    async def work(self, batch):
        """Work until done or killed; return whether it is done."""
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.limits.run)
                await batch.run()
                nursery.cancel_scope.cancel()
        return batch.report().complete


async def test_replicas_fetch_from_thousands_of_hosts_and_one_of_them_dies(tables, autojump_clock):
    world = World()
    replicas = [Replica(world, tables) for _ in range(REPLICAS)]
    in_flight_at_death = 0

    async def operation(replica, other):
        """An operation of one replica, which another one takes up when its lease has ended."""
        items = range(replicas.index(replica), ITEMS, REPLICAS)
        first = Batch(replica.fetch, items, limit=AT_ONCE)
        if not await replica.work(first):
            kept = first.report()
            missing = [each.item for each in kept.outcomes if not each.succeeded]
            await trio.sleep(LEASE)
            again = Replica(world, tables)
            again.hosts, again.limits = other.hosts, other.limits
            assert await again.work(Batch(again.fetch, missing, limit=AT_ONCE))

    async with trio.open_nursery() as nursery:
        for number, replica in enumerate(replicas):
            nursery.start_soon(operation, replica, replicas[number - 1])
        await trio.sleep(1)
        in_flight_at_death = sum(world.in_flight.values())
        replicas[0].scope.cancel()
    assert set(world.done) == set(range(ITEMS))
    assert max(world.done.values()) == 1  # what was cut in flight had no end before
    assert max(world.most.values()) <= PER_HOST  # over all replicas
    assert world.refused > 0
    assert in_flight_at_death > 0
    # The longest tail, the pauses, and the lease of the dead one; not the sum of anything.
    assert trio.current_time() < 120
