"""What a reader meets in one call of `fetch_urls` with one URL: our frames, modules, classes.

python -m tests.benchmarks.path [--show]

A client in memory calls a server in this process, which fetches a small reply from a thread of the
same process. The first calls load modules and open the connection; the last one is counted, with
`sys.setprofile`, from the request to the answer. A frame is a call of a function or a step of a
coroutine; only code of `trio_tools` and `nursery_patterns` counts. A class counts when a method of
it runs.
"""

from __future__ import annotations

import argparse
import socket
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from types import FrameType
from typing import Any

import trio
from mcp.client import Client

from trio_tools.server import create_server
from trio_tools.settings import Settings

_PACKAGES = ("trio_tools", "nursery_patterns")
_REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello"
_WARM_CALLS = 5


class Path:
    """Counts our functions while it is the profile function of a thread."""

    def __init__(self) -> None:
        self.frames: Counter[tuple[str, str]] = Counter()

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        """Count one call, or one step of a coroutine."""
        del arg
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.partition(".")[0] in _PACKAGES:
            self.frames[module, frame.f_code.co_qualname] += 1

    @property
    def modules(self) -> Counter[str]:
        """Frames of each module."""
        counts: Counter[str] = Counter()
        for (module, _), count in self.frames.items():
            counts[module] += count
        return counts

    @property
    def classes(self) -> Counter[tuple[str, str]]:
        """Frames of each class: methods, and functions inside of methods."""
        counts: Counter[tuple[str, str]] = Counter()
        for (module, name), count in self.frames.items():
            owner = getattr(sys.modules[module], name.partition(".")[0], None)
            if isinstance(owner, type):
                counts[module, owner.__name__] += count
        return counts


def _serve(listener: socket.socket) -> None:
    """Answer each request of one connection after another with the same reply."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # closed: the benchmark is over
            return
        with connection:
            while connection.recv(65_536):
                connection.sendall(_REPLY)


async def _walk(url: str) -> Path:
    settings = Settings.model_validate(
        {"fetch": {"allow_private": True, "ports": None}, "state": {"url": "memory"}}
    )
    path = Path()
    async with Client(create_server(settings)) as client:
        for _ in range(_WARM_CALLS):
            await client.call_tool("fetch_urls", {"urls": [url]})
        sys.setprofile(path)
        try:
            answer = await client.call_tool("fetch_urls", {"urls": [url]})
        finally:
            sys.setprofile(None)
        assert answer.structured_content["data"]["complete"]
    return path


def walk() -> Path:
    """Return what one warm call goes through."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        threading.Thread(target=_serve, args=(listener,), daemon=True).start()
        path = trio.run(_walk, f"http://127.0.0.1:{port}/")
        listener.shutdown(socket.SHUT_RDWR)
    return path


def run(argv: Sequence[str] = ()) -> int:
    """Count, and print the totals."""
    parser = argparse.ArgumentParser(prog="path", description=__doc__)
    parser.add_argument("--show", action="store_true", help="print each module, class, function")
    options = parser.parse_args(argv)
    path = walk()
    print(
        f"{path.frames.total()} frames, {len(path.frames)} functions, "
        f"{len(path.classes)} classes, {len(path.modules)} modules"
    )
    if options.show:
        for counts in (path.modules, path.classes, path.frames):
            print()
            for name, count in counts.most_common():
                print(f"{count:6}  {name if isinstance(name, str) else ' '.join(name)}")
    return 0


main = run
