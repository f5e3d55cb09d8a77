"""SQLite: what it refuses to do, what a cancel ends, and what is not the caller's fault."""

import logging
import re
import resource
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from functools import partial

import pytest
import trio

from trio_tools.answers.errors import Forbidden, InvalidArgument, TimedOut, UpstreamFailed
from trio_tools.database import DatabaseConfig, Databases, sqlite_worker
from trio_tools.database.results import Query
from trio_tools.database.statement import Statement

# instr of half a value in a whole one takes seconds, in which SQLite asks nobody anything.
_SLOW = (
    "instr(replace(hex(zeroblob(499990)), '00', 'aa'),"
    " replace(hex(zeroblob(249990)), '00', 'aa') || 'b')"
)
SLOW_BUILT_INS = "SELECT " + " + ".join([_SLOW] * 20)
ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
ENDLESS_SORT = (
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n ORDER BY -x"
)


@pytest.fixture
def ask(sqlite_shop):
    """Run a statement as a worker process does, in this process: a hundred need no hundred."""

    def ask(sql, parameters=None, *, path=sqlite_shop, max_bytes=1_000_000):
        given = parameters or {}
        file = sqlite_worker.File("shop", f"{path.as_uri()}?mode=ro", 1_000_000, 0.1)
        query = Query(Statement.parse(sql, given), given, 0, 100, max_bytes, 30.0, time.monotonic())
        return sqlite_worker.run(file, query)

    return ask


@pytest.fixture
async def databases(sqlite_shop_url):
    async with Databases([DatabaseConfig("shop", sqlite_shop_url)]) as databases:
        yield databases


async def test_rows_come_with_columns_and_timing(databases):
    result = await databases.query(
        "shop", "SELECT id, name FROM shop WHERE id > :least ORDER BY id;", {"least": 98}
    )
    assert result.columns == ("id", "name")
    assert result.rows == ((99, "shop 99"), (100, "shop 100"))
    assert (result.row_count, result.truncated, result.next_position) == (2, False, None)
    assert min(result.timing.wait_seconds, result.timing.execute_seconds) >= 0


def test_values_are_what_json_has(ask):
    result = ask("SELECT 1, 1.5, 'x', NULL, x'00ff', 9e999 AS big, 2 AS big")
    assert result.rows == [(1, 1.5, "x", None, "AP8=", "inf", 2)]
    assert result.columns[-2:] == ("big", "big")


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO shop VALUES (1000, 'x', NULL)",
        "UPDATE shop SET name = 'x'",
        "DELETE FROM shop",
        "WITH x AS (SELECT 1) DELETE FROM shop",
        "REPLACE INTO shop VALUES (1, 'x', NULL)",
        "DROP TABLE shop",
        "CREATE TABLE t (x)",
        "CREATE TEMP TABLE t (x)",
        "CREATE VIRTUAL TABLE v USING fts5(x)",
        "ALTER TABLE shop RENAME TO s",
        "ATTACH '/tmp/other.db' AS other",
        "DETACH main",
        "VACUUM",
        "VACUUM INTO '/tmp/copy.db'",
        "REINDEX",
        "ANALYZE",
        "BEGIN",
        "COMMIT",
        "SAVEPOINT x",
        "PRAGMA user_version = 3",
        "PRAGMA writable_schema = 1",
        "PRAGMA temp_store_directory = '/tmp'",
        "EXPLAIN DELETE FROM shop",
        "PRAGMA hard_heap_limit = 0",
        "SELECT * FROM sqlite_stmt",
        "SELECT count(*) FROM sqlite_stmt",
        "SELECT count(*) FROM dbstat",
        "SELECT * FROM pragma_module_list",
        "UPDATE sqlite_master SET sql = ''",
        "INSERT INTO notes VALUES ('x')",
        "INSERT INTO notes(notes) VALUES ('optimize')",
        "SELECT load_extension('x')",
        "SELECT LOAD_EXTENSION('x')",
        "SELECT fts3_tokenizer('simple')",
    ],
)
def test_whatever_does_more_than_read_is_forbidden(ask, sqlite_shop, sql):
    before = sqlite_shop.read_bytes()
    with pytest.raises((Forbidden, InvalidArgument)) as caught:
        ask(sql)
    if "fts3" not in sql:  # which is not compiled in everywhere
        assert caught.value.error_code == "READ_ONLY"
    assert sqlite_shop.read_bytes() == before
    assert ask("SELECT count(*) FROM shop").rows == [(100,)]
    assert [file.name for file in sqlite_shop.parent.iterdir()] == [sqlite_shop.name]


