"""The worst single request of each tool: memory, the longest step of the event loop, the exit.

    python -m tests.benchmarks requests [--only WORD ...] [--json]

Each request gets a server of its own, which has answered a small call of each service. Printed are
what the server's process grows by at most, the memory of its largest worker, the longest step of
the event loop in CPU time, the longest silence of a ping in wall time (which other processes
lengthen), and the time from SIGTERM to the exit while the same request runs, without the time in
which the main thread had no CPU.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import os
import sqlite3
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import trio

from tests.benchmarks._runner import Verdict
from tests.benchmarks.requests_server import DOUBLE
from tests.processes.running import Server, descendants, http_process, lives
from tests.support.models import onnx, save_model
from tests.support.raw_http_servers import Server as Site
from tests.support.raw_http_servers import next_request, reply, serving
from tests.transports.requests import Reader, connect, get, modern_call

MEGABYTE = 10**6
MOST_MEGABYTES = 300
MOST_STEP_MS = 100
MOST_EXIT_SECONDS = 2.0
_SERVER = "tests.benchmarks.requests_server"
_BODY = 4 * 2**20 - 2_000  # the most of a request, without what is around the arguments

Arguments = dict[str, Any]

# Calls that load the modules of the services, which each process does once.
_FIRST: dict[str, Arguments] = {
    "fetch_urls": {"urls": ["http://127.0.0.1:9/"]},
    "query_database": {"sql": "SELECT 1"},
    "run_inference": {"model": "same", "inputs": {"x": [1.0]}},
    "batch_process": {"operation": "hash", "items": ["x"]},
}


@dataclass
class Figures:
    """What one request did."""

    name: str
    grown: float = 0.0
    worker: float = 0.0
    step_ms: float = 0.0
    silence_ms: float = 0.0
    exit_seconds: float = 0.0
    answer: str = ""

    def __str__(self) -> str:
        return (
            f"{self.name:44} {self.grown:+5.0f} MB, worker {self.worker:5.0f} MB, "
            f"step {self.step_ms:4.0f} ms, silence {self.silence_ms:5.0f} ms, "
            f"exit {self.exit_seconds:4.2f} s  {self.answer}"
        )


# What a site answers, by the first word of the path.
PAGES: dict[str, Callable[[], bytes]] = {
    "text": lambda: reply(b"some words " * 450_000, "Content-Type: text/plain"),
    "controls": lambda: reply(b"\x01" * 5_000_000, "Content-Type: text/plain"),
    "wide": lambda: reply("😀".encode() + b"a" * 4_999_990, "Content-Type: text/plain"),
    "bomb": lambda: reply(
        gzip.compress(bytes(300 * MEGABYTE), 6), "Content-Encoding: gzip", "Content-Type: text/html"
    ),
    "objects": lambda: reply(b"[" + b"{}," * 1_600_000 + b"{}]", "Content-Type: application/json"),
    "nested": lambda: reply(b"[" * 2_500_000, "Content-Type: application/json"),
    "links": lambda: reply(
        b"<html><body>" + b"".join(b"<a href=/links/%d>y</a>" % n for n in range(200_000)),
        "Content-Type: text/html",
    ),
    "tables": lambda: reply(
        b"<html><body><article>" + b"<table><tr><td>" * 300_000, "Content-Type: text/html"
    ),
    "paragraphs": lambda: reply(
        b"<html><body><article>" + b"<p>word " * 600_000, "Content-Type: text/html"
    ),
}


async def _answer(stream: trio.abc.Stream, site: Site) -> None:
    while request := await next_request(stream, site):
        word = request.split(b" ", 2)[1].split(b"/")[1].decode()
        if word not in _made:
            _made[word] = PAGES[word]() if word in PAGES else reply(b"", status="404 Not Found")
        await stream.send_all(_made[word])


_made: dict[str, bytes] = {}


def requests(url: str) -> dict[str, tuple[str, Arguments]]:
    """Return the worst requests that are known, by name: a tool and its arguments."""
    doubling = "".join(f", c{n} AS (SELECT * FROM c{n - 1} a, c{n - 1} b)" for n in range(1, 22))
    blobs = ", ".join("hex(randomblob(500000))" for _ in range(600))
    letters = "".join(chr(97 + n % 26) for n in range(_BODY))
    zeros = base64.b64encode(_zstd(bytes(300 * MEGABYTE))).decode()
    hash_items = ["x" * 3_900] * 1_000
    letters_100 = ["x" * 39_000] * 100
    return {
        **{
            f"fetch_urls, 10 pages, {page}, {body_as}": (
                "fetch_urls",
                {
                    "urls": [f"{url}/{page}/{n}" for n in range(10)],
                    "body_as": body_as,
                    "max_bytes": 500_000 if body_as == "json" else 5_000_000,
                },
            )
            for page, body_as in (
                ("text", "text"),
                ("controls", "text"),
                ("wide", "text"),
                ("bomb", "text"),
                ("objects", "json"),
                ("nested", "json"),
                ("links", "markdown"),
                ("tables", "markdown"),
                ("paragraphs", "markdown"),
            )
        },
        "fetch_urls, 1,000 URLs of 3,900 bytes": (
            "fetch_urls",
            {"urls": [f"{url}/none/" + "%41" * 1_280 + str(n) for n in range(1_000)]},
        ),
        "fetch_urls, 1,000 international names": (
            "fetch_urls",
            {"urls": [f"http://{'é' * 600}{n}/" for n in range(1_000)]},
        ),
        "fetch_urls, 1,000 bracketed hosts": (
            "fetch_urls",
            {"urls": [f"http://[{':' * 3_900}]/{n}" for n in range(1_000)]},
        ),
        "crawl_site, 200,000 links a page": ("crawl_site", {"url": f"{url}/links/0"}),
        **{
            f"call_external_api, {page}": ("call_external_api", {"api": "site", "path": f"/{page}"})
            for page in ("objects", "controls", "wide", "nested", "bomb")
        },
        "call_external_api, a body of 4 MB": (
            "call_external_api",
            {"api": "site", "path": "/none", "method": "POST", "body": {"x": letters}},
        ),
        "query_database, 600 values of 1 MB": ("query_database", {"sql": f"SELECT {blobs}"}),
        "query_database, 10,000 rows": (
            "query_database",
            {"sql": "SELECT * FROM things", "max_rows": 10_000},
        ),
        "query_database, doubling expressions": (
            "query_database",
            {"sql": f"WITH c0 AS (SELECT 1){doubling} SELECT * FROM c21"},
        ),
        "query_database, one value of 900 MB": (
            "query_database",
            {"sql": "SELECT length(hex(zeroblob(450000000)))"},
        ),
        "query_database, 49,000 comments": ("query_database", {"sql": "/*" * 49_000}),
        "query_database, 12,000 parameters": (
            "query_database",
            {"sql": "SELECT " + ",".join(f":p{n}" for n in range(12_000))},
        ),
        "query_database, no end": (
            "query_database",
            {
                "sql": "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) "
                "SELECT count(*) FROM c",
                "timeout_seconds": 3,
            },
        ),
        "compute_hash, 4 MB of text": ("compute_hash", {"text": letters}),
        "compute_hash, a file of 50 MB": ("compute_hash", {"path": "large"}),
        "compress_data, 4 MB of text, lzma": (
            "compress_data",
            {"text": letters, "algorithm": "lzma", "level": 9, "max_output_bytes": 1_000_000},
        ),
        "compress_data, a file of 50 MB, lzma": (
            "compress_data",
            {"path": "large", "algorithm": "lzma", "level": 9, "timeout_seconds": 20},
        ),
        "compress_data, a file of 50 MB, zstd": (
            "compress_data",
            {"path": "large", "algorithm": "zstd", "level": 9, "timeout_seconds": 20},
        ),
        "compress_data, zstd of 300 MB as base64": (
            "compress_data",
            {"content_base64": zeros, "algorithm": "zstd"},
        ),
        "run_inference, one long text, many short": (
            "run_inference",
            {"model": "same", "inputs": {"x": ["a" * 500_000] + ["b"] * 50_000}},
        ),
        "run_inference, 200,000 numbers": (
            "run_inference",
            {"model": "same", "inputs": {"x": [1.5] * 200_000}},
        ),
        "run_inference, an output of 4 GB": (
            "run_inference",
            {"model": "zeros", "inputs": {"x": [1_000_000_000]}},
        ),
        "batch_process, hashes of 4 MB": (
            "batch_process",
            {"operation": "hash", "items": hash_items},
        ),
        "batch_process, compressed, all output": (
            "batch_process",
            {
                "operation": "compress",
                "items": [{"text": "x" * 3_900, "max_output_bytes": 1_000_000}] * 1_000,
            },
        ),
        "batch_process, 1,000 queries": (
            "batch_process",
            {
                "operation": "query",
                "items": [{"database": "shop", "sql": "SELECT * FROM things"}] * 1_000,
                "timeout_seconds": 20,
            },
        ),
        "batch_process, fetches of 5 MB": (
            "batch_process",
            {
                "operation": "fetch",
                "items": [{"url": f"{url}/text/{n}", "max_chars": 1_000_000} for n in range(200)],
                "timeout_seconds": 20,
            },
        ),
        "batch_process, 50,000 objects": (
            "batch_process",
            {"operation": "hash", "items": [{"text": "x", "more": [{}] * 50} for _ in range(900)]},
        ),
        **{
            f"process_large_dataset, {name}": (
                "process_large_dataset",
                {"dataset": name, "operation": "hash", "chunk_size": 1_000, **more},
            )
            for name, more in (
                ("lines.jsonl", {"fields": {"text": "text"}}),
                ("objects.jsonl", {"fields": {"text": "text"}}),
                ("columns.csv", {"fields": {"text": "c0"}}),
                ("one-line.csv", {"fields": {"text": "c0"}}),
            )
        },
        "get_operation, of nothing": ("get_operation", {"operation_id": "x" * _BODY}),
        "get_concurrency_status": ("get_concurrency_status", {}),
        "parallel_fetch, 100 URLs": (
            "parallel_fetch",
            {"urls": [f"{url}/text/{n}" for n in range(100)]},
        ),
        "process_batch_streaming, 4 MB": ("process_batch_streaming", {"items": letters_100}),
        "process_with_timeout, 4 MB": (
            "process_with_timeout",
            {"items": letters_100, "timeout": 10},
        ),
        "query_with_timeout, no end": (
            "query_with_timeout",
            {
                "query": "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) "
                "SELECT count(*) FROM c",
                "timeout_seconds": 3,
            },
        ),
        "cancellable_operation, 4 MB": ("cancellable_operation", {"items": letters_100}),
        "main_operation, 4 MB": ("main_operation", {"data": {"x": letters}}),
    }


def _zstd(data: bytes) -> bytes:
    from backports import zstd  # noqa: PLC0415

    return zstd.compress(data)


def write_inputs(folder: Path) -> None:
    """Write the files, the database and the models that the requests name."""
    (folder / "large").write_bytes(b"".join(b"%09d" % (n * 7919 % 10**9) for n in range(5_500_000)))
    lines = "".join(json.dumps({"n": n, "text": "x" * 3_900}) + "\n" for n in range(2_000))
    (folder / "lines.jsonl").write_text(lines)
    heavy = json.dumps({"text": "x", "more": [{}] * 250_000}) + "\n"
    (folder / "objects.jsonl").write_text(heavy * 10)
    names = ",".join(f"c{n}" for n in range(50_000)) + "\n"
    (folder / "columns.csv").write_text(names + ("1," * 49_999 + "1\n") * 100)
    (folder / "one-line.csv").write_text('c0\n"' + "x" * 50_000_000)
    with closing(sqlite3.connect(folder / "shop.db")) as database, database:
        database.execute("CREATE TABLE things (n INTEGER, text TEXT)")
        rows = ((n, "x" * 400) for n in range(20_000))
        database.executemany("INSERT INTO things VALUES (?, ?)", rows)
    (folder / "models").mkdir()
    kind, node = onnx.TensorProto, onnx.helper.make_node
    save_model(
        folder / "models" / "same.onnx",
        [node("Identity", ["x"], ["y"])],
        [("x", kind.FLOAT, ["n"])],
        [("y", kind.FLOAT, ["n"])],
    )
    save_model(
        folder / "models" / "zeros.onnx",
        [node("ConstantOfShape", ["x"], ["y"])],
        [("x", kind.INT64, ["n"])],
        [("y", kind.FLOAT, ["m"])],
    )


def _kilobytes(pid: int, name: str) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0


def _forget(pid: int, step: Path) -> int:
    """Forget the peak and the longest step so far; return the kilobytes of now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    with step.open("r+b") as file:
        file.write(DOUBLE.pack(0.0))
    return _kilobytes(pid, "VmRSS")


