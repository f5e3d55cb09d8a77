"""What the page at `/` costs while 10,000 items run: CPU of the server, frames of the browser.

The server is a process of its own. Its CPU is read with no page open, with one and with ten event
streams that are read, over the same time each. Chromium then shows the page, and tells the time
between its frames.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import statistics
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import trio

from tests.benchmarks._runner import Verdict
from trio_tools import Operation, Settings, create_server, serve_http

ITEMS = 10_000
MOST_OF_A_CORE = 0.02
FRAMES_PER_SECOND = 60
# Of a frame at 60 a second: timers of a browser are this exact.
_TOLERANCE = 0.97
_FRAMES = """seconds => new Promise(done => {
  const times = [], end = performance.now() + 1000 * seconds;
  const frame = now => {
    times.push(now);
    now < end ? requestAnimationFrame(frame) : done(times);
  };
  requestAnimationFrame(frame);
})"""


async def hang(item: int) -> int:
    """Work for as long as the benchmark takes."""
    await trio.sleep_forever()
    return item


async def serve() -> None:
    """Serve with all items running, and print the port."""
    most = {"concurrency": ITEMS, "max_concurrency": ITEMS}
    settings = Settings(
        state={"url": "memory"},
        http={"port": 0},
        max_items=ITEMS,
        limits={"hang": most},
        # An item in flight is taken to need 1 MiB until one has ended.
        max_memory_bytes=2**40,
        max_kept_bytes=2**40,
    )
    server = create_server(settings, operations=[Operation(name="hang", fn=hang)])
    async with trio.open_nursery() as nursery:
        address = await nursery.start(partial(serve_http, server=server))
        asked = {"operation": "hang", "items": list(range(ITEMS)), "background": True}
        answer = await server.call_tool("batch_process", asked)
        assert not answer.is_error, answer
        while server.state.limits.snapshot()["hang"].in_use < ITEMS:  # noqa: ASYNC110
            await trio.sleep(0.05)
        print(address.port, flush=True)


def run(arguments: list[str]) -> int:
    """Measure, and return 1 if a bound is missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    seconds = parser.parse_args(arguments).seconds
    with _serving() as (pid, port):
        verdicts = _costs(pid, port, seconds)
        frames = _frames(port, seconds)
    print(f"one page with {ITEMS:,} items running, over {seconds:g} s")
    verdicts += frames
    for verdict in verdicts:
        print(verdict)
    return int(not all(verdict.reached for verdict in verdicts))


def _costs(pid: int, port: int, seconds: float) -> list[Verdict]:
    shares = {}
    for streams in (0, 1, 10):
        with ExitStack() as context:
            for _ in range(streams):
                context.enter_context(_reading(port))
            time.sleep(2)
            before = _cpu_seconds(pid)
            time.sleep(seconds)
            shares[streams] = (_cpu_seconds(pid) - before) / seconds
    print(*(f"{n} streams: {share:.2%} of a core" for n, share in shares.items()), sep="; ")
    cost = 100 * (shares[1] - shares[0])
    return [Verdict("the server's CPU for one page", cost, 100 * MOST_OF_A_CORE, "%")]


def _frames(port: int, seconds: float) -> list[Verdict]:
    chromium = shutil.which("chromium")
    if chromium is None or find_spec("playwright") is None:
        print("no frames: chromium or playwright is not installed")
        return []
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - it may not be there

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("section.card")
        times = page.evaluate(_FRAMES, seconds)
        browser.close()
    gaps = [later - earlier for earlier, later in pairwise(times)]
    rate = 1000 / statistics.mean(gaps)
    ordered = sorted(gaps)
    print(
        f"frames: {rate:.1f} a second, between two of them median {statistics.median(gaps):.1f} ms,"
        f" p99 {ordered[int(len(ordered) * 0.99)]:.1f} ms, worst {ordered[-1]:.1f} ms"
    )
    # As the others: smaller is better.
    most = 1000 / FRAMES_PER_SECOND / _TOLERANCE
    return [Verdict("milliseconds a frame", 1000 / rate, most, "ms")]


@contextmanager
def _serving():
    command = [sys.executable, "-m", "tests.benchmarks.page"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.pid, int(server.stdout.readline())
        finally:
            server.terminate()


@contextmanager
def _reading(port: int):
    """Read an event stream in a thread, as a page does."""
    link = http.client.HTTPConnection("127.0.0.1", port)
    link.request("GET", "/dashboard/events")
    reply = link.getresponse()
    first = json.loads(reply.readline().removeprefix(b"data: "))
    assert first["operations"][0]["counts"]["in_flight"] == ITEMS, first["operations"]
    over = threading.Event()

    def read() -> None:
        while not over.is_set() and reply.readline():
            pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield
    finally:
        over.set()
        reader.join()
        link.close()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100  # ticks


if __name__ == "__main__":
    trio.run(serve)
