"""Limits that several servers keep to together: on a virtual clock, and in a real PostgreSQL."""

import logging
from contextlib import closing, contextmanager

import psycopg
import pytest
import trio
import trio.testing

from tests.support.shared_tables import SimulatedStore, Tables
from trio_tools.database import shared_limits
from trio_tools.database.shared_limits import BEAT_SECONDS, SharedLimits
from trio_tools.database.shared_store import (
    LEASE_SECONDS,
    FencedError,
    SharedStore,
    SharedStoreError,
    Wanted,
)
from trio_tools.http.fetching.hosts.host_throttle import HostLimits


@pytest.fixture
def tables(monkeypatch):
    async def at_once(work, **_):
        await trio.lowlevel.checkpoint()
        return work()

    monkeypatch.setattr(shared_limits, "run_in_thread", at_once)
    return Tables()


async def take_for(seconds, bucket, taken):
    with trio.move_on_after(seconds):
        while True:
            await bucket.acquire()
            taken.append(trio.current_time())


@pytest.mark.parametrize("tasks", [1, 30])
async def test_three_replicas_take_the_rate_of_one_bucket_and_no_more(
    tables, autojump_clock, tasks
):
    taken = []
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            limits = SharedLimits(SimulatedStore(tables))
            nursery.start_soon(limits.run)
            bucket = limits.bucket("apis.a", 50, 5)
            for _ in range(tasks):
                nursery.start_soon(take_for, 20, bucket, taken)
        await trio.sleep(21)
        nursery.cancel_scope.cancel()
    assert len(taken) == pytest.approx(20 * 50 + 5, abs=2)
    for start in range(20):
        assert sum(start <= at < start + 1 for at in taken) <= 50 + 5 + 3


async def test_while_the_database_is_away_each_replica_keeps_to_its_share(
    tables, autojump_clock, caplog
):
    caplog.set_level(logging.WARNING, "trio_tools")
    taken = []
    async with trio.open_nursery() as nursery:
        replicas = [SharedLimits(SimulatedStore(tables)) for _ in range(3)]
        for limits in replicas:
            nursery.start_soon(limits.run)
            nursery.start_soon(take_for, 30, limits.bucket("apis.a", 60, 3), taken)
        await trio.sleep(10)
        assert [limits.status() for limits in replicas] == [
            {"shared": True, "replicas": 3, "trouble": None}
        ] * 3
        tables.away = True
        await trio.sleep(5)
        assert replicas[0].status()["trouble"] == "the database is away"
        assert "1/3 of each" in replicas[0].warning()
        await trio.sleep(5)
        tables.away = False
        await trio.sleep(10)
        assert not replicas[0].warning()
        nursery.cancel_scope.cancel()
    for start in (1, 11, 22):  # before, meanwhile and after
        assert sum(start <= at < start + 8 for at in taken) == pytest.approx(8 * 60, rel=0.05)
    assert max(sum(at <= t < at + 1 for t in taken) for at in taken[::20]) <= 60 + 3 * 3 + 3 * 3
    assert len([r for r in caplog.messages if "limits are not shared now" in r]) == 3
    assert len([r for r in caplog.messages if "limits are shared again" in r]) == 3


async def test_a_cancelled_wait_takes_no_token(tables, autojump_clock):
    limits = SharedLimits(SimulatedStore(tables))
    bucket = limits.bucket("b", 1, 1)
    assert await bucket.acquire() == 0
    with trio.move_on_after(0.5):
        await bucket.acquire()
    assert await bucket.acquire() == pytest.approx(0.5)


async def use(hosts, seconds, most):
    await hosts.enter("h")
    most.append(hosts.snapshot()["h"].in_flight)
    await trio.sleep(seconds)
    hosts.leave("h")


async def test_places_are_divided_and_those_of_a_dead_replica_are_free_within_its_lease(
    tables, autojump_clock
):
    dying = trio.CancelScope()

    async def run(limits, scope):
        with scope:
            await limits.run()

    async def uses(hosts, scope):
        with scope:
            async with trio.open_nursery() as users:
                for _ in range(100):
                    users.start_soon(use, hosts, 1, [])

    def replica(scope):
        limits = SharedLimits(SimulatedStore(tables))
        nursery.start_soon(run, limits, scope)
        places = limits.places("hosts", 10)
        return HostLimits(max_per_host=10, max_cooldown_seconds=60, places=places)

    def in_flight(hosts):
        return hosts.snapshot()["h"].in_flight if "h" in hosts.snapshot() else 0

    async with trio.open_nursery() as nursery:
        one, other = replica(dying), replica(trio.CancelScope())
        nursery.start_soon(uses, one, trio.CancelScope())
        await trio.sleep(0.4)
        assert in_flight(one) == 10
        nursery.start_soon(uses, other, trio.CancelScope())
        for _ in range(40):
            await trio.sleep(0.1)
            assert in_flight(one) + in_flight(other) <= 10
        assert (in_flight(one), in_flight(other)) == (5, 5)
        ends = tables.replicas.copy()
        dying.cancel()
        await trio.testing.wait_all_tasks_blocked()
        tables.replicas |= ends  # killed: it gave nothing back
        await trio.sleep(LEASE_SECONDS + 1)
        assert in_flight(other) == 10
        nursery.cancel_scope.cancel()


