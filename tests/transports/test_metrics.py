import logging
import threading

import trio
from prometheus_client.parser import text_string_to_metric_families

from tests.support.servers_in_memory import nap_many, server_of
from tests.support.upstreams import server_over, small
from trio_tools.settings.logs import BackgroundHandler
from trio_tools.transports.http.metrics import Metrics


def samples(metrics, name):
    """Give the values of one metric by those of its labels, in the order of the labels' names."""
    text = metrics.text()[0].decode()
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def metrics_of(server):
    return Metrics(server.state, connections=lambda: 0)


async def test_each_item_is_counted_once_however_often_its_operation_is_called(autojump_clock):
    server = server_of(nap_many)
    asked = {"items": [1, -1, 2, 9], "item_timeout_seconds": 3, "operation_id": "mine"}
    for seconds in (1.5, 10, 10):  # the second call does what is missing, the third finds all done
        await server.call_tool("nap_many", {**asked, "timeout_seconds": seconds})
    counted = samples(metrics_of(server), "trio_tools_items_total")
    assert counted == {
        ("succeeded", "nap_many"): 2,
        ("failed", "nap_many"): 1,
        ("timed_out", "nap_many"): 1,
    }


async def test_what_a_cancelled_call_had_finished_is_counted(autojump_clock):
    server = server_of(nap_many)
    with trio.move_on_after(2):
        await server.call_tool("nap_many", {"items": [1, 1, 600]})
    counted = samples(metrics_of(server), "trio_tools_items_total")
    assert counted["succeeded", "nap_many"] == 2


async def test_the_tasks_of_the_run_are_told(autojump_clock):
    metrics = metrics_of(server_of())
    (before,) = samples(metrics, "trio_tools_tasks").values()
    async with trio.open_nursery() as nursery:
        for _ in range(7):
            nursery.start_soon(trio.sleep_forever)
        assert samples(metrics, "trio_tools_tasks") == {(): before + 7}
        nursery.cancel_scope.cancel()
    assert samples(metrics, "trio_tools_tasks") == {(): before}


async def test_log_records_that_nobody_read_are_counted(monkeypatch):
    read = threading.Event()
    handler = BackgroundHandler(lambda _: read.wait(30) and None, capacity=2)
    handler.setFormatter(logging.Formatter())
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    metrics = metrics_of(server_of())
    for number in range(10):
        handler.emit(logging.makeLogRecord({"msg": f"record {number}"}))
    (dropped,) = samples(metrics, "trio_tools_dropped_log_records_total").values()
    assert dropped in {7, 8}  # two wait, and one may be in the hands of the thread
    read.set()
    handler.close()


async def test_each_upstream_is_told():
    async with server_over(small=small()) as run:
        await run("small.echo", {"text": "x"}, {"text": "y"})
        metrics = metrics_of(run.server)
        assert samples(metrics, "trio_tools_upstream_up") == {("small",): 1}
        assert samples(metrics, "trio_tools_upstream_calls_total") == {("small",): 2}
        assert samples(metrics, "trio_tools_upstream_restarts_total") == {("small",): 0}
