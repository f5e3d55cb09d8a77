"""Calls per second of `trio-tools serve --workers N`, in both eras of the protocol.

A client in a process of its own holds many connections with one call on each, through plain
sockets, so that it takes little of the cores. The server's CPU per call and the calls of each
worker tell what the ratio of a busy machine hides.
"""

from __future__ import annotations

import argparse
import json
import re
import selectors
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.transports.lines import INITIALIZE, call
from tests.transports.requests import modern_call, post

TARGET = 1.7
TEXT = "x" * 100


@contextmanager
def serving(workers: int, *options: str) -> Iterator[tuple[int, list[int]]]:
    """Start a server; give its port and the ids of the processes that serve."""
    with tempfile.TemporaryDirectory() as folder, Path(folder, "log").open("w+") as log:
        command = [sys.executable, "-m", "trio_tools", "serve", "--transport", "http"]
        command += ["--port", "0", "--workers", str(workers), "--state", f"sqlite:///{folder}/a.db"]
        command += ["--set", "http.calls_per_second_per_client=1000000", *options]
        with subprocess.Popen(command, stderr=log) as server:
            try:
                port = _port_in(Path(folder, "log"))
                for _ in range(100):  # all of them take calls
                    if workers == 1 or _figures(port, "worker_up") == [1.0] * workers:
                        break
                    time.sleep(0.1)
                tasks = Path(f"/proc/{server.pid}/task").glob("*/children")
                children = [int(pid) for each in tasks for pid in each.read_text().split()]
                pids = children if workers > 1 else [server.pid]
                yield port, pids
            finally:
                server.terminate()


def _port_in(log: Path) -> int:
    for _ in range(600):
        found = re.search(r"serving MCP at \S+:(\d+)/", log.read_text())
        if found:
            return int(found[1])
        time.sleep(0.05)
    raise RuntimeError(log.read_text())


def _calls_of_workers(port: int) -> Counter[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
        text = reply.read().decode()
    calls = Counter[str]()
    for labels, value in re.findall(r"^trio_tools_calls_total\{(.*)\} (\S+)$", text, re.MULTILINE):
        found = re.search(r'worker="(\d+)"', labels)
        calls[found[1] if found else "0"] += int(float(value))
    return calls


def _figures(port: int, name: str) -> list[float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
        text = reply.read().decode()
    return [
        float(x) for x in re.findall(rf"^trio_tools_{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
    ]


def _cpu_seconds(pids: list[int]) -> float:
    fields = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) / 100


class Connection:
    """One connection with one call after the other."""

    def __init__(self, port: int, era: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.rest = b""
        arguments = {"text": TEXT, "algorithm": "sha256"}
        self.request = modern_call(1, "compute_hash", **arguments)
        if era == "older":
            self.socket.sendall(post(INITIALIZE))
            head = self.read()
            found = re.search(rb"mcp-session-id: (\S+)", head, re.IGNORECASE)
            assert found, head
            session = {"mcp-session-id": found[1].decode()}
            self.socket.sendall(
                post({"jsonrpc": "2.0", "method": "notifications/initialized"}, **session)
            )
            self.read()
            self.request = post(call(1, "compute_hash", **arguments), **session)

    def read(self) -> bytes:
        while True:
            whole = self.taken()
            if whole is not None:
                return whole
            data = self.socket.recv(65536)
            assert data, self.rest
            self.rest += data

    def taken(self) -> bytes | None:
        """Return an answer if it is there whole."""
        head, end, body = self.rest.partition(b"\r\n\r\n")
        if not end:
            return None
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        chunked = body.endswith(b"0\r\n\r\n")
        whole = chunked if length is None else len(body) >= int(length[1])
        if not whole:
            return None
        answer, self.rest = self.rest, b""
        return answer


def drive(port: int, era: str, connections: int, seconds: float) -> dict[str, float]:
    """Keep one call on each connection for so long; return how many were answered."""
    opened = [Connection(port, era) for _ in range(connections)]
    selector = selectors.DefaultSelector()
    for each in opened:
        selector.register(each.socket, selectors.EVENT_READ, each)
        each.socket.sendall(each.request)
    answered, started, cpu = 0, time.monotonic(), time.process_time()
    while (now := time.monotonic()) < started + seconds:
        for key, _ in selector.select(1):
            connection = key.data
            connection.rest += connection.socket.recv(65536)
            answer = connection.taken()
            if answer is not None:
                assert b" 200 " in answer[:20], answer
                answered += 1
                connection.socket.sendall(connection.request)
    return {"calls": answered, "seconds": now - started, "client_cpu": time.process_time() - cpu}


def measured(workers: int, era: str, connections: int, seconds: float) -> dict[str, float]:
    with serving(workers) as (port, pids):
        command = [sys.executable, "-m", "tests.benchmarks.workers", "--drive", str(port)]
        command += ["--era", era, "--connections", str(connections), "--seconds"]
        subprocess.run([*command, "0.5"], check=True, capture_output=True)
        before = _cpu_seconds(pids)
        calls = _calls_of_workers(port)
        done = subprocess.run([*command, str(seconds)], check=True, capture_output=True, text=True)
        figures = json.loads(done.stdout)
        split = (_calls_of_workers(port) - calls).values()
        figures["cpu_us"] = (_cpu_seconds(pids) - before) / figures["calls"] * 1e6
        figures["per_second"] = figures["calls"] / figures["seconds"]
        figures["largest_share"] = max(split) / sum(split)
    return figures


def run(options: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--drive", type=int)
    parser.add_argument("--era", default="newer")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=1)
    chosen = parser.parse_args(options)
    if chosen.drive is not None:
        figures = drive(chosen.drive, chosen.era, chosen.connections, chosen.seconds)
        print(json.dumps(figures))
        return 0
    reached = True
    for era in ("newer", "older"):
        rates: dict[int, float] = {}
        for _ in range(chosen.rounds):
            for workers in (1, 2):
                it = measured(workers, era, chosen.connections, chosen.seconds)
                rates[workers] = max(rates.get(workers, 0.0), it["per_second"])
                print(
                    f"{era} era, {workers} workers: {it['per_second']:7.0f} calls/s, "
                    f"{it['cpu_us']:5.0f} us of CPU a call, "
                    f"{it['largest_share']:.0%} in the busiest worker, "
                    f"client {it['client_cpu'] / it['calls'] * 1e6:.0f} us a call"
                )
        ratio = rates[2] / rates[1]
        reached = reached and ratio >= TARGET
        print(f"{era} era: 2 workers make {ratio:.2f} x the calls of one (to reach: {TARGET})")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
