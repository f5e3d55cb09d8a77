"""A table in chunks: each row once, or a refusal that says which key would do."""

import sqlite3
from contextlib import closing

import pytest

from trio_tools.answers.errors import InvalidArgument
from trio_tools.database import DatabaseConfig, Databases
from trio_tools.database.tables import Table

pytestmark = pytest.mark.usefixtures("statements_in_threads")


@pytest.fixture
async def sqlite_databases(tmp_path):
    async with Databases([DatabaseConfig("d", f"sqlite:///{tmp_path}/d.db")]) as databases:
        yield databases


@pytest.fixture
def keyed(tmp_path, sqlite_databases):
    """Return what makes a table in SQLite whose column `id` has the given type and values."""

    def make(kind, values, key="id"):
        with closing(sqlite3.connect(tmp_path / "d.db")) as connection, connection:
            connection.execute(f"CREATE TABLE t (id {kind}, name TEXT)")
            rows = [(value, f"n{number}") for number, value in enumerate(values)]
            connection.executemany("INSERT INTO t VALUES (?, ?)", rows)
        connection.close()
        return Table(sqlite_databases, "d", "t", key, timeout_seconds=9)

    return make


async def read_all(table, size):
    names, after, chunks = [], None, 0
    while True:
        chunk = await table.read_chunk(after, size)
        names += [row["name"] for row in chunk.rows]
        after, chunks = chunk.last_key, chunks + 1
        assert chunks < 100, "it never ends"
        if after is None:
            return names


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7])
@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("INTEGER", [5, -1, 2**62, 3, 0, 9]),
        ("TEXT", ["b", "", "a'", 'a"', "é", "ab"]),
        ("REAL", [0.1, 1e300, -0.25, 3.0, 1 / 3, 2.5]),
        ("", ["10", 9, 1.5, "", "9", -1]),
    ],
)
async def test_each_row_comes_once_in_the_order_of_the_key(keyed, kind, values, size):
    table = keyed(kind, values)
    names = await read_all(table, size)
    chunk = await table.read_chunk(None, 100)
    assert names == [row["name"] for row in chunk.rows]
    assert sorted(names) == [f"n{number}" for number in range(6)]


@pytest.mark.parametrize(
    ("kind", "values", "why"),
    [
        ("INTEGER", [None, None, 1, 2, 3, 4], "None is not a position to continue from"),
        ("INTEGER", [None, 1, 2, 3, 4, 5], "rows that have no value in it (NULL)"),
        ("INTEGER", [1, 2, 2, 3, 4, 5], "several rows have the value 2"),
        ("TEXT COLLATE NOCASE", ["a", "b", "B", "c"], "several rows have the value '"),
        ("BLOB", [b"a", b"b", b"c"], "does not find its own row again"),
        ("REAL", [float("-inf"), float("inf"), float("inf")], "does not find its own row again"),
    ],
)
async def test_a_key_that_does_not_tell_the_next_row_is_refused(keyed, kind, values, why):
    with pytest.raises(InvalidArgument) as caught:
        await read_all(keyed(kind, values), 2)
    assert caught.value.error_code == "UNUSABLE_KEY"
    assert caught.value.message.startswith("table 't' cannot be read in chunks by its key 'id': ")
    assert why in caught.value.message
    assert "different in each row and never NULL" in caught.value.remediation


@pytest.mark.parametrize("values", [[None, None, 1], [1, 1, 1], [b"a", b"b", None]])
async def test_a_table_that_fits_into_one_chunk_needs_no_key_that_tells_rows_apart(keyed, values):
    assert len(await read_all(keyed("", values), 3)) == 3


@pytest.mark.parametrize("key", ["ID", "ident", 'i"d'])
async def test_a_key_that_is_not_there_is_answered_with_the_columns(keyed, key):
    with pytest.raises(InvalidArgument) as caught:
        await keyed("INTEGER", [1, 2], key).read_chunk(None, 1)
    assert caught.value.error_code == "UNKNOWN_KEY"
    assert f"no column {key!r}" in caught.value.message
    assert caught.value.message.endswith("it has: id, name")
    assert caught.value.data == {"columns": ["id", "name"]}


POSTGRES = {
    "whole numbers": ("bigint", ["1", "3", "2"], None),
    "texts": ("text", ["'b'", "'A'", "'a'"], None),
    "decimals": ("numeric", ["1.50", "1.5000001", "-2"], None),
    "times": (
        "timestamptz",
        ["'2026-01-01 0:0:0.000001Z'", "'2026-01-02Z'", "'2025-01-01Z'"],
        None,
    ),
    "uuids": ("uuid", ["gen_random_uuid()"] * 3, None),
    "fractions": ("float8", ["0.1", "1e300", "'nan'"], None),
    "nulls": ("int", ["1", "2", "NULL"], "rows that have no value in it (NULL)"),
    "doubles": ("int", ["1", "1", "2"], "several rows have the value 1"),
    "bytes": ("bytea", ["'a'", "'b'", "'c'"], "does not find its own row again"),
    "few digits": ("float4", ["0.1", "0.2", "0.3"], "does not find its own row again"),
    "objects": ("jsonb", ["'{\"a\": 1}'", "'{\"a\": 2}'", "'{\"a\": 3}'"], "to continue from"),
}


@pytest.mark.parametrize("case", POSTGRES)
async def test_postgres_says_itself_whether_its_key_tells_the_next_row(postgres_url, case):
    import psycopg  # noqa: PLC0415 - an extra

    kind, values, why = POSTGRES[case]
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute("DROP TABLE IF EXISTS keyed")
        owner.execute(f"CREATE TABLE keyed (id {kind}, name text)")
        for number, value in enumerate(values):
            owner.execute(f"INSERT INTO keyed VALUES ({value}, 'n{number}')")
    async with Databases([DatabaseConfig("d", postgres_url)]) as databases:
        table = Table(databases, "d", "public.keyed", "id", timeout_seconds=9)
        if why is None:
            assert sorted(await read_all(table, 1)) == ["n0", "n1", "n2"]
            return
        with pytest.raises(InvalidArgument) as caught:
            await read_all(table, 1)
    assert caught.value.error_code == "UNUSABLE_KEY"
    assert why in caught.value.message
