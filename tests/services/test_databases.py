"""What every kind of database promises: pages, bounds, parameters, threads."""

import threading

import pytest
import trio

from trio_tools.answers.errors import InvalidArgument, NotFound, TimedOut
from trio_tools.database import DatabaseConfig, Databases

pytestmark = pytest.mark.usefixtures("statements_in_threads")


@pytest.fixture(params=["sqlite_shop_url", "postgres_shop_url"])
def url(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
async def databases(url):
    async with Databases([DatabaseConfig("shop", url)]) as databases:
        yield databases


@pytest.mark.parametrize("size", [1, 7, 50, 99, 100, 101])
async def test_pages_cover_all_rows_once(databases, size):
    seen, position = [], 0
    while position is not None:
        page = await databases.query(
            "shop", "SELECT id FROM shop ORDER BY id", max_rows=size, position=position
        )
        seen += [number for (number,) in page.rows]
        assert page.truncated is (page.next_position is not None)
        position = page.next_position
    assert seen == list(range(1, 101))


async def test_a_position_past_the_end_has_no_rows(databases):
    page = await databases.query("shop", "SELECT id FROM shop", position=1000)
    assert (page.rows, page.next_position) == ((), None)


async def test_bytes_are_bounded_and_paging_goes_on_behind_them(databases):
    sql, padding = "SELECT id, name || :padding FROM shop ORDER BY id", {"padding": "x" * 330}
    first = await databases.query("shop", sql, padding, max_bytes=1000)
    assert (first.row_count, first.truncated, first.next_position) == (2, True, 2)
    second = await databases.query("shop", sql, padding, max_bytes=1000, position=2)
    assert [row[0] for row in second.rows] == [3, 4]


async def test_rows_of_just_as_many_bytes_as_are_allowed_fit(databases):
    sql, row = "SELECT id, name FROM shop ORDER BY id", '[1, "shop 1"]'
    shown = len(row) + 4  # in a table it has that many characters more
    page = await databases.query("shop", sql, max_bytes=(2 * shown * 4 + 2) // 3)
    assert (page.row_count, page.truncated) == (2, True)


async def test_a_row_that_alone_is_too_large_says_so(databases):
    with pytest.raises(InvalidArgument) as caught:
        await databases.query("shop", "SELECT :text", {"text": "x" * 1000}, max_bytes=1000)
    assert caught.value.error_code == "TOO_LARGE"
    assert "row 1 alone" in caught.value.message


async def test_parameters_must_match_by_name(databases):
    sql = "SELECT :a, ':b', '::c' -- :d"
    with pytest.raises(InvalidArgument) as caught:
        await databases.query("shop", sql, {"b": 1})
    assert caught.value.data == {"missing": ["a"], "unknown": ["b"]}
    assert (await databases.query("shop", sql, {"a": True})).rows == ((1, ":b", "::c"),)


async def test_of_many_parameters_that_do_not_match_the_first_are_named(databases):
    sql = f"SELECT {', '.join(f':a{number:02}' for number in range(15))}"
    with pytest.raises(InvalidArgument) as caught:
        await databases.query("shop", sql, {f"b{number:02}": 1 for number in range(12)})
    assert caught.value.message.startswith("parameters do not match sql: no value for :a00, ")
    assert caught.value.message.endswith("no :b09 in sql for the value given, and 7 more")
    assert caught.value.data["missing"] == [f"a{number:02}" for number in range(10)]


async def test_a_value_is_never_sql(databases):
    attack = "'; DROP TABLE shop; --"
    assert (await databases.query("shop", "SELECT :x", {"x": attack})).rows == ((attack,),)


@pytest.mark.parametrize(
    "bound",
    [
        {"max_rows": 0},
        {"max_bytes": 0},
        {"position": -1},
        {"timeout_seconds": 0},
        {"timeout_seconds": float("nan")},
    ],
    ids=repr,
)
async def test_bounds_must_make_sense(databases, bound):
    with pytest.raises(InvalidArgument, match=f"{next(iter(bound))} must be"):
        await databases.query("shop", "SELECT 1", **bound)


async def test_an_unknown_name_is_answered_with_the_known_ones(databases):
    with pytest.raises(NotFound) as caught:
        await databases.query("shops", "SELECT 1")
    assert caught.value.data == {"databases": ["shop"]}


async def test_waiting_for_a_thread_counts_as_time(databases):
    databases.limiter.total_tokens = 1
    await databases.limiter.acquire_on_behalf_of("another query")
    with pytest.raises(TimedOut):
        await databases.query("shop", "SELECT 1", timeout_seconds=0.05)


async def test_many_queries_at_once_stay_within_the_limiter(databases):
    results = []

    async def ask(number):
        results.append((await databases.query("shop", "SELECT :n", {"n": number})).rows[0][0])

    before = threading.active_count()
    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(ask, number)
    assert sorted(results) == list(range(200))
    assert threading.active_count() - before <= databases.limiter.total_tokens
