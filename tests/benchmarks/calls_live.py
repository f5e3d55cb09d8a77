"""How soon a busy server hears, and what a load of 100 clients leaves of it."""

from __future__ import annotations

import itertools
import os
import statistics
import threading
import time
from collections import Counter

from tests.benchmarks.calls_clients import OURS, started, timed, until
from tests.transports.lines import call

HEARD_SECONDS = 0.050
ASKED = 50
WAITING = 200
CLIENTS = 100
SETTLED_SECONDS = 5
GROWTH = 1.1


def latency(options):
    """Every thread and worker process busy, 200 calls in line: is a client heard all the same?"""
    del options
    print(f"with every thread and worker busy and {WAITING} calls waiting, median of {ASKED}, ms")
    for name in OURS:
        with started(name) as server:
            talk = busy(server)
            # What a client sees of a cancel: the first status that shows its call no more.
            heard = {"ping": talk.ping, "status": talk.status, "cancel": cancelled}
            if server.port:
                heard["readyz"] = talk.ready
            for what, ask in heard.items():
                took = sorted(
                    ask(talk, n) if ask is cancelled else timed(ask, n) for n in range(ASKED)
                )
                median = statistics.median(took)
                print(f"  {name:12} {what:8} {median * 1e3:6.1f}, worst {took[-1] * 1e3:6.1f}")
                told = f"{name}: {what} of a busy server in {median * 1e3:.1f} ms, at most 50"
                yield told, median <= HEARD_SECONDS
            waiting = talk.status()["lines"]["one_at_a_time"]["waiting"]
            yield f"{name}: {waiting} calls waited until the end", waiting == WAITING


def busy(server):
    """Fill every thread and worker process, and a line; return a connection to ask on."""
    server.send(call("workers", "busy_workers", seconds=300))
    until(lambda: len(server.children()) >= os.cpu_count())
    time.sleep(1)  # they import what they need; and no thread of trio's is left to start another
    server.send(call("threads", "busy_threads", seconds=300))
    for number in range(WAITING + 1):
        server.send(call(f"line {number}", "one_at_a_time", seconds=300))
    talk = server.connect()
    until(lambda: talk.status()["lines"]["one_at_a_time"]["waiting"] == WAITING)
    return talk


def cancelled(talk, number):
    """Seconds from the cancel of a call that runs to the first status without it."""
    cancel = talk.begin(call(f"nap {number}", "nap", seconds=300))
    while not any(each["tool"] == "nap" for each in talk.status()["calls"]):
        pass
    start = time.perf_counter()
    cancel()
    talk.gone("nap")
    return time.perf_counter() - start


def load(options):
    """100 clients that each call a tool of 100 ms without a pause: does anything pile up?"""
    seconds = options.load_seconds
    with started("ours, HTTP") as server:
        server.connect().echo(0)
        fds, tasks = at_rest(server)
        answered, samples = Counter(), []
        end = time.monotonic() + seconds

        def client(name):
            talk = server.connect()
            for number in itertools.takewhile(lambda _: time.monotonic() < end, itertools.count()):
                answer = talk.exchange(call(f"{name} {number}", "nap", seconds=0.1))
                answered[verdict(answer)] += 1
            talk.close()

        threads = [threading.Thread(target=client, args=(n,)) for n in range(CLIENTS)]
        for thread in threads:
            thread.start()
        started_at = time.monotonic()
        while time.monotonic() < end:
            time.sleep(0.5)
            samples.append((time.monotonic() - started_at, server.resident_bytes()))
        for thread in threads:
            thread.join()
        fds_left, tasks_left = (
            now - then for now, then in zip(at_rest(server), (fds, tasks), strict=True)
        )
    settled = [size for when, size in samples if when > min(SETTLED_SECONDS, seconds / 2)]
    growth, shrink = max(settled) / settled[0], min(settled) / settled[0]
    rate = answered.total() / seconds
    yield (
        f"{CLIENTS} clients for {seconds:g} s: {dict(answered)}, {rate:.0f}/s",
        set(answered) <= {"ok", "overloaded"} and answered["ok"] > 0,
    )
    told = f"memory after {SETTLED_SECONDS} s: {shrink:.3f} to {growth:.3f} of what it was then"
    yield f"{told}, at most 10 % off", growth <= GROWTH and shrink >= 2 - GROWTH
    yield f"file descriptors left: {fds_left}, at most 0", fds_left <= 0
    yield f"tasks left: {tasks_left:g}, at most 0", tasks_left <= 0


def at_rest(server):
    """Descriptors and tasks of a server, as one new connection sees them after all have left."""
    seen = []
    for _ in range(5):
        for talk in server.talks:
            talk.close()
        time.sleep(0.2)
        seen.append((server.connect().metric("trio_tools_tasks"), server.descriptors()))
    # The least: a connection that comes or goes has a task more for a moment.
    tasks, fds = map(min, zip(*seen, strict=True))
    return fds, tasks


def verdict(answer):
    if "result" not in answer:
        return f"error {answer['error']['code']}"
    result = answer["result"]
    if not result.get("isError"):
        return "ok"
    return result["structuredContent"]["data"].get("error_type", "failed")
