"""Both eras of the protocol, no settings from the environment, and a shop to ask."""

import sqlite3
from contextlib import closing

import pytest

from tests.support.servers_in_memory import era, no_settings_from_outside

__all__ = ["era", "no_settings_from_outside"]


@pytest.fixture
def shop(tmp_path):
    """Settings of a server with one SQLite database, which has ten `items`."""
    with closing(sqlite3.connect(tmp_path / "shop.db")) as database, database:
        database.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT)")
        database.executemany("INSERT INTO items VALUES (?, ?)", [(n, f"n{n}") for n in range(10)])
    database.close()
    return {"databases": {"shop": {"url": f"sqlite:///{tmp_path}/shop.db"}}}