@pytest.mark.parametrize(
    "sql",
    [
        "PRAGMA table_info(shop)",
        "PRAGMA database_list",
        "SELECT name FROM pragma_database_list",
        "WITH n AS (SELECT 1) SELECT count(*) FROM n",
        "SELECT count(*) FROM shop AS sqlite_stmt",
        "SELECT 1 WHERE " + " OR ".join(["1"] * 250),
        "SELECT name FROM pragma_table_info('shop')",
        "SELECT name FROM sqlite_master",
        "SELECT body FROM notes WHERE notes MATCH 'cat'",
        "SELECT value FROM json_each('[1, 2]')",
        "VALUES (1), (2)",
        "EXPLAIN QUERY PLAN SELECT * FROM shop",
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 5) SELECT x FROM n",
        "SELECT length(content) FROM large",
        "SELECT id FROM large",
        "SELECT row_number() OVER (ORDER BY name), upper(name) FROM shop",
    ],
)
def test_whatever_only_reads_is_allowed(ask, sql):
    assert len(ask(sql).rows) > 0


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT hex(zeroblob(1e9))",
        "SELECT zeroblob(1000001)",
        "SELECT content FROM large",
        "SELECT randomblob(1e9)",
        "SELECT replace(hex(zeroblob(400000)), '0', 'xxxx')",
        "SELECT group_concat(hex(zeroblob(50000))) FROM shop",
    ],
)
def test_a_value_that_is_too_large_is_refused_before_it_is_made(ask, sql):
    with pytest.raises(InvalidArgument) as caught:
        ask(sql)
    assert caught.value.error_code == "TOO_LARGE"


@pytest.mark.parametrize(
    ("sql", "code", "words"),
    [
        ("SELECT 1; SELECT 2", "SEVERAL_STATEMENTS", "one by one"),
        ("SELECT 1; DROP TABLE shop", "SEVERAL_STATEMENTS", "one by one"),
        ("SELECT ';' -- ;\n; /* ; */ DELETE FROM shop", "SEVERAL_STATEMENTS", "one by one"),
        ("", "INVALID_ARGUMENT", "sql is empty"),
        (" ; -- nothing\n", "INVALID_ARGUMENT", "sql is empty"),
        ("SELEC 1", "BAD_SQL", 'near "SELEC": syntax error'),
        ("SELECT * FROM nowhere", "BAD_SQL", "no such table: nowhere"),
        ("SELECT nope FROM shop", "BAD_SQL", "no such column: nope"),
        ("SELECT 'open", "BAD_SQL", "unrecognized token"),
        ("SELECT ?", "BAD_SQL", "no name"),
        ("SELECT 1\0", "INVALID_ARGUMENT", "NUL"),
        ("SELECT '\ud800'", "INVALID_ARGUMENT", "surrogate"),
        ("SELECT " + "(" * 1000 + "1" + ")" * 1000, "BAD_SQL", ""),
        ("SELECT 1 -- " + "x" * 100_000, "TOO_LARGE", "at most 100,000"),
    ],
)
def test_sql_that_is_wrong_is_answered_with_what_is_wrong(ask, sql, code, words):
    with pytest.raises(InvalidArgument) as caught:
        ask(sql)
    assert caught.value.error_code == code
    assert words in caught.value.message


def test_one_statement_may_end_in_semicolons_and_comments(ask):
    sql = "SELECT ';', ':no', \"name\" FROM shop; ; /* end */ -- x"
    assert len(ask(sql).rows) == 100


@pytest.mark.parametrize("value", [[1], {"a": 1}, 2**70, "\ud800"], ids=repr)
def test_a_value_that_sqlite_lacks_is_refused(ask, value):
    with pytest.raises(InvalidArgument):
        ask("SELECT :x", {"x": value})


