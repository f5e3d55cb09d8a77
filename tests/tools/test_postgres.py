"""PostgreSQL through the tools, from the client to the server and back."""

from contextlib import contextmanager

import pytest
import trio

from tests.support.followed_operations import calling, server_with, total, until
from tests.support.postgres import AT_WORK
from tests.support.servers_in_memory import connected, envelope_of, status_of, values_of

TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE application_name = 'trio-tools' AND wait_event = 'PgSleep'"
)


@pytest.fixture(scope="module")
def shop(postgres_folder):
    """Settings of a server with one PostgreSQL database, which has the table `items`."""
    with _owner(postgres_folder) as owner:
        owner.execute(
            "CREATE TABLE items AS "
            "SELECT n AS id, 'item ' || n AS name FROM generate_series(1, 10) n"
        )
    yield {
        "databases": {"shop": {"url": f"postgresql://postgres@/postgres?host={postgres_folder}"}}
    }
    with _owner(postgres_folder) as owner:
        owner.execute("DROP TABLE items")


@contextmanager
def _owner(postgres_folder):
    import psycopg  # noqa: PLC0415 - an extra

    with psycopg.connect(host=str(postgres_folder), user="postgres", autocommit=True) as owner:
        yield owner


async def test_rows_come_with_their_columns_and_where_the_time_went(shop, era):
    asked = {
        "sql": (
            "SELECT id, name, 1.50 AS price FROM items WHERE id = :id OR name = :name ORDER BY id"
        ),
        "parameters": {"id": 2, "name": "item 7"},
    }
    async with calling(server_with(**shop), era) as call:
        answer = await call("query_database", **asked)
    data = answer["data"]
    assert data["columns"] == ["id", "name", "price"]
    assert data["rows"] == [[2, "item 2", "1.50"], [7, "item 7", "1.50"]]
    assert (data["row_count"], data["truncated"]) == (2, False)
    assert set(data["timing"]) == {"wait_seconds", "execute_seconds", "fetch_seconds"}
    assert answer["meta"]["pagination"] is None


@pytest.mark.parametrize("size", [1, 3, 10])
async def test_pages_show_each_row_once(shop, era, size):
    asked = {"sql": "SELECT id FROM items ORDER BY id", "max_rows": size}
    rows, cursor = [], None
    async with calling(server_with(**shop), era) as call:
        while True:
            answer = await call("query_database", **asked, cursor=cursor)
            assert len(answer["data"]["rows"]) <= size
            rows += answer["data"]["rows"]
            if answer["meta"]["pagination"] is None:
                break
            cursor = answer["meta"]["pagination"]["cursor"]
    assert rows == [[number] for number in range(1, 11)]


@pytest.mark.parametrize(
    ("sql", "parameters", "kind", "code", "told"),
    [
        ("DELETE FROM items", None, "forbidden", "READ_ONLY", "can only be read"),
        (
            "WITH gone AS (DELETE FROM items RETURNING *) SELECT * FROM gone",
            None,
            "forbidden",
            "READ_ONLY",
            "can only be read",
        ),
        ("SELECT 1; DELETE FROM items", None, "validation", "SEVERAL_STATEMENTS", "one by one"),
        ("SELECT * FROM nowhere", None, "validation", "BAD_SQL", '"nowhere" does not exist'),
        ("SELECT 1 / 0", None, "validation", "BAD_SQL", "division by zero"),
        ("SELECT :n", {}, "validation", "BAD_PARAMETERS", ":n"),
        ("SELECT 1", {"n": 1}, "validation", "BAD_PARAMETERS", ":n"),
        ("SELECT repeat('x', 300000)", None, "validation", "TOO_LARGE", "40,000 bytes"),
        ("SELECT pg_sleep(60)", None, "timeout", "TIMEOUT", "timeout_seconds (at most 300)"),
        (
            "SELECT count(*) FROM generate_series(1, 100000000000) n",
            None,
            "timeout",
            "TIMEOUT",
            "timeout_seconds (at most 300)",
        ),
    ],
)
async def test_a_bad_statement_is_an_error_and_nothing_runs_on(
    shop, postgres_folder, era, sql, parameters, kind, code, told
):
    asked = {"sql": sql, "parameters": parameters, "timeout_seconds": 0.5}
    async with connected(server_with(**shop), era) as client:
        answer = await envelope_of(client, "query_database", asked)
        assert (answer["data"]["error_type"], answer["data"]["error_code"]) == (kind, code)
        assert told in answer["error"]
        with _owner(postgres_folder) as owner:
            assert owner.execute(AT_WORK).fetchall() == []
        again = await envelope_of(client, "query_database", {"sql": "SELECT count(*) FROM items"})
        assert again["data"]["rows"] == [[10]]
        status = await status_of(client)
    assert status["limits"]["query_database"]["in_use"] == 0


