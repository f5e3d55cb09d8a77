"""`clients.<name>`: whose turn it is, and what a client may do in a day."""

import pytest
import trio
import trio.testing
from prometheus_client.parser import text_string_to_metric_families

from tests.support.servers_in_memory import call_as, limits, nap_many, server_of
from trio_tools.live.usage import MAX_CLIENTS, Usage
from trio_tools.settings import Settings
from trio_tools.settings.changes import changes_between
from trio_tools.transports.http.metrics import Metrics

HOUR, DAY = 3_600, 86_400


async def order_of(server, *callers):
    """Return in which order calls are answered that all wait while another one holds the place."""
    answered = []

    async def call(client_id):
        await call_as(server, client_id, "nap_many", {"items": [1]})
        answered.append(client_id)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call_as, server, "holder", "nap_many", {"items": [1]})
        await trio.testing.wait_all_tasks_blocked()
        for client_id in callers:
            nursery.start_soon(call, client_id)
            await trio.testing.wait_all_tasks_blocked()
    return answered


async def test_a_client_of_three_times_the_weight_has_three_of_four_turns(autojump_clock):
    server = server_of(nap_many, clients={"rich": {"weight": 3}}, **limits("nap_many", max_calls=1))
    order = await order_of(server, *["poor"] * 6, *["rich"] * 6)
    assert order[1:9].count("rich") == 6  # the first one stood at the front already
    assert order[0] == "poor"


async def test_a_lower_priority_is_served_first(autojump_clock):
    server = server_of(
        nap_many, clients={"urgent": {"priority": -1}}, **limits("nap_many", max_calls=1)
    )
    order = await order_of(server, "usual", "usual", "urgent")
    assert order == ["usual", "urgent", "usual"]


async def test_calls_of_a_day_run_out_and_come_back_at_midnight(autojump_clock):
    now = [DAY * 20_000 + 23 * HOUR]
    server = server_of(nap_many, clients={"me": {"calls_per_day": 2}})
    server.state.usage = Usage(lambda: now[0])

    async def call(client_id):
        return await call_as(server, client_id, "nap_many", {"items": [1, 1]})

    assert (await call("me"))["success"]
    assert (await call("me"))["success"]
    refused = await call("me")
    assert refused["data"]["error_code"] == "QUOTA_EXCEEDED"
    assert refused["data"]["error_type"] == "rate_limited"
    assert refused["data"]["retry_after_seconds"] == HOUR
    assert "2 calls of today" in refused["error"]
    assert (await call("you"))["success"]
    status = await call_as(server, "me", "get_concurrency_status")
    assert status["data"]["usage"] == {
        "calls_today": 2,
        "items_today": 4,
        "calls_per_day": 2,
        "items_per_day": None,
        "kept_in": "memory",
        "seconds_left_today": HOUR,
        "weight": 1.0,
        "priority": 0,
    }
    now[0] += HOUR
    assert (await call("me"))["success"]


async def test_items_of_a_day_run_out(autojump_clock):
    server = server_of(nap_many, clients={"me": {"items_per_day": 3}})
    for _ in range(2):
        done = await call_as(server, "me", "nap_many", {"items": [1, 1]})
        assert done["success"]
    refused = await call_as(server, "me", "nap_many", {"items": [1]})
    assert refused["data"]["error_code"] == "QUOTA_EXCEEDED"
    assert refused["data"]["used"] == 4


async def test_the_metrics_tell_the_use_of_named_clients_and_of_the_others(autojump_clock):
    server = server_of(nap_many, clients={"me": {}})
    for client_id in ("me", "x", "y"):
        await call_as(server, client_id, "nap_many", {"items": [1, 1]})
    text = Metrics(server.state, connections=lambda: 0).text()[0].decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for name, told in (("calls", {"me": 1, "other": 2}), ("items", {"me": 2, "other": 4})):
        samples = families[f"trio_tools_client_{name}_today"].samples
        assert {sample.labels["client"]: sample.value for sample in samples} == told
    assert "process_resident_memory_bytes" in families
    assert families["trio_tools_build_info"].samples[0].labels["version"]
    assert all(name.startswith(("trio_tools_", "process_")) for name in families)


def test_any_number_of_clients_takes_bounded_memory():
    usage = Usage(lambda: 0.0)
    for number in range(MAX_CLIENTS + 5):
        usage.of(str(number))
    assert len(usage.all()) == MAX_CLIENTS


def test_what_a_client_may_is_taken_by_a_reload():
    before, after = Settings(), Settings(clients={"me": {"weight": 2}})
    assert changes_between(before, after) == (("clients.me",), ())


@pytest.mark.parametrize(
    "wrong", [{"weight": 0}, {"weight": 1e9}, {"priority": 101}, {"calls_per_day": 0}, {"x": 1}]
)
def test_a_setting_out_of_its_bounds_is_refused(wrong):
    with pytest.raises(ValueError, match=r"clients\.me"):
        Settings(clients={"me": wrong})
