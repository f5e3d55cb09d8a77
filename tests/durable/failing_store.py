"""A store on the virtual clock whose steps can fail.

What a thread does for the writer is done in a step of the event loop, so each run is the same as
the one before but for the step that fails.
"""

import sqlite3

import pytest
import trio
from sqlalchemy import event

from trio_tools.operations.durable import engine as engines
from trio_tools.operations.durable import writer as writers
from trio_tools.operations.durable.database import StateDatabase
from trio_tools.operations.durable.records import Record


@pytest.fixture
def no_threads(monkeypatch):
    async def here(fn, *arguments, **_):
        await trio.lowlevel.checkpoint()
        return fn(*arguments)

    monkeypatch.setattr(writers, "run_in_thread", here)
    connect = engines.StateEngine._connect_to_file

    def without_waiting_for_the_disk(engine):
        connection = connect(engine)
        connection.execute("PRAGMA synchronous=OFF")
        return connection

    monkeypatch.setattr(engines.StateEngine, "_connect_to_file", without_waiting_for_the_disk)


class Faults:
    """Counts the steps of all databases, and fails at the chosen ones."""

    def __init__(self, monkeypatch):
        self.steps = 0
        self.failing = frozenset()
        real = engines.StateEngine._make_engine

        def make(engine):
            made = real(engine)
            event.listen(made, "before_cursor_execute", self._statement, retval=False)
            event.listen(made, "commit", self._step)
            return made

        monkeypatch.setattr(engines.StateEngine, "_make_engine", make)
        commit = StateDatabase.commit

        def commit_and_perhaps_fail(database, changes):
            saved = commit(database, changes)
            self._step()  # it is written, and nobody hears of it
            return saved

        monkeypatch.setattr(StateDatabase, "commit", commit_and_perhaps_fail)

    def _statement(self, *_):
        self._step()

    def _step(self, *_):
        self.steps += 1
        if self.steps in self.failing:
            raise sqlite3.OperationalError("disk I/O error")


def record():
    return Record(owner="me", operation_id="op", tool="t", name="n", schema="", request=b"[]")
