"""What a tool call costs, how soon a busy server hears, how a load leaves it, how soon it stops.

    python -m tests.benchmarks calls [--calls N] [--repeats N] [--load-seconds S]

Each server runs in a process of its own. The cost is the CPU time of that process per call; the
least of the repeats counts. Times to stop are from the signal to the end of the process.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import h11

from tests.benchmarks.calls_servers import SERVERS
from tests.transports.lines import INITIALIZE, call, request
from tests.transports.requests import get, modern_call

TARGETS = (
    ("ours, stdio", "SDK, stdio on trio", 1.15),
    ("ours, HTTP", "SDK, HTTP on Hypercorn's trio", 1.15),
)
BUSY_PING_SECONDS = 0.050
STOP_SECONDS = 2.0
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def run(argv=()):
    """Measure, print, and return 0 if every target was reached, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks calls")
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--load-seconds", type=float, default=30)
    options = parser.parse_args(argv)
    results = [*costs(options), *deafness(), *load(options.load_seconds), *stops()]
    for text, reached in results:
        print(f"{'ok  ' if reached else 'MISS'} {text}", flush=True)
    return 0 if all(reached for _, reached in results) else 1


# ------------------------------------------------------------------------------- one call's cost


def costs(options):
    print("CPU of the server per call, microseconds")
    taken = {name: [] for name in SERVERS}
    for _, name in itertools.product(range(options.repeats), SERVERS):
        taken[name].append(cost(name, options.calls))
    # The least: whatever else the machine does only adds.
    least = {name: min(times) for name, times in taken.items()}
    for name, seconds in least.items():
        print(f"  {name:32} {seconds * 1e6:7.0f}")
    for mine, theirs, most in TARGETS:
        ratio = least[mine] / least[theirs]
        yield f"{mine} / {theirs}: {ratio:.2f}, at most {most}", ratio <= most


def cost(name, calls):
    with started(name) as server:
        talk = server.connect()
        for number in range(200):  # whatever is done once
            talk.echo(number)
        before = server.cpu_seconds()
        for number in range(1000, 1000 + calls):
            talk.echo(number)
        return (server.cpu_seconds() - before) / calls


# ----------------------------------------------------------------------------- heard while busy


def deafness():
    for name in ("ours, stdio", "ours, HTTP"):
        with started(name) as server:
            if server.port:
                for number in range(200):
                    server.connect().send(call(f"nap {number}", "nap", seconds=30))
                server.connect().send(call("block", "block", seconds=8))
            talk = server.connect()
            if not server.port:
                for number in range(200):
                    talk.send(call(f"nap {number}", "nap", seconds=30))
                talk.send(call("block", "block", seconds=8))
            time.sleep(3)  # the worker processes start
            for what in ("ping", "status"):
                took = statistics.median(timed(getattr(talk, what), n) for n in range(50))
                text = f"{name}: {what} of a busy server in {took * 1e3:.1f} ms, at most 50"
                yield text, took <= BUSY_PING_SECONDS


def timed(fn, *arguments):
    start = time.perf_counter()
    fn(*arguments)
    return time.perf_counter() - start


# ------------------------------------------------------------------------------------- under load


