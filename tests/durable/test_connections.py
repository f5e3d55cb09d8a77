"""A connection to PostgreSQL that is made while its task is cancelled is closed all the same."""

import threading

import pytest
import trio

from nursery_patterns import abandoned_threads
from trio_tools.database.shared_limits import SharedLimits
from trio_tools.operations.durable.location import Location
from trio_tools.operations.durable.notices import Notices


class Gate:
    """`psycopg.connect`, which waits with the connection that it made."""

    def __init__(self, connect):
        self.connect = connect
        self.made = []
        self.arrived = trio.Event()
        self.opened = threading.Event()

    def __call__(self, *arguments, **options):
        connection = self.connect(*arguments, **options)
        self.made.append(connection)
        trio.from_thread.run_sync(self.arrived.set)
        self.opened.wait()
        return connection


@pytest.fixture
def gate(monkeypatch):
    psycopg = pytest.importorskip("psycopg")
    made = Gate(psycopg.connect)
    monkeypatch.setattr(psycopg, "connect", made)
    yield made
    made.opened.set()


@pytest.mark.parametrize("of", ["notices", "limits"])
async def test_a_cancel_while_it_is_made_leaves_no_connection(of, postgres_url, gate):
    work = (
        Notices(Location.of_url(postgres_url), lambda payload: None).listen
        if of == "notices"
        else SharedLimits(postgres_url).run
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        await gate.arrived.wait()
        nursery.cancel_scope.cancel()
    assert abandoned_threads() == 1
    gate.opened.set()
    with trio.fail_after(30):
        while abandoned_threads():  # noqa: ASYNC110 - an abandoned thread tells nobody
            await trio.sleep(0.01)
    (connection,) = gate.made
    assert connection.closed
