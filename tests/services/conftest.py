"""The same shop of 100 rows in each kind of database."""

import sqlite3
from contextlib import closing

import pytest

from nursery_patterns import run_in_thread


@pytest.fixture
def sqlite_shop(tmp_path):
    path = tmp_path / "odd name?#%20.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE shop (id INTEGER PRIMARY KEY, name TEXT, photo BLOB)")
        rows = [(number, f"shop {number}", None) for number in range(1, 101)]
        connection.executemany("INSERT INTO shop VALUES (?, ?, ?)", rows)
        connection.execute("CREATE TABLE large (id INTEGER PRIMARY KEY, content BLOB)")
        connection.execute("INSERT INTO large VALUES (1, zeroblob(5000000))")
        connection.execute("CREATE VIRTUAL TABLE notes USING fts5(body)")
        connection.execute("INSERT INTO notes VALUES ('a cat'), ('a dog')")
    connection.close()
    return path


@pytest.fixture
def sqlite_shop_url(sqlite_shop):
    return f"sqlite:///{sqlite_shop}"


@pytest.fixture(scope="session")
def postgres_shop_url(postgres_folder):
    import psycopg  # noqa: PLC0415 - an extra

    with psycopg.connect(host=str(postgres_folder), user="postgres", autocommit=True) as owner:
        owner.execute("CREATE DATABASE shop")
    with psycopg.connect(host=str(postgres_folder), user="postgres", dbname="shop") as owner:
        owner.execute(
            "CREATE TABLE shop AS SELECT id, 'shop ' || id AS name "
            "FROM generate_series(1, 100) AS id"
        )
        owner.execute("CREATE SEQUENCE numbers")
        owner.execute("CREATE TYPE colour AS ENUM ('red', 'blue')")
        owner.execute("CREATE DOMAIN positive AS int CHECK (VALUE > 0)")
        owner.execute(
            "CREATE FUNCTION sneak() RETURNS int LANGUAGE plpgsql AS "
            "$$ BEGIN DELETE FROM shop; RETURN 1; END $$"
        )
    return f"postgresql://postgres@/shop?host={postgres_folder}"


@pytest.fixture
def statements_in_threads(monkeypatch):
    """Spare tests of what all databases have in common a worker process for each of them."""

    async def run(fn, *args, limiter, max_memory_bytes):
        return await run_in_thread(fn, *args, limiter=limiter)

    monkeypatch.setattr("trio_tools.database.engine.run_in_process", run)