async def test_the_server_itself_ends_a_statement_whose_time_is_up(shop, era):
    # The net below the cancel, for a trio-tools that is not there any more to send one.
    async with calling(server_with(**shop), era) as call:
        asked = {"sql": "SHOW statement_timeout", "timeout_seconds": 9}
        answer = await call("query_database", **asked)
    assert answer["data"]["rows"] == [["9s"]]


async def test_a_database_that_dies_is_not_the_callers_fault(shop, postgres_folder, era):
    answers = []
    async with calling(server_with(**shop), era) as call:

        async def ask():
            answers.append(await call("query_database", sql="SELECT pg_sleep(60)"))

        with _owner(postgres_folder) as owner:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await until(lambda: owner.execute(TERMINATE).fetchall())
        assert answers[0]["data"]["error_type"] == "upstream"
        assert str(postgres_folder) not in str(answers[0])
        assert (await call("query_database", sql="SELECT 1"))["data"]["rows"] == [[1]]


async def test_queries_are_a_batch_in_which_each_fails_for_itself(shop, postgres_folder, era):
    sql = "SELECT name FROM items WHERE id = :n"
    items = [{"database": "shop", "sql": sql, "parameters": {"n": n}} for n in range(1, 8)]
    wrong = ["DELETE FROM items", "SELECT 1; SELECT 2", "SELECT * FROM nowhere"]
    items += [{"database": "shop", "sql": each} for each in (*wrong, "SELECT pg_sleep(60)")]
    async with calling(server_with(**shop), era) as call:
        asked = {"operation": "query", "items": items, "item_timeout_seconds": 1}
        answer = await call("batch_process", **asked)
        status = await call("get_concurrency_status")
    data = answer["data"]
    assert [result["rows"] for result in values_of(data)] == [[[f"item {n}"]] for n in range(1, 8)]
    codes = [error["error_code"] for error in data["errors"]]
    assert codes == ["READ_ONLY", "SEVERAL_STATEMENTS", "BAD_SQL", "ITEM_TIMEOUT"]
    assert total(data["counts"]) == len(items)
    assert status["data"]["limits"]["query_database"]["peak"] <= 5
    with _owner(postgres_folder) as owner:
        assert owner.execute(AT_WORK).fetchall() == []


async def test_a_deadline_ends_the_statements_of_a_batch_and_keeps_the_rest(shop, postgres_folder):
    items = [{"database": "shop", "sql": f"SELECT pg_sleep({seconds})"} for seconds in (0, 60, 60)]
    async with calling(server_with(**shop)) as call:
        await call("query_database", sql="SELECT 1")  # so that the driver is loaded
        answer = await call("batch_process", operation="query", items=items, timeout_seconds=0.5)
        with _owner(postgres_folder) as owner:
            assert owner.execute(AT_WORK).fetchall() == []
    counts = answer["data"]["counts"]
    assert (counts["succeeded"], counts["cancelled"]) == (1, 2)
