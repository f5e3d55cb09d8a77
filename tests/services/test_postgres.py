"""PostgreSQL: what it refuses to do, how a cancel reaches the server, and servers in trouble."""

import json
import os
import re
import signal
import threading
from functools import partial
from pathlib import Path

import pytest
import trio

from nursery_patterns import abandoned_threads
from trio_tools.answers.errors import Forbidden, InvalidArgument, TimedOut, UpstreamFailed
from trio_tools.database import DatabaseConfig, Databases
from trio_tools.database.statement import Statement

STATEMENTS_RUNNING = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'trio-tools' "
    "AND state <> 'idle' AND pid <> pg_backend_pid()"
)


@pytest.fixture
async def databases(postgres_shop_url):
    async with Databases([DatabaseConfig("shop", postgres_shop_url)]) as databases:
        yield databases


async def test_rows_come_as_json_has_them(databases):
    result = await databases.query(
        "shop",
        "SELECT :n::int, '%', 5 % 3, 'a:b', 1.50::numeric, ARRAY[1, 2], '{\"a\": null}'::jsonb, "
        "'\\x00ff'::bytea, DATE '2026-01-02', 'nan'::float8, $tag$ :no ; $tag$, E'\\':x', true",
        {"n": 7},
    )
    assert result.rows == (
        (7, "%", 2, "a:b", "1.50", [1, 2], {"a": None}, "AP8=", "2026-01-02", "NaN", " :no ; ",
         "':x", True),
    )  # fmt: skip


async def test_only_the_rows_asked_for_are_made(databases):
    sql = "SELECT repeat('x', 1000) FROM shop a, shop b, shop c, shop d, shop e"  # 10 TB
    result = await databases.query("shop", sql, max_rows=3)
    assert (result.row_count, result.truncated) == (3, True)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO shop VALUES (1000, 'x')",
        "UPDATE shop SET name = 'x'",
        "DELETE FROM shop",
        "TRUNCATE shop",
        "DROP TABLE shop",
        "CREATE TABLE t (x int)",
        "WITH gone AS (DELETE FROM shop RETURNING *) SELECT * FROM gone",
        "WITH one AS (SELECT 1) INSERT INTO shop SELECT 1000, 'x' FROM one",
        "SELECT * INTO copy FROM shop",
        "SELECT * FROM shop FOR UPDATE",
        "SELECT nextval('numbers')",
        "SELECT sneak()",
        "EXPLAIN ANALYZE DELETE FROM shop",
        "EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1",
        "EXPLAIN (COSTS OFF, ANALYZE) CREATE TEMP TABLE t AS SELECT 1",
        "EXPLAIN (COSTS OFF) ANALYZE CREATE TABLE t AS SELECT 1",
        "EXPLAIN/**/ANALYZE CREATE TABLE t AS SELECT 1",
        "COPY shop TO STDOUT",
        "COPY shop TO '/tmp/shop'",
        "COPY shop TO PROGRAM 'true'",
        "DO $$ BEGIN DELETE FROM shop; END $$",
        "CALL nothing()",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SET TRANSACTION READ WRITE",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "SET statement_timeout = 0",
        "PREPARE x AS SELECT 1",
        "LISTEN x",
        "NOTIFY x",
        "LOCK TABLE shop",
        "VACUUM",
    ],
)
async def test_whatever_does_more_than_read_is_forbidden(databases, sql):
    with pytest.raises(Forbidden) as caught:
        await databases.query("shop", sql)
    assert caught.value.error_code == "READ_ONLY"
    assert (await databases.query("shop", "SELECT count(*) FROM shop")).rows == ((100,),)


async def test_what_writes_is_refused_by_its_word_and_not_for_its_syntax(databases):
    with pytest.raises(Forbidden, match=r"only be read \(it has CREATE\)"):
        await databases.query("shop", "EXPLAIN ANALYZE CREATE TABLE copied AS SELECT 1")


@pytest.mark.parametrize("word", ["SHOW", "EXPLAIN"])
@pytest.mark.parametrize(
    "disguise",
    [
        "/* /* */ {word} */ {sql}",  # here comments nest
        "--\r{sql} /*\n{word}*/",  # and end at a carriage return
    ],
)
async def test_no_comment_hides_a_statement_that_writes(databases, postgres_folder, disguise, word):
    file = postgres_folder / "written"
    for sql in (f"COPY shop TO '{file}'", f"COPY shop TO PROGRAM 'touch {file}'", "DISCARD PLANS"):
        with pytest.raises(InvalidArgument, match="syntax error"):
            await databases.query("shop", disguise.format(word=word, sql=sql))
    assert not file.exists()


