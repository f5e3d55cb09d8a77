"""DuckDB: a file or a folder, read and nothing else, and ended by a cancel."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from trio_tools.answers.errors import Forbidden, InvalidArgument, TimedOut, UpstreamFailed
from trio_tools.database import DatabaseConfig, Databases, duckdb_worker
from trio_tools.database.results import Query
from trio_tools.database.statement import Statement
from trio_tools.settings import Settings

duckdb = pytest.importorskip("duckdb")

ENDLESS = (
    "SELECT count(*) FROM range(1000000) a, range(1000000) b, range(9) c "
    "WHERE a.range * b.range = c.range - 10"
)


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """Return a folder of two tables, a broken file, a link and what is no table."""
    folder = tmp_path_factory.mktemp("lake")
    with duckdb.connect() as connection:
        connection.execute(
            "COPY (SELECT range AS id, 'order ' || range AS name FROM range(1000)) "
            f"TO '{folder}/orders.parquet'"
        )
    (folder / "people.csv").write_text("name;age\nAda;36\n", "utf-8")
    (folder / "broken.parquet").write_bytes(b"PAR1 is no footer PAR1")
    (folder / "secret.txt").write_text("secret", "utf-8")
    (folder / "out.csv").symlink_to("/etc/passwd")
    return folder


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("duck") / "shop.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE shop (id INTEGER NOT NULL, name VARCHAR)")
        connection.execute("INSERT INTO shop SELECT range, 'shop ' || range FROM range(100)")
        connection.execute("CREATE VIEW peek AS SELECT * FROM read_text('/etc/hostname')")
    return path


def ask(path, sql, parameters=None, *, max_bytes=1_000_000, position=0, seconds=30.0):
    """Run a statement as a worker process does, in this process."""
    given = parameters or {}
    query = Query(
        Statement.parse(sql, given), given, position, 100, max_bytes, seconds, time.monotonic()
    )
    return duckdb_worker.run(duckdb_worker.Place("duck", str(path)), query)


def test_a_file_gives_columns_rows_and_pages(file):
    answer = ask(file, "SELECT id, name FROM shop WHERE id > :least ORDER BY id;", {"least": 97})
    assert answer.columns == ("id", "name")
    assert answer.rows == [(98, "shop 98"), (99, "shop 99")]
    assert ask(file, "SELECT * FROM range(250)", position=200).rows[0] == (200,)
    assert ask(file, "SELECT * FROM range(250)").more


def test_each_file_of_a_folder_is_a_table(lake):
    assert ask(lake, "SELECT count(*), max(name) FROM orders").rows == [(1000, "order 999")]
    assert ask(lake, 'SELECT age FROM "people"').rows == [(36,)]
    joined = "SELECT p.name, o.name FROM people p JOIN orders o ON o.id = p.age"
    assert ask(lake, joined).rows == [("Ada", "order 36")]


def test_tables_are_listed_with_their_columns_and_broken_files_left_out(lake, file):
    listed = duckdb_worker.outline(duckdb_worker.Place("lake", str(lake)))
    assert [(table["table"], [c["name"] for c in table["columns"]]) for table in listed] == [
        ("orders", ["id", "name"]),
        ("people", ["name", "age"]),
    ]
    told = duckdb_worker.outline(duckdb_worker.Place("duck", str(file)))
    assert told[1] == {
        "table": "shop",
        "schema": "main",
        "kind": "table",
        "columns": [
            {"name": "id", "type": "INTEGER", "required": True},
            {"name": "name", "type": "VARCHAR"},
        ],
    }


def test_values_are_as_json_has_them():
    sql = (
        "SELECT 1.50::DECIMAL(9, 2), 'nan'::DOUBLE, DATE '2026-01-02', [1, 2], {'a': 1},"
        " '\\xAA'::BLOB, 1::HUGEINT << 100, NULL, TIMESTAMPTZ '2026-01-02 03:04:05+00', true"
    )
    [row] = ask("/tmp", sql).rows
    assert row[:6] == ("1.50", "nan", "2026-01-02", [1, 2], {"a": 1}, "qg==")
    assert row[6:8] == (1 << 100, None)
    assert row[8].startswith("2026-01-02 03:04:05")
    assert row[9] is True


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO shop VALUES (1, 'a')",
        "CREATE TABLE other (a INTEGER)",
        "DROP TABLE shop",
        "COPY shop TO '/tmp/shop.csv'",
        "EXPLAIN ANALYZE COPY shop TO '/tmp/shop.csv'",
        "EXPLAIN (ANALYZE) INSERT INTO shop VALUES (1, 'a')",
        "ATTACH '/tmp/other.duckdb'",
        "SET threads = 100",
        "PRAGMA database_list",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CALL pragma_version()",
        "EXPORT DATABASE '/tmp/all'",
        "CHECKPOINT",
    ],
)
def test_what_does_more_than_select_is_refused(file, sql):
    with pytest.raises(Forbidden, match="can only be read") as caught:
        ask(file, sql)
    assert caught.value.error_code == "READ_ONLY"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('{folder}/secret.txt')",
        "SELECT * FROM read_csv('{folder}/out.csv')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM read_blob('/proc/self/environ')",
        "SELECT * FROM '/etc/passwd.csv'",
        "SELECT * FROM read_csv('https://example.org/a.csv')",
    ],
)
def test_nothing_outside_of_the_folder_is_read(lake, sql):
    with pytest.raises((Forbidden, InvalidArgument)) as caught:
        ask(lake, sql.format(folder=lake))
    assert caught.value.error_code in {"OUTSIDE_DATABASE", "BAD_SQL"}


def test_a_view_of_the_file_reads_nothing_outside_either(file):
    with pytest.raises(Forbidden):
        ask(file, "SELECT * FROM peek")


def test_a_link_in_a_folder_is_no_table(lake):
    with pytest.raises(InvalidArgument):
        ask(lake, "SELECT * FROM out")


def test_variables_of_ours_are_no_tables(lake):
    with pytest.raises(InvalidArgument):
        ask(lake, "SELECT * FROM allowed")


def test_mistakes_are_told_in_the_words_of_the_database(file, lake):
    with pytest.raises(InvalidArgument, match="nme") as caught:
        ask(file, "SELECT nme FROM shop")
    assert caught.value.error_code == "BAD_SQL"
    with pytest.raises((InvalidArgument, UpstreamFailed), match="broken"):
        ask(lake, "SELECT * FROM broken")
    with pytest.raises(UpstreamFailed, match="is not there"):
        ask(file.parent / "none.duckdb", "SELECT 1")
    with pytest.raises(UpstreamFailed, match="cannot be read"):
        ask(lake / "people.csv", "SELECT 1")
    with pytest.raises(InvalidArgument, match="row 1 alone"):
        ask(file, "SELECT repeat('x', 5000)", max_bytes=1_000)


def test_a_statement_has_no_more_memory_than_its_bound(file):
    with pytest.raises(InvalidArgument) as caught:
        ask(file, "SELECT list(range) FROM range(1000000000)")
    assert caught.value.error_code == "TOO_LARGE"


def test_a_late_statement_is_interrupted_by_itself(file):
    with pytest.raises(TimedOut):
        ask(file, ENDLESS, seconds=0.3)


async def test_a_cancel_ends_the_statement_and_its_process(file):
    async with Databases([DatabaseConfig("duck", f"duckdb:///{file}")]) as databases:
        first = await databases.query("duck", "SELECT count(*) FROM shop", timeout_seconds=300)
        workers = worker_processes()
        with trio.move_on_after(0.5) as cancel:
            await databases.query("duck", ENDLESS)
        left = worker_processes()
    assert first.rows == ((100,),)
    assert cancel.cancelled_caught
    assert len(workers) == 1
    assert not workers & left


def worker_processes():
    """Return the worker processes of this trio run; what multiprocessing keeps is none."""
    tasks = Path("/proc/self/task").glob("*/children")  # each thread has its own
    children = {pid for task in tasks for pid in task.read_text("ascii").split()}
    return {pid for pid in children if b"spawn_main" in command_of(pid)}


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended
        return b""


def test_a_file_that_another_process_writes_is_locked(file):
    holder = f"import duckdb, sys; c = duckdb.connect({str(file)!r}); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        with pytest.raises(UpstreamFailed) as caught:
            ask(file, "SELECT 1")
        process.communicate(b"\n")
    assert caught.value.error_code == "DATABASE_LOCKED"


def test_a_folder_has_to_be_under_a_root(lake):
    databases = {"lake": {"url": f"duckdb:///{lake}"}}
    Settings(databases=databases, file_roots=(lake.parent,))
    with pytest.raises(ValueError, match="not under the file_roots"):
        Settings(databases=databases)
    with pytest.raises(ValueError, match="duckdb:///"):
        Settings(databases={"lake": {"url": "duckdb:///"}})


def test_no_temporary_file_is_left(file):
    ask(file, "SELECT * FROM range(100000) ORDER BY hash(range) LIMIT 1")
    assert list(file.parent.iterdir()) == [file]
