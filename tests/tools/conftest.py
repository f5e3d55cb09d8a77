"""Both eras of the protocol, and no settings of whoever runs the tests."""

import os
import sqlite3

import pytest

from tests.server.kit import ERAS


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    for name in [name for name in os.environ if name.startswith("TRIO_TOOLS_")]:
        monkeypatch.delenv(name)


@pytest.fixture(params=ERAS)
def era(request):
    return request.param


@pytest.fixture
def shop(tmp_path):
    """Settings of a server with one SQLite database, which has ten `items`."""
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT)")
        database.executemany("INSERT INTO items VALUES (?, ?)", [(n, f"n{n}") for n in range(10)])
    database.close()
    return {"databases": {"shop": {"url": f"sqlite:///{tmp_path}/shop.db"}}}