async def test_a_replica_that_stood_still_uses_nothing_that_it_was_given(tables, autojump_clock):
    limits = SharedLimits(SimulatedStore(tables))
    bucket, places = limits.bucket("b", 1, 5), limits.places("hosts", 4)
    places.watch(lambda: {"h": (2, 0)})
    await places.ask("h")
    await bucket.ready(waiting=4)
    assert (places.held("h"), bucket.statistics().tokens) == (2, 1)
    tables.replicas[1] = 0
    with trio.move_on_after(BEAT_SECONDS / 2):
        await limits.run()
    assert (places.held("h"), bucket.statistics().tokens) == (0, 0)
    await places.ask("h")
    assert (places.held("h"), len(tables.replicas)) == (2, 2)


@pytest.fixture
def shared_url(postgres_url):
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            "DROP TABLE IF EXISTS trio_tools_places_v1, trio_tools_replicas_v1, trio_tools_rates_v1"
        )
    return postgres_url


@contextmanager
def two_stores(url):
    lease = 600  # a busy machine may stand still for longer than the usual one
    with (
        closing(SharedStore(url, lease_seconds=lease)) as one,
        closing(SharedStore(url, lease_seconds=lease)) as other,
    ):
        yield one, other


def test_the_tables_hand_out_tokens_and_places_as_the_simulated_ones_do(shared_url):
    with two_stores(shared_url) as (one, other):
        assert one.take("a", 0.01, 20, 5) == pytest.approx(-2_000, abs=60)
        assert other.take("a", 0.01, 20, 20) == pytest.approx(-1_500, abs=60)
        assert one.take("a", 0.01, 20, 1) == pytest.approx(500, abs=60)
        assert one.take("whole numbers", 1, 2_000, 1_000) == pytest.approx(-2_000, abs=60)
        assert one.take("whole numbers", 1, 2_000, 1) == pytest.approx(-1_000, abs=60)
        assert one.hold("h", Wanted(10, 10, 0)) == 10
        assert other.hold("h", Wanted(10, 4, 0)) == 0
        assert one.beat({"h": Wanted(10, 10, 7)}) == (2, {"h": 7})
        assert other.beat({"h": Wanted(10, 4, 0)}) == (2, {"h": 3})
        assert one.beat({"h": Wanted(10, 10, 1)}) == (2, {"h": 5})


def test_a_replica_whose_lease_has_ended_is_refused_and_begins_under_a_higher_number(shared_url):
    with two_stores(shared_url) as (one, other):
        assert one.hold("h", Wanted(10, 10, 0)) == 10
        with psycopg.connect(shared_url, autocommit=True) as connection:
            connection.execute("UPDATE trio_tools_replicas_v1 SET until = 0")
        assert other.hold("h", Wanted(10, 10, 0)) == 10
        for refused in (
            lambda: one.hold("h", Wanted(10, 10, 10)),
            lambda: one.beat({}),
            lambda: one.take("a", 1, 1, 1),
        ):
            with pytest.raises(FencedError):
                refused()
            with psycopg.connect(shared_url, autocommit=True) as connection:
                connection.execute("UPDATE trio_tools_replicas_v1 SET until = 0 WHERE fence < 2")
                if one._fence is None:
                    one._opened()
                connection.execute(
                    "UPDATE trio_tools_replicas_v1 SET until = 0 WHERE fence = %s", [one._fence]
                )
        with pytest.raises(FencedError):
            one.beat({})
        assert one.beat({"h": Wanted(10, 10, 0)}).held == {"h": 0}


def test_a_database_that_is_not_there_is_told_without_its_password():
    with closing(SharedStore("postgresql://u:secret@127.0.0.1:1/d")) as store:
        with pytest.raises(SharedStoreError, match="does not answer as it should") as failed:
            store.beat({})
        assert "secret" not in str(failed.value)