@pytest.mark.parametrize("sql", ["(SHOW tables)", "'text' SHOW tables", ":a SHOW tables"])
def test_what_stands_before_the_first_word_counts_as_the_beginning(sql):
    statement = Statement.parse(sql, {"a": 1} if ":a" in sql else {})
    assert statement.kind == "SHOW"
    assert not statement.begins_with({"SHOW"})


async def test_comments_in_front_are_no_hindrance(databases):
    for sql in (
        "-- a plan\nEXPLAIN SELECT 1",
        " /* a */ /* b */ show server_version",
        "/**/SELECT 1",
    ):
        assert (await databases.query("shop", sql)).row_count == 1


async def test_nothing_of_one_query_is_left_to_the_next(databases):
    databases.limiter.total_tokens = 1  # so that they share a connection
    for sql in (
        "SELECT set_config('statement_timeout', '1h', false)",
        "SELECT set_config('default_transaction_read_only', 'off', false)",
        "SELECT pg_advisory_lock(7)",
    ):
        await databases.query("shop", sql)
    held = await databases.query("shop", "SELECT * FROM pg_locks WHERE locktype = 'advisory'")
    assert held.rows == ()
    timeout = await databases.query("shop", "SHOW statement_timeout", timeout_seconds=9)
    assert timeout.rows == (("9s",),)
    with pytest.raises(Forbidden):
        await databases.query("shop", "SELECT sneak()")


async def test_a_transaction_cannot_be_made_to_write(databases):
    with pytest.raises((InvalidArgument, Forbidden)):
        await databases.query(
            "shop", "SELECT set_config('transaction_read_only', 'off', false), sneak()"
        )
    assert (await databases.query("shop", "SELECT count(*) FROM shop")).rows == ((100,),)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1; DELETE FROM shop",
        "SELECT 1 AS a$$; DELETE FROM shop; -- $$",
        "SELECT E'\\''; DELETE FROM shop; --'",
        "SELECT '\\'; DELETE FROM shop; --'",
        'SELECT 1 AS "a;"; DELETE FROM shop',
        "SELECT 1 /* /* */ ; DELETE FROM shop; -- */",
        "EXPLAIN SELECT 1; DELETE FROM shop",
        "SHOW statement_timeout; DELETE FROM shop",
    ],
)
async def test_a_second_statement_is_never_run(databases, sql):
    with pytest.raises(InvalidArgument):
        await databases.query("shop", sql)
    assert (await databases.query("shop", "SELECT count(*) FROM shop")).rows == ((100,),)


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELEC 1", 'syntax error at or near "SELEC"'),
        ("SELECT * FROM nowhere", 'relation "nowhere" does not exist'),
        ("SELECT 1 / 0", "division by zero"),
        ("SELECT 'open", "unterminated quoted string"),
        ("SELECT 'x'::int", "invalid input syntax for type integer"),
        ("SELECT $1", "requires 1"),
    ],
)
async def test_sql_that_is_wrong_is_answered_in_the_words_of_the_database(databases, sql, words):
    with pytest.raises(InvalidArgument) as caught:
        await databases.query("shop", sql)
    assert caught.value.error_code == "BAD_SQL"
    assert words in caught.value.message


@pytest.mark.parametrize("value", [{"a": 1}, "\ud800", "\0"], ids=repr)
async def test_a_value_that_postgres_lacks_is_refused(databases, value):
    with pytest.raises(InvalidArgument) as caught:
        await databases.query("shop", "SELECT :x", {"x": value})
    assert caught.value.error_code == "BAD_PARAMETERS"


LARGE = "1" + "".join(["0"] * 5_000)


async def test_the_table_of_values_in_the_docs_is_what_postgres_gives(databases):
    """Each row there is: type, SQL that makes a value, the value as JSON."""
    page = Path(__file__).parent.parent.parent / "docs" / "database.md"
    rows = re.findall(
        r"^\| [^|`]+ \| `(SELECT [^`]+)` \| `([^`]+)` \|$", page.read_text(), re.MULTILINE
    )
    assert len(rows) >= 25
    for sql, value in rows:
        found = await databases.query("shop", sql.replace("\\|", "|"))
        assert found.rows == ((json.loads(value),),), sql


