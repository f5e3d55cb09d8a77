"""Run one benchmark by name, or all: python -m tests.benchmarks [NAME [OPTIONS]]."""

import importlib
import os
import sys

# A process that is measured starts from compiled modules, as an installed program does.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

BENCHMARKS = {
    "map": "the batch engine beside its peers: CPU and memory per item, cancel, deadline",
    "durable": "a batch on the disk beside one in memory: CPU, steps, latency, start",
    "kills": "kill -9 at random moments of batches that are stored (--postgres)",
    "requests": "the worst single request of each tool: memory, longest step, exit",
    "memory": "resident memory of a process: large results, inputs at their caps, a minute later",
    "http": "the HTTP engine beside its peers: CPU per request",
    "end_to_end": "1,000 URLs through stdio beside the asyncio form of the guideline",
    "answers": "tokens of one small page beside mcp-server-fetch",
    "lists": "characters of our list of tools beside those of other servers",
    "datasets": "a file read through in chunks beside one pass of csv or json over it",
    "origins": "10,000 URLs over 500 origins: sockets and memory",
    "offload": "threads, processes and the small primitives",
    "cluster": "a call on a cluster beside a loop over Ray, and a cancel of what computes",
    "tools": "what the tools add to the engine, and the longest steps at the caps",
    "startup": "the server's start beside the import of the SDK and trio",
    "upstream": "a call of an upstream's tool through us beside the official client's",
    "workers": "calls per second of two worker processes beside one",
    "shared": "a rate that three replicas share through PostgreSQL (--url)",
    "telemetry": "a call and an item with OpenTelemetry off and on",
    "path": "frames, modules and classes in one call of fetch_urls",
    "page": "the page with 10,000 items running: CPU of the server, frames of Chromium",
    "calls": "a tool call beside a bare server's, and how fast a busy one answers",
}


def main(arguments: list[str]) -> int:
    if not arguments:
        return max(_run(name, []) for name in BENCHMARKS)
    name, *options = arguments
    if name not in BENCHMARKS:
        print("usage: python -m tests.benchmarks [NAME [OPTIONS]], with one of the names")
        for known, what in BENCHMARKS.items():
            print(f"  {known:10} {what}")
        return 0 if name in {"-h", "--help"} else 2
    return _run(name, options)


def _run(name: str, options: list[str]) -> int:
    # Imported late, since each needs peers of its own.
    return importlib.import_module(f"tests.benchmarks.{name}").run(options) or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
