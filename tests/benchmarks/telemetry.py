"""CPU of a call and of an item with telemetry off and on, in one process.

To compare with another commit, run the part that is off there: `--off` prints one line.
"""

from __future__ import annotations

import argparse
import statistics
import time

import trio

from trio_tools import Operation, Settings, create_server
from trio_tools.transports.memory import connect_in_process

ROUNDS = 5
CALLS = 300
ITEMS = 1_000


async def same(item: int) -> int:
    """Return the item."""
    return item


async def _measure(**more) -> tuple[float, float]:
    """Return the microseconds of CPU of a call, and of an item of a batch."""
    settings = Settings(state={"url": "memory"}, max_items=ITEMS, **more.pop("settings", {}))
    server = create_server(settings, operations=[Operation(name="same", fn=same)], **more)
    calls, items = [], []
    asked = {"operation": "same", "items": list(range(ITEMS)), "detail": "summary"}
    async with connect_in_process(server) as client:
        for _ in range(ROUNDS + 1):
            started = time.process_time()
            for _ in range(CALLS):
                await client.call_tool("cancel_operation", {"operation_id": "none"})
            between = time.process_time()
            for _ in range(5):
                await client.call_tool("batch_process", asked)
            calls.append((between - started) / CALLS)
            items.append((time.process_time() - between) / ITEMS / 5)
    return 1e6 * statistics.median(calls[1:]), 1e6 * statistics.median(items[1:])


def run(arguments: list[str]) -> int:
    """Print the figures; there is no bound but that off costs nothing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--off", action="store_true", help="with telemetry off alone")
    only_off = parser.parse_args(arguments).off
    _print("off", trio.run(_measure))
    if not only_off:
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - the extra
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import (  # noqa: PLC0415
            InMemorySpanExporter,
        )

        for sample in (0, 0.1, 1):
            provider = TracerProvider(shutdown_on_exit=False)
            exporter = InMemorySpanExporter()
            provider.add_span_processor(BatchSpanProcessor(exporter))
            settings = {"telemetry": {"item_sample": sample}}

            async def measure(provider=provider, settings=settings):
                return await _measure(tracer_provider=provider, settings=settings)

            _print(f"on, {sample:.0%} of the items", trio.run(measure))
            provider.shutdown()
    return 0


def _print(what: str, figures: tuple[float, float]) -> None:
    call, item = figures
    print(f"  {what:24} {call:8.1f} us of CPU a call {item:8.2f} an item")