@pytest.mark.parametrize(
    "text",
    [
        '{"amount": 12345678901234567.89}',
        '{"x": 1, "x": 2}',
        "[" * 500 + "]" * 500,
        LARGE,
        '"\\ud800"',
        "1e400",
    ],
    ids=["digits", "key twice", "deep", "long", "half a character", "infinite"],
)
async def test_json_that_a_parser_would_change_keeps_its_text(databases, text):
    found = await databases.query("shop", "SELECT CAST(:text AS json)", {"text": text})
    assert found.rows == ((text,),)


@pytest.mark.parametrize(
    "value",
    [
        "repeat('x', 30000000)",
        ", ".join(["repeat('x', 1000000)"] * 30),
        "array_fill(1e131071::numeric, ARRAY[200])",
    ],
    ids=["value", "row", "array"],
)
async def test_a_row_that_is_too_large_is_not_sent(databases, value, monkeypatch):
    sent = []
    monkeypatch.setattr("trio_tools.database.postgres.session._row", lambda *row: sent.append(row))
    with pytest.raises(InvalidArgument) as caught:
        await databases.query("shop", f"SELECT {value}", timeout_seconds=60)
    assert caught.value.error_code == "TOO_LARGE"
    assert not sent


async def test_no_bracket_in_a_statement_closes_ours(databases):
    for sql in ("SELECT 1) AS a, (SELECT 2", "SELECT 1) AS a OFFSET 0) AS b --", "SELECT 1)--"):
        with pytest.raises(InvalidArgument) as caught:
            await databases.query("shop", sql)
        assert caught.value.error_code == "BAD_SQL"


@pytest.mark.parametrize(
    ("sql", "parameters", "told"),
    [
        ("SELECT idd FROM shop", {}, "at character 8; hint: Perhaps you meant"),
        (
            "SELECT 1 FROM shop WHERE :v IS NULL OR name = :v",
            {"v": None},
            "parameter :v; at character 26. Write the type, as in CAST(:v AS text)",
        ),
        ("SELECT chr(0)", {}, "null character not permitted"),
    ],
)
async def test_an_error_tells_how_to_mend_the_statement(databases, sql, parameters, told):
    with pytest.raises(InvalidArgument) as caught:
        await databases.query("shop", sql, parameters)
    assert caught.value.error_code == "BAD_SQL"
    assert told in caught.value.message


async def test_a_bound_of_a_slice_is_no_parameter(databases):
    sql = "SELECT (array[1,2,3])[1:n], (array[1,2,3])[:n], (array[1,2,3])[:p] FROM (SELECT 2 n) q"
    assert (await databases.query("shop", sql, {"p": 1})).rows == (([1, 2], [1, 2], 1),)


async def test_a_lower_limit_of_the_role_stands(postgres_shop_url, postgres_folder):
    with owner_of(postgres_folder) as owner:
        owner.execute("CREATE ROLE hurried LOGIN")
        owner.execute("ALTER ROLE hurried SET statement_timeout = '200ms'")
    url = f"postgresql://hurried@/shop?host={postgres_folder}"
    async with Databases([DatabaseConfig("d", url)]) as databases:
        assert (await databases.query("d", "SHOW statement_timeout")).rows == (("200ms",),)
        with pytest.raises(TimedOut) as caught:
            await databases.query("d", "SELECT pg_sleep(60)")
        assert "statement timeout" in caught.value.message
        with pytest.raises(Forbidden) as caught:
            await databases.query("d", "SELECT * FROM shop")
    assert caught.value.error_code == "PERMISSION_DENIED"


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
async def test_texts_of_other_encodings_come_as_far_as_they_can_be_read(
    postgres_shop_url, postgres_folder, encoding
):
    name = encoding.lower()
    with owner_of(postgres_folder) as owner:
        owner.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    url = f"postgresql://postgres@/{name}?host={postgres_folder}"
    async with Databases([DatabaseConfig("d", url)]) as databases:
        found = await databases.query("d", "SELECT convert_from('\\xe9', 'LATIN1')")
        if encoding == "LATIN1":
            assert found.rows == (("é",),)
            with pytest.raises(InvalidArgument):  # it has no such character
                await databases.query("d", "SELECT :text", {"text": "漢"})
        else:
            assert found.rows == (("\ufffd",),)
            assert "not UTF-8" in found.warnings[0]


