"""How soon SIGTERM ends the server, in every state it can be in."""

from __future__ import annotations

import signal
import socket
import time

from tests.benchmarks.calls_clients import OURS, started, timed, until
from tests.transports.lines import call, request
from tests.transports.requests import get, modern, modern_call

EXIT_SECONDS = 2.0


def calls_running(server):
    for number in range(50):
        server.send(call(f"nap {number}", "nap", seconds=600))


def stuck_thread(server):
    server.send(call("stuck", "stuck_thread"))


def stuck_worker(server):
    server.send(call("stuck", "stuck_worker"))
    until(server.children)


def stopped_reading(server):
    message = call("talk", "talk", token="talk", messages=10**6)
    if server.port is None:
        server.send(message)
        return
    sock = held(server)
    params = message["params"]
    sock.sendall(modern_call("talk", "talk", token="talk", **params["arguments"]))


def kept_alive(server):
    server.connect().ready(0)


def open_stream(server):
    held(server).sendall(modern(request("listen", "subscriptions/listen", notifications={})))


def open_stream_of_the_older_era(server):
    talk = server.connect()
    talk.open_session()
    headers = {"accept": "text/event-stream", **talk.session}
    held(server).sendall(get("/mcp", **headers))


def held(server):
    """A connection with a small window that nobody reads from."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", server.port))
    server.talks.append(sock)  # which closes it at last
    return sock


BOTH = {
    "idle": lambda server: server.connect(),
    "50 calls running": calls_running,
    "a client that stopped reading": stopped_reading,
    "a stuck thread": stuck_thread,
    "a stuck worker process": stuck_worker,
}
STATES = {
    "ours, stdio": BOTH,
    "ours, HTTP": {
        **BOTH,
        "an idle kept connection": kept_alive,
        "an open event stream": open_stream,
        "an open event stream of the older era": open_stream_of_the_older_era,
    },
}


def stops(options):
    del options
    print(f"seconds from SIGTERM to the end of the process, at most {EXIT_SECONDS:g}")
    for name in OURS:
        for state, reach in STATES[name].items():
            with started(name) as server:
                reach(server)
                time.sleep(1)
                server.process.send_signal(signal.SIGTERM)
                took = timed(server.process.wait, 10)
                status = server.process.returncode
            print(f"  {name:12} {state:38} {took:5.2f}")
            told = f"{name}, {state}: ended in {took:.2f} s with status {status}, at most 2"
            yield told, took <= EXIT_SECONDS and status == 0
