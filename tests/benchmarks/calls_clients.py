"""Start a server of `calls`, speak with it over its transport, see from outside what it takes."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httptools

from tests.transports.lines import INITIALIZE, call, cancel, request
from tests.transports.requests import get, modern_call, post

OURS = ("ours, stdio", "ours, HTTP")
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def timed(fn, *arguments):
    start = time.perf_counter()
    fn(*arguments)
    return time.perf_counter() - start


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the server did not come to where it was to be measured"
        time.sleep(0.05)


class Server:
    """The process of a server, from outside."""

    def __init__(self, name, process):
        self.process = process
        self.port = int(process.stdout.readline()) if "HTTP" in name else None
        self.talks = []

    def connect(self):
        """A connection of its own over HTTP; over stdio the one there is."""
        if self.port is None and self.talks:
            return self.talks[0]
        talk = LineTalk(self.process) if self.port is None else HttpTalk(self.port)
        self.talks.append(talk)
        return talk

    def send(self, message):
        """Send a call whose answer nobody waits for."""
        self.connect().send(message)

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    def resident_bytes(self):
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * _PAGE

    def descriptors(self):
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def children(self):
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(child) for thread in threads for child in thread.read_text().split()]


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


class Talk:
    """What a client asks for, however it is sent."""

    def echo(self, number):
        self.exchange(call(number, "echo", text="x" * 100))

    def status(self, number=0):
        answer = self.exchange(call(f"status {number}", "get_concurrency_status"))
        return answer["result"]["structuredContent"]["data"]

    def gone(self, tool):
        """Return once the status shows no call of a tool any more."""
        while any(each["tool"] == tool for each in self.status()["calls"]):
            pass


class LineTalk(Talk):
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

    def ping(self, number):
        self.exchange(request(f"ping {number}", "ping"))

    def begin(self, message):
        """Send a call; return how it is cancelled."""
        self.send(message)
        return lambda: self.send(cancel(message["id"]))

    def close(self):
        pass


class HttpTalk(Talk):
    """One connection of the newer era; pings are of the older one, as the newer has none."""

    def __init__(self, port):
        self.port = port
        self.session = None
        self.connect()

    def connect(self):
        self.socket = socket.create_connection(("127.0.0.1", self.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

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
        answer = Answer()
        parser = httptools.HttpResponseParser(answer)
        while not answer.complete:
            parser.feed_data(self.socket.recv(65536) or answer.cut())
        if not parser.should_keep_alive():  # Hypercorn ends a connection after 1,000 requests
            self.close()
            self.connect()
        self.headers = answer.headers
        return bytes(answer.body)

    def open_session(self):
        self.socket.sendall(post(INITIALIZE))
        self.read()
        self.session = {"mcp-session-id": self.headers["mcp-session-id"]}
        initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        self.socket.sendall(post(initialized, **self.session))
        self.read()

    def ping(self, number):
        if self.session is None:
            self.open_session()
        self.socket.sendall(post(request(number, "ping"), **self.session))
        assert b'"result"' in self.read()

    def ready(self, number):
        del number
        self.socket.sendall(get("/readyz"))
        assert self.read() == b"ready\n"

    def metric(self, name):
        self.socket.sendall(get("/metrics"))
        found = re.search(rf"^{name} (\S+)$", self.read().decode(), re.MULTILINE)
        return float(found[1])

    def begin(self, message):
        """Send a call on a connection of its own; return how it is cancelled: by hanging up."""
        talk = HttpTalk(self.port)
        talk.send(message)
        return talk.close

    def close(self):
        self.socket.close()


class Answer:
    """What httptools tells of one answer."""

    def __init__(self):
        self.headers, self.body, self.complete = {}, bytearray(), False

    def cut(self):
        raise EOFError("the server closed the connection before its answer was whole")

    def on_header(self, name, value):
        self.headers[name.decode().lower()] = value.decode()

    def on_body(self, data):
        self.body += data

    def on_message_complete(self):
        self.complete = True