async def test_the_outline_tells_schemas_comments_and_keys(postgres_shop_url, postgres_folder):
    with owner_of(postgres_folder, "shop") as owner:
        owner.execute("CREATE SCHEMA stock")
        owner.execute(
            "CREATE TABLE stock.item (id int PRIMARY KEY, parent int REFERENCES stock.item)"
        )
        owner.execute("COMMENT ON TABLE stock.item IS 'What there is'")
        owner.execute("COMMENT ON COLUMN stock.item.id IS 'A number'")
    url = f"{postgres_shop_url}&schema=stock"
    async with Databases([DatabaseConfig("d", url)]) as databases:
        tables = await databases.outline("d")
        assert (await databases.query("d", "SELECT id FROM item")).columns == ("id",)
    (item,) = [table for table in tables if table["schema"] == "stock"]
    assert item == {
        "schema": "stock",
        "table": "item",
        "kind": "table",
        "comment": "What there is",
        "columns": [
            {"name": "id", "type": "integer", "required": True, "key": True, "comment": "A number"},
            {"name": "parent", "type": "integer", "references": "item.id"},
        ],
    }


async def test_behind_a_pooler_in_transaction_mode_every_statement_works(pooled_url):
    """Two connections to the server, which two servers of ours and forty statements share."""
    seen = []

    async def ask(databases, number):
        sql = "SELECT id, name FROM shop WHERE id = :id"
        seen.extend((await databases.query("d", sql, {"id": number})).rows)

    config = DatabaseConfig("d", pooled_url)
    async with Databases([config]) as one, Databases([config]) as two:
        async with trio.open_nursery() as nursery:
            for number in range(1, 41):
                nursery.start_soon(ask, (one, two)[number % 2], number)
        assert sorted(seen) == [(number, f"shop {number}") for number in range(1, 41)]
        for _ in range(3):
            with trio.move_on_after(0.2) as scope:
                await one.query("d", "SELECT pg_sleep(60)")
            assert scope.cancelled_caught
            assert (await two.query("d", "SELECT 1")).rows == ((1,),)
        await one.query("d", "SELECT pg_advisory_lock(7), set_config('search_path', 'a', false)")
        for databases in (one, two):
            left = "SELECT * FROM pg_locks WHERE locktype = 'advisory'"
            assert (await databases.query("d", left)).rows == ()
            assert (await databases.query("d", "SELECT count(*) FROM shop")).rows == ((100,),)
            assert (await databases.query("d", "TABLE pg_prepared_statements")).rows == ()


async def test_the_next_host_of_a_url_is_tried(postgres_folder, tmp_path):
    url = f"postgresql://postgres@/postgres?host={tmp_path},{postgres_folder}"
    async with Databases([DatabaseConfig("d", url)]) as databases:
        assert (await databases.query("d", "SELECT 1")).rows == ((1,),)


async def all_tokens(limiter):
    """Return when every token has been given back."""
    for number in range(int(limiter.total_tokens)):
        await limiter.acquire_on_behalf_of(number)
    for number in range(int(limiter.total_tokens)):
        limiter.release_on_behalf_of(number)


def owner_of(folder, database="postgres"):
    import psycopg  # noqa: PLC0415 - an extra

    return psycopg.connect(host=str(folder), user="postgres", dbname=database, autocommit=True)


SLOW = [
    "SELECT pg_sleep(60)",
    "SELECT count(*) FROM shop a, shop b, shop c, shop d, shop e",
    "EXPLAIN ANALYZE SELECT pg_sleep(60)",
]


@pytest.mark.parametrize("sql", SLOW)
async def test_a_cancel_reaches_the_server_and_the_connection_is_used_again(databases, sql):
    databases.limiter.total_tokens = 2
    await databases.query("shop", "SELECT 1")
    for _ in range(5):
        with trio.move_on_after(0.05) as scope:
            await databases.query("shop", sql)
        assert scope.cancelled_caught
        with trio.fail_after(20):  # the thread may be left behind where the machine is busy
            await all_tokens(databases.limiter)
        running = await databases.query("shop", STATEMENTS_RUNNING)
        assert running.rows == ((0,),)
    opened = await databases.query(
        "shop", "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'trio-tools'"
    )
    assert opened.rows == ((1,),)


async def test_a_cancel_at_any_moment_ends_the_query(databases):
    await databases.query("shop", "SELECT 1")
    for step in range(40):
        with trio.move_on_after(step * 0.0002):
            await databases.query("shop", "SELECT pg_sleep(60)")
    assert (await databases.query("shop", STATEMENTS_RUNNING)).rows == ((0,),)


async def test_a_late_statement_is_a_time_out_and_no_longer_runs(databases):
    with pytest.raises(TimedOut):
        await databases.query("shop", "SELECT pg_sleep(60)", timeout_seconds=0.2)
    assert (await databases.query("shop", STATEMENTS_RUNNING)).rows == ((0,),)