@asynccontextmanager
async def _watched(figures: Figures, server: Server, step: Path) -> AsyncGenerator[None]:
    """Watch memory and pings for the block."""
    pid = server.process.pid
    before = _forget(pid, step)

    async def watch_workers() -> None:
        while True:
            for worker in descendants(pid):
                figures.worker = max(figures.worker, _kilobytes(worker, "VmHWM") * 1024 / MEGABYTE)
            await trio.sleep(0.02)

    async def ping() -> None:
        while True:
            async with await connect(server.address) as stream:
                reader = Reader(stream)
                for _ in range(500):  # it hangs up after a thousand
                    asked = time.perf_counter()
                    await stream.send_all(get("/healthz"))
                    await reader.read()
                    silence = (time.perf_counter() - asked) * 1_000
                    figures.silence_ms = max(figures.silence_ms, silence)
                    await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_workers)
        nursery.start_soon(ping)
        await trio.sleep(0.1)
        yield
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    figures.grown = (_kilobytes(pid, "VmHWM") - before) * 1024 / MEGABYTE
    with step.open("rb") as file:
        figures.step_ms = DOUBLE.unpack(file.read(DOUBLE.size))[0] * 1_000


async def _ask(server: Server, tool: str, arguments: Arguments) -> str:
    async with await connect(server.address) as stream:
        await stream.send_all(modern_call(1, tool, **arguments))
        answer = await Reader(stream).read()
    with suppress(ValueError, KeyError):
        envelope = answer.json()["result"]["structuredContent"]
        if envelope["success"]:
            return ""
        return f"{envelope['data']['error_code']} {str(envelope['error'])[:90]!r}"
    return f"HTTP {answer.status} {bytes(answer.body[:60])!r}"