@pytest.mark.parametrize("sql", [ENDLESS_SORT, ENDLESS.replace("count(*)", "x"), SLOW_BUILT_INS])
async def test_a_statement_that_never_ends_is_stopped_in_time(databases, sql):
    with pytest.raises(TimedOut) as caught:
        await databases.query("shop", sql, timeout_seconds=0.2, position=10**12)
    assert caught.value.data == {"timeout_seconds": 0.2}
    assert databases.limiter.borrowed_tokens == 0  # its process is free or gone, too


async def test_a_cancel_ends_the_statement_and_the_next_one_runs(sqlite_shop_url):
    limiter = trio.CapacityLimiter(1)
    async with Databases([DatabaseConfig("d", sqlite_shop_url)], limiter=limiter) as databases:
        await databases.query("d", "SELECT 1")
        for _ in range(2):
            with trio.move_on_after(0.05) as scope:
                await databases.query("d", ENDLESS)
            assert scope.cancelled_caught
            assert limiter.borrowed_tokens == 0
            assert (await databases.query("d", "SELECT 1")).rows == ((1,),)


async def test_a_cancelled_query_leaves_the_others_alone(databases):
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(
                partial(databases.query, "shop", ENDLESS + " LIMIT 1", timeout_seconds=60)
            )
        with trio.move_on_after(0.05):
            await databases.query("shop", ENDLESS)
        assert (await databases.query("shop", "SELECT count(*) FROM shop")).rows == ((100,),)
        assert databases.limiter.borrowed_tokens == 2
        nursery.cancel_scope.cancel()
    assert databases.limiter.borrowed_tokens == 0


async def test_a_lock_is_waited_for_and_then_named(sqlite_shop, sqlite_shop_url):
    config = DatabaseConfig("d", sqlite_shop_url, busy_seconds=0.1)
    writer = sqlite3.connect(sqlite_shop, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    async with Databases([config]) as databases:
        with pytest.raises(UpstreamFailed) as caught:
            await databases.query("d", "SELECT * FROM shop")
        assert caught.value.error_code == "DATABASE_LOCKED"
        with trio.move_on_after(0.05) as scope:
            await databases.query("d", "SELECT * FROM shop")
        assert scope.cancelled_caught
        writer.execute("ROLLBACK")
        assert (await databases.query("d", "SELECT * FROM shop")).row_count == 100
    writer.close()


@pytest.mark.parametrize("content", [None, b"not a database, but long enough to be read" * 100])
async def test_a_file_that_is_no_database_is_not_the_callers_fault(tmp_path, content):
    path = tmp_path / "broken.db"
    if content:
        path.write_bytes(content)
    async with Databases([DatabaseConfig("d", f"sqlite:///{path}")]) as databases:
        with pytest.raises(UpstreamFailed):
            await databases.query("d", "SELECT 1 FROM sqlite_master")
    assert path.exists() is (content is not None)  # nothing was made


async def test_a_cancelled_statement_is_no_event_for_the_log(databases, caplog):
    caplog.set_level(logging.WARNING)
    with trio.move_on_after(0.05):
        await databases.query("shop", ENDLESS)
    assert caplog.records == []


def test_configurations_that_cannot_work_fail_at_once():
    with pytest.raises(ValueError, match=re.escape("'a' is configured twice")):
        Databases([DatabaseConfig("a", "sqlite:////x"), DatabaseConfig("a", "sqlite:////y")])
    for url in ("sqlite://", "sqlite:///:memory:", "mysql://host/x", "/x.db"):
        with pytest.raises(ValueError, match="database 'a'"):
            Databases([DatabaseConfig("a", url)])


def test_a_password_is_never_shown():
    config = DatabaseConfig("a", "postgresql://me:secret@host/db")
    assert "secret" not in repr(config)


def test_no_driver_is_imported_before_the_first_query():
    code = "import sys, trio_tools.database; assert 'psycopg' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "sql",
    [
        f"SELECT {', '.join(['zeroblob(1000000)'] * 600)}",
        f"SELECT {', '.join(['hex(zeroblob(400000))'] * 600)}",
        "WITH c0(x) AS (SELECT 1)"
        + "".join(
            f", c{n}(x) AS (SELECT (SELECT x FROM c{n - 1}) + (SELECT x FROM c{n - 1}))"
            for n in range(1, 20)
        )
        + " SELECT x FROM c19",
    ],
    ids=["wide row", "wide row of texts", "doubled expressions"],
)
def test_a_statement_that_needs_too_much_memory_is_refused(ask, sql):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InvalidArgument) as caught:
        ask(sql)
    assert caught.value.error_code == "TOO_LARGE"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ('SELECT "nmae" FROM shop', "no such column: nmae"),
        ("SELECT count(*) FROM shop WHERE \"nmae\" = 'Ada'", "no such column: nmae"),
        ('SELECT name FROM shop WHERE name = "it""s"', 'no such column: it"s'),
        ('SELECT "a`b"', "no such column: a`b"),
    ],
)
def test_a_misspelt_column_is_an_error(ask, sql, told):
    with pytest.raises(InvalidArgument) as caught:
        ask(sql)
    assert caught.value.error_code == "BAD_SQL"
    assert told in caught.value.message
    assert "single quotes" in caught.value.message