def load(seconds):
    """100 clients that each call a tool of 100 ms without a pause."""
    if not seconds:
        return
    with started("ours, HTTP") as server:
        one = server.connect()
        one.echo(0)
        fds, outcomes, samples = server.descriptors(), Counter(), []
        end = time.monotonic() + seconds

        def client(name):
            talk = server.connect()
            for number in itertools.takewhile(lambda _: time.monotonic() < end, itertools.count()):
                answer = talk.exchange(call(f"{name} {number}", "nap", seconds=0.1))
                outcomes["error" if answer["result"].get("isError") else "ok"] += 1
            talk.close()

        threads = [threading.Thread(target=client, args=(n,)) for n in range(100)]
        for thread in threads:
            thread.start()
        while time.monotonic() < end:
            time.sleep(0.5)
            samples.append(server.resident_bytes())
        for thread in threads:
            thread.join()
        time.sleep(0.5)
        settled = samples[min(10, len(samples) // 2) :]
        flat = max(settled) / min(settled)
        left = server.descriptors() - fds
        text = (
            f"100 clients for {seconds:g} s: {dict(outcomes)}, {outcomes.total() / seconds:.0f}/s"
        )
        yield text, set(outcomes) == {"ok"}
        yield f"memory after the first 5 s: {flat:.3f}, at most 1.1", flat <= 1.1
        yield f"file descriptors left: {left}, at most 0", left <= 0


# ------------------------------------------------------------------------------------ time to stop


def stops():
    states = {"idle": [], "calls": [call(n, "nap", seconds=600) for n in range(50)]}
    states["blocked"] = [call("b", "block", seconds=600)]
    for name, (state, messages) in itertools.product(("ours, stdio", "ours, HTTP"), states.items()):
        with started(name) as server:
            for message in messages if server.port else ():
                server.connect().send(message)
            if not server.port:
                talk = server.connect()
                for message in messages:
                    talk.send(message)
            time.sleep(2)
            server.process.send_signal(signal.SIGTERM)
            took = timed(server.process.wait, 10)
            status = server.process.returncode
        text = f"{name}, {state}: stopped in {took:.2f} s with status {status}, at most 2"
        yield text, took <= STOP_SECONDS and status == 0


# ---------------------------------------------------------------------------------------- plumbing


class Server:
    def __init__(self, name, process):
        self.process = process
        self.port = int(process.stdout.readline()) if "HTTP" in name else None
        self.talks = []

    def connect(self):
        talk = HttpTalk(self.port) if self.port else LineTalk(self.process)
        self.talks.append(talk)
        return talk

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    def resident_bytes(self):
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * _PAGE

    def descriptors(self):
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


@contextmanager
def started(name):
    command = [sys.executable, "-m", "tests.benchmarks.calls_servers", name]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    server = Server(name, process)
    try:
        yield server
    finally:
        for talk in server.talks:
            talk.close()
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


class LineTalk:
    def __init__(self, process):
        self.process = process
        self.exchange(INITIALIZE)
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def send(self, message):
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def exchange(self, message):
        self.send(message)
        while (answer := json.loads(self.process.stdout.readline())).get("id") != message["id"]:
            pass
        return answer

    def echo(self, number):
        self.exchange(call(number, "echo", text="x" * 100))

    def ping(self, number):
        self.exchange(request(f"ping {number}", "ping"))

    def status(self, number):
        self.exchange(call(f"status {number}", "get_concurrency_status"))

    def close(self):
        pass


class HttpTalk:
    def __init__(self, port):
        self.port = port
        self.socket = socket.create_connection(("127.0.0.1", port))

    def send(self, message):
        params = message["params"]
        # The SDK's own check wants a port here.
        headers = {"host": f"localhost:{self.port}"}
        arguments = params["arguments"]
        raw = modern_call(message["id"], params["name"], headers=headers, **arguments)
        self.socket.sendall(raw)

    def exchange(self, message):
        self.send(message)
        return json.loads(self.read())

    def read(self):
        parser, body = h11.Connection(h11.CLIENT), bytearray()
        parser.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
        parser.send(h11.EndOfMessage())
        while not isinstance(event := parser.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                parser.receive_data(self.socket.recv(65536))
            elif isinstance(event, h11.Data):
                body += event.data
        if parser.their_state is h11.MUST_CLOSE:  # Hypercorn ends a connection after 1,000 requests
            self.close()
            self.socket = socket.create_connection(("127.0.0.1", self.port))
        return bytes(body)

    def echo(self, number):
        self.exchange(call(number, "echo", text="x" * 100))

    def ping(self, number):
        del number  # this era has none: whether it takes calls is asked elsewhere
        self.socket.sendall(get("/readyz"))
        self.read()

    def status(self, number):
        self.exchange(call(f"status {number}", "get_concurrency_status"))

    def close(self):
        self.socket.close()


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