def _seconds_without_cpu(pid: int) -> float:
    """Return how long the main thread has waited for a CPU."""
    with suppress(OSError, IndexError):  # it has ended
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    return 0.0


async def _exit_seconds(server: Server) -> float:
    """Stop the server and return how long that took, without the time in which it had no CPU."""
    pid = server.process.pid
    started, before = time.monotonic(), _seconds_without_cpu(pid)
    waited = before
    server.kill()
    with trio.fail_after(60):
        while lives(pid):
            waited = max(waited, _seconds_without_cpu(pid))
            await trio.sleep(0.005)
    return time.monotonic() - started - (waited - before)


async def measure(
    name: str, tool: str, arguments: Arguments, settings: dict[str, str], step: Path
) -> Figures:
    """Send one request to a new server, and once more for the exit."""
    figures = Figures(name)
    async with http_process(module=_SERVER, **settings) as server:
        for small, least in _FIRST.items():
            await _ask(server, small, least)
        with trio.move_on_after(90) as patience:
            async with _watched(figures, server, step):
                figures.answer = await _ask(server, tool, arguments)
        if patience.cancelled_caught:
            figures.answer = "no answer within 90 s"
        async with trio.open_nursery() as nursery:

            async def again() -> None:
                with suppress(OSError, trio.BrokenResourceError, AttributeError):  # it hangs up
                    await _ask(server, tool, arguments)

            nursery.start_soon(again)
            await trio.sleep(0.3)
            figures.exit_seconds = await _exit_seconds(server)
            nursery.cancel_scope.cancel()
    print(figures, flush=True)
    return figures