def test_a_double_quote_elsewhere_is_left_alone(ask):
    sql = """SELECT 'a "b" c', /* " */ `name`, [name], "name" -- "\nFROM "shop" LIMIT 1"""
    assert ask(sql).rows == [('a "b" c', "shop 1", "shop 1", "shop 1")]


def test_a_text_that_is_not_utf_8_comes_with_replacements_and_a_warning(ask):
    answer = ask("SELECT CAST(x'636166e9' AS TEXT), 'é'")
    assert answer.rows == [("caf\ufffd", "é")]
    assert answer.warnings[0].startswith("1 texts in the database are not UTF-8")


async def test_a_file_that_was_replaced_or_deleted_is_seen_at_once(tmp_path):
    def make(name, value):
        with closing(sqlite3.connect(tmp_path / name)) as connection, connection:
            connection.execute("CREATE TABLE t (v)")
            connection.execute("INSERT INTO t VALUES (?)", (value,))
        connection.close()

    make("shop.db", "old")
    async with Databases([DatabaseConfig("d", f"sqlite:///{tmp_path}/shop.db")]) as databases:
        assert (await databases.query("d", "SELECT v FROM t")).rows == (("old",),)
        make("new.db", "new")
        (tmp_path / "new.db").replace(tmp_path / "shop.db")
        assert (await databases.query("d", "SELECT v FROM t")).rows == (("new",),)
        (tmp_path / "shop.db").unlink()
        with pytest.raises(UpstreamFailed) as caught:
            await databases.query("d", "SELECT v FROM t")
    assert caught.value.error_code == "DATABASE_UNUSABLE"
    assert str(tmp_path) not in caught.value.message


async def test_the_outline_of_a_database_tells_tables_columns_and_keys(tmp_path):
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection, connection:
        connection.execute("CREATE TABLE shop (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")
        connection.execute("CREATE TABLE item (shop INTEGER REFERENCES shop (id))")
        connection.execute("CREATE VIEW names AS SELECT name FROM shop")
    connection.close()
    async with Databases([DatabaseConfig("d", f"sqlite:///{tmp_path}/a.db")]) as databases:
        item, names, shop = await databases.outline("d")
        bounds = {"max_rows": 2, "max_bytes": 10_000, "timeout_seconds": 30}
        first = await databases.catalogue("d", **bounds)
        second = await databases.catalogue("d", **bounds, position=first.next_position)
    assert first.columns == ("table", "columns", "comment")
    assert (*first.rows, *second.rows) == (
        ("item", "shop INTEGER REFERENCES shop.id", None),
        ("names", "name TEXT", "view"),
        ("shop", "id INTEGER PRIMARY KEY, name TEXT NOT NULL", None),
    )
    assert (first.truncated, second.truncated, second.next_position) == (True, False, None)
    assert item["columns"] == [{"name": "shop", "type": "INTEGER", "references": "shop.id"}]
    assert (names["table"], names["kind"]) == ("names", "view")
    assert shop["columns"] == [
        {"name": "id", "type": "INTEGER", "key": True},
        {"name": "name", "type": "TEXT", "required": True},
    ]


async def test_the_loop_goes_on_while_statements_run(databases):
    longest = 0.0
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(partial(databases.query, "shop", ENDLESS, timeout_seconds=60))
        for _ in range(50):
            before = time.perf_counter()
            await trio.sleep(0.002)
            longest = max(longest, time.perf_counter() - before)
        nursery.cancel_scope.cancel()
    assert longest < 1  # five threads at work, none of which holds the interpreter
