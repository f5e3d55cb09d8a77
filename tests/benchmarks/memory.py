"""Resident memory of a real server process: what it takes at most, and what is left a minute later.

    python -m tests.benchmarks memory [--quick] [--json]

* `results`: 120 pages of 5 MB with a bound of 20 MB. All are kept, on the disk, and read back.
* `caps`: 20 calls at once of each tool with inputs at their caps, beside the sum of the table in
  `docs/serving.md` and 150 MB.
* `idle`: many batches of 4 MB, then small ones; what is left a minute later.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import tempfile
from collections.abc import AsyncGenerator, Container, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import trio

from tests.benchmarks._runner import Verdict
from tests.processes.running import http_process
from tests.support.raw_http_servers import answering, reply, serving
from tests.transports.requests import Reader, connect, modern_call

MEGABYTE = 10**6
_SERVER = "tests.benchmarks.memory_server"
SLACK = 150
BOUND = 20
CALLS = 20
BUDGET = 256
# The rows of the table that calls can fill: the budget, bodies of requests three times, SQLite of
# a database of the operator's.
AT_MOST = BUDGET + 3 * 134 + 64 + SLACK


class Watched:
    """A server process, its resident memory in megabytes, and calls to it."""

    def __init__(self, pid: int, address: Any) -> None:
        self.pid = pid
        self.first = 0.0  # megabytes, before the calls
        self._address = address

    def resident(self, name: str = "VmRSS") -> float:
        """Return the memory of the process without its workers, which have bounds of their own."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024 / MEGABYTE
        raise AssertionError(name)

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool over a connection of its own; return the envelope."""
        async with await connect(self._address) as stream:
            with suppress(trio.BrokenResourceError):  # refused before the end of its body
                await stream.send_all(modern_call(1, tool, **arguments))
            answer = await Reader(stream).read()
        if answer.status != HTTPStatus.OK:  # such as 503: too many bodies at once
            return {"success": False, "error": f"{answer.status}: {answer.body[:80]!r}"}
        return answer.json()["result"]["structuredContent"]


@asynccontextmanager
async def watched(**settings: Any) -> AsyncGenerator[Watched]:
    async with http_process(module=_SERVER, **settings) as server:
        process = Watched(server.process.pid, server.address)
        await process.call("get_concurrency_status")
        process.first = process.resident()
        yield process
        server.kill()
        with trio.fail_after(30):
            await server.process.wait()


async def results(folder: Path, count: int) -> list[Verdict]:
    """Return how much a process grows whose results are many times its bound."""
    url = f"sqlite:///{folder}/results.db"
    async with watched(state__url=url, max_kept_bytes=BOUND * MEGABYTE) as server:
        before = server.resident()
        items = [[number, 5] for number in range(count)]
        done = await server.call(
            "batch_process", operation="page", items=items, operation_id="op", timeout_seconds=250
        )
        assert done["data"]["counts"]["succeeded"] == count, done["data"]["counts"]
        peak = server.resident("VmHWM") - before
        for index in (0, count // 2, count - 1):
            await _read_whole(server, index)
        after = server.resident("VmHWM") - before
    print(
        f"{count} pages of 5 MB, bound {BOUND} MB: peak +{peak:.0f} MB, read back +{after:.0f} MB"
    )
    return [
        Verdict(f"{count} pages of 5 MB, bound of {BOUND} MB", peak, BOUND + SLACK, "MB"),
        Verdict("the same with three read back by cursors", after, BOUND + SLACK, "MB"),
    ]


async def _read_whole(server: Watched, index: int) -> None:
    cursor, found = None, None
    while found is None:
        page = await server.call(
            "get_operation", operation_id="op", **({"cursor": cursor} if cursor else {})
        )
        cursor = page["meta"]["pagination"]["cursor"]
        found = next((o for o in page["data"]["outcomes"] if o["index"] == index), None)
    cursor, chars = found["value"]["cursor"], 0
    for _ in range(20):  # not all 250 parts of it
        part = await server.call("get_operation", operation_id="op", cursor=cursor)
        text = part["data"]["json_part"]
        assert f"{index:010}" in text
        chars += len(text)
        cursor = part["meta"]["pagination"]["cursor"]


async def caps(
    folder: Path, *, pages: int = 10, pause: float = 8, only: Container[str] | None = None
) -> list[Verdict]:
    """Return the peak of a process with 20 calls at once of each tool with inputs at their caps.

    Args:
        folder: For inputs and the state.
        pages: Pages and results of 5 MB in each call that may have many.
        pause: Seconds before each tool, in which memory that was freed goes back.
        only: Names of the rows to measure; None for all of them.
    """
    _write_inputs(folder)
    body = b"<html><body>" + b"<p>Some words in a row.</p>" * 185_000
    async with serving(answering(reply(body, "Content-Type: text/html"))) as site:
        api = {"base_url": site.url, "rate_per_second": 1_000, "burst": CALLS}
        api["allowed_methods"] = ["GET", "POST"]
        fetch = {"allow_private": True, "ports": None, "crawl": True, "crawl_robots": "ignore"}
        settings: dict[str, Any] = {
            "state__url": f"sqlite:///{folder}/caps.db",
            "file_roots": json.dumps([str(folder)]),
            "fetch": json.dumps(fetch),
            "apis": json.dumps({"site": api}),
            "databases": json.dumps({"shop": {"url": f"sqlite:///{folder}/shop.db"}}),
            "max_memory_bytes": BUDGET * MEGABYTE,
        }
        if (folder / "same.onnx").exists():
            settings["models_folder"] = folder
        async with watched(**settings) as server:
            results = [[number, 5] for number in range(pages)]
            await server.call(
                "batch_process", operation="page", items=results, operation_id="results"
            )
            return [
                await _at_once(server, name, row, pause)
                for name, row in _at_caps(site.url, pages).items()
                if (only is None or name in only)
                and (row[0] != "run_inference" or "models_folder" in settings)
            ]


async def _at_once(
    server: Watched, name: str, row: tuple[str, dict[str, Any]], pause: float
) -> Verdict:
    """Return the peak of the process while a tool is called 20 times at once."""
    await trio.sleep(pause)
    server.forget_peak()
    start = server.resident() - server.first
    failed: list[str] = []
    async with trio.open_nursery() as nursery:
        for _ in range(CALLS):
            nursery.start_soon(_call_once, server, failed, *row)
    peak = server.resident("VmHWM") - server.first
    told = f" ({len(failed)} refused: {failed[0]})" if failed else ""
    print(f"  {name:40} {start:+5.0f} MB, peak {peak:+5.0f} MB{told}", flush=True)
    return Verdict(f"{CALLS} x {name}", peak, AT_MOST, "MB")


async def _call_once(
    server: Watched, failed: list[str], tool: str, arguments: dict[str, Any]
) -> None:
    answer = await server.call(tool, **arguments)
    if not answer["success"]:
        failed.append(str(answer["error"])[:100])


def _write_inputs(folder: Path) -> None:
    (folder / "large").write_bytes(random.Random(1).randbytes(50 * MEGABYTE))
    lines = "".join(json.dumps({"n": n, "text": "x" * 3_900}) + "\n" for n in range(2_000))
    (folder / "lines.jsonl").write_text(lines)
    with closing(sqlite3.connect(folder / "shop.db")) as database, database:
        database.execute("CREATE TABLE things (n INTEGER, text TEXT)")
        rows = ((n, "x" * 400) for n in range(20_000))
        database.executemany("INSERT INTO things VALUES (?, ?)", rows)
    if find_spec("onnx"):
        _write_model(folder / "same.onnx")


def _write_model(path: Path) -> None:
    """Write a model that returns how many of its numbers are given."""
    from onnx import TensorProto, helper  # noqa: PLC0415 - where it is installed

    from tests.support.models import save_model  # noqa: PLC0415

    count = [helper.make_node("Size", ["x"], ["n"])]
    save_model(path, count, [("x", TensorProto.FLOAT, [None])], [("n", TensorProto.INT64, [])])


def _at_caps(url: str, pages: int) -> dict[str, tuple[str, dict[str, Any]]]:
    text = "some words " * 350_000  # a body of nearly 4 MB, the most of a request
    sql = "SELECT * FROM things"
    fetch: dict[str, Any] = {"max_bytes": 5_000_000, "body_as": "text"}
    hash_items = ["x" * 3_900] * 1_000
    return {
        f"fetch_urls, {pages} pages of 5 MB": (
            "fetch_urls",
            {"urls": [f"{url}/{os.urandom(4).hex()}/{n}" for n in range(pages)], **fetch},
        ),
        "fetch_urls as markdown": ("fetch_urls", {"urls": [url], **fetch, "body_as": "markdown"}),
        "batch_process, 4 MB of items": (
            "batch_process",
            {"operation": "hash", "items": hash_items},
        ),
        f"batch_process, {pages} results of 5 MB": (
            "batch_process",
            {"operation": "page", "items": [[n, 5] for n in range(pages)]},
        ),
        "process_large_dataset, 1,000 records": (
            "process_large_dataset",
            {
                "dataset": "lines.jsonl",
                "operation": "hash",
                "chunk_size": 1_000,
                "fields": {"text": "text"},
            },
        ),
        "compute_hash of a text": ("compute_hash", {"text": text}),
        "compute_hash of a file": ("compute_hash", {"path": "large"}),
        "compress_data of a text": ("compress_data", {"text": text}),
        "compress_data of a file of 50 MB": (
            "compress_data",
            {"path": "large", "algorithm": "zlib"},
        ),
        "query_database, 10,000 rows": (
            "query_database",
            {"database": "shop", "sql": sql, "max_rows": 10_000},
        ),
        "call_external_api, 4 MB and a reply of 5 MB": (
            "call_external_api",
            {"api": "site", "path": "/", "method": "POST", "body": text},
        ),
        "crawl_site, pages of 5 MB": ("crawl_site", {"url": f"{url}/", "max_chars": 100_000}),
        "run_inference, 200,000 numbers": (
            "run_inference",
            {"model": "same", "inputs": {"x": [0.5] * 200_000}, "timeout_seconds": 120},
        ),
        "get_operation": ("get_operation", {"operation_id": "results"}),
        "cancel_operation": ("cancel_operation", {"operation_id": "results"}),
        "get_concurrency_status": ("get_concurrency_status", {}),
    }


async def idle(folder: Path, seconds: float) -> list[Verdict]:
    """Return what a process has more, some time after batches of 4 MB than before them."""
    settings = {"state__url": f"sqlite:///{folder}/idle.db"}
    async with watched(**settings) as server:
        before = server.resident()
        big = {"operation": "hash", "items": ["x" * 3_900] * 1_000, "timeout_seconds": 20}
        for _ in range(4):
            async with trio.open_nursery() as nursery:
                for _ in range(28):
                    nursery.start_soon(partial(server.call, "batch_process", **big))
        peak = server.resident("VmHWM") - before
        for _ in range(210):
            await server.call("batch_process", operation="hash", items=["x"])
        await trio.sleep(seconds)
        left = server.resident() - before
    print(f"batches of 4 MB: peak +{peak:.0f} MB, {seconds:g} s later +{left:.0f} MB")
    return [Verdict(f"resident {seconds:g} s after batches of 4 MB", left, 100, "MB")]


async def _measure(*, quick: bool) -> list[Verdict]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [
            *await results(folder, 24 if quick else 120),
            *([] if quick else await caps(folder)),
            *await idle(folder, 12 if quick else 60),
        ]


def run(argv: Sequence[str] = ()) -> int:
    """Measure, print, and return 0 if every bound was kept, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks memory")
    parser.add_argument("--quick", action="store_true", help="24 pages, no caps, 12 s")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    verdicts = trio.run(lambda: _measure(quick=options.quick))
    if options.json:
        print(json.dumps([{**asdict(each), "reached": each.reached} for each in verdicts]))
    else:
        for verdict in verdicts:
            print(verdict)
    return 0 if all(verdict.reached for verdict in verdicts) else 1