async def _measure(only: Sequence[str]) -> list[Figures]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder)
        step = folder / "longest-step"
        step.write_bytes(DOUBLE.pack(0.0))
        os.environ["LONGEST_STEP"] = str(step)
        async with serving(_answer) as site:
            settings = {
                "file_roots": json.dumps([name]),
                "fetch": json.dumps({"allow_private": True, "ports": None, "crawl": True}),
                "apis": json.dumps(
                    {"site": {"base_url": site.url, "allowed_methods": ["GET", "POST"]}}
                ),
                "databases": json.dumps({"shop": {"url": f"sqlite:///{folder}/shop.db"}}),
                "models_folder": str(folder / "models"),
                "toolset": "patterns",
            }
            return [
                await measure(each, tool, arguments, settings, step)
                for each, (tool, arguments) in requests(site.url).items()
                if any(word in each for word in only)
            ]


def verdicts_of(figures: Sequence[Figures]) -> list[Verdict]:
    """Return the figures beside their bounds."""
    return [
        verdict
        for each in figures
        for verdict in (
            Verdict(f"{each.name}: memory", each.grown, MOST_MEGABYTES, "MB"),
            Verdict(f"{each.name}: step", each.step_ms, MOST_STEP_MS, "ms"),
            Verdict(f"{each.name}: exit", each.exit_seconds, MOST_EXIT_SECONDS, "s"),
        )
    ]


def run(argv: Sequence[str] = ()) -> int:
    """Measure, print, and return 0 if every bound was kept, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks requests")
    words = "requests whose name has one of these in it"
    parser.add_argument("--only", nargs="+", default=[""], help=words)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    figures = trio.run(_measure, options.only)
    verdicts = verdicts_of(figures)
    if options.json:
        print(json.dumps([asdict(each) for each in figures]))
    for verdict in verdicts:
        if not verdict.reached:
            print(verdict)
    return 0 if all(verdict.reached for verdict in verdicts) else 1