async def test_a_cancel_among_many_hits_only_its_own(databases):
    finished = []

    async def ask(number):
        with trio.move_on_after(0.05 if number % 2 else 60):
            await databases.query("shop", "SELECT pg_sleep(:s)", {"s": 60 if number % 2 else 0.2})
            finished.append(number)

    before = threading.active_count()
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(ask, number)
    assert sorted(finished) == [0, 2, 4]
    assert threading.active_count() - before <= 10


async def test_a_cancel_on_its_way_reaches_the_server_after_the_call_is_over(
    databases, monkeypatch
):
    import psycopg  # noqa: PLC0415 - an extra

    cancel, over = psycopg.Connection.cancel_safe, threading.Event()

    def cancel_late(connection, **options):
        over.wait(20)
        cancel(connection, **options)

    await databases.query("shop", "SELECT 1")
    monkeypatch.setattr(psycopg.Connection, "cancel_safe", cancel_late)
    with trio.move_on_after(0.05) as scope:
        await databases.query("shop", SLOW[1])
    assert scope.cancelled_caught
    assert abandoned_threads()
    over.set()
    with trio.fail_after(20):
        while (await databases.query("shop", STATEMENTS_RUNNING)).rows != ((0,),):
            pass


async def test_a_server_that_does_not_answer_is_hung_up_on(databases):
    databases.limiter.total_tokens = 1
    (pid,) = (await databases.query("shop", "SELECT pg_backend_pid()")).rows[0]
    os.kill(pid, signal.SIGSTOP)
    try:
        with trio.move_on_after(0.1) as scope:
            await databases.query("shop", "SELECT pg_sleep(60)")
        assert scope.cancelled_caught
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (await databases.query("shop", "SELECT 1")).rows == ((1,),)


@pytest.mark.parametrize("how", ["time-out", "cancel"])
async def test_a_server_that_accepts_and_stays_silent_holds_nobody_up(autojump_clock, how):
    pytest.importorskip("psycopg")

    async def stay_silent(_):
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, host="127.0.0.1")
        (listener,) = await nursery.start(serve, stay_silent, 0)
        port = listener.socket.getsockname()[1]
        config = DatabaseConfig("d", f"postgresql://me@127.0.0.1:{port}/d")
        async with Databases([config], limiter=trio.CapacityLimiter(1)) as databases:
            await databases._find("d")._load(databases.limiter)
            began = trio.current_time()
            if how == "cancel":
                with trio.move_on_after(0.5):
                    await databases.query("d", "SELECT 1")
            else:
                with pytest.raises(TimedOut):
                    await databases.query("d", "SELECT 1", timeout_seconds=0.5)
            assert trio.current_time() == began + 1.0
            # The thread that connects, and the last one that asked whether there is what to cancel.
            assert abandoned_threads() in {1, 2}
            assert databases.limiter.borrowed_tokens == 1
            nursery.cancel_scope.cancel()  # hangs up, so that the thread ends
            with trio.CancelScope(shield=True):
                async with databases.limiter:
                    pass


async def test_a_connection_that_died_is_replaced(databases):
    databases.limiter.total_tokens = 1
    (pid,) = (await databases.query("shop", "SELECT pg_backend_pid()")).rows[0]
    os.kill(pid, signal.SIGTERM)
    assert (await databases.query("shop", "SELECT pg_backend_pid()")).rows != ((pid,),)


async def test_a_server_that_dies_during_a_query_is_not_the_callers_fault(databases):
    databases.limiter.total_tokens = 2

    async def ask():
        with pytest.raises(UpstreamFailed):
            await databases.query("shop", "SELECT pg_sleep(60)")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        rows = ()
        while not rows:
            sql = STATEMENTS_RUNNING.replace("count(*)", "pid") + " AND wait_event = 'PgSleep'"
            rows = (await databases.query("shop", sql)).rows
        os.kill(rows[0][0], signal.SIGTERM)


async def test_a_server_that_is_not_there_is_not_the_callers_fault(tmp_path):
    pytest.importorskip("psycopg")
    config = DatabaseConfig("d", f"postgresql://me:secret@/x?host={tmp_path}")
    async with Databases([config]) as databases:
        with pytest.raises(UpstreamFailed) as caught:
            await databases.query("d", "SELECT 1")
    assert "secret" not in caught.value.message


async def test_without_the_extra_the_error_says_what_to_install(databases, monkeypatch):
    monkeypatch.setattr("trio_tools.database.postgres.connections.find_spec", lambda name: None)
    with pytest.raises(UpstreamFailed) as caught:
        await databases.query("shop", "SELECT 1")
    assert "pip install trio-tools[postgres]" in caught.value.remediation
