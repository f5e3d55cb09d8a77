"""What one small page costs a model, beside mcp-server-fetch, in tokens.

Both servers fetch the same page. Hosts show their model one of our two forms, so each is counted by
itself; theirs has a text alone. Tokens are those of `o200k_base`, which `bpe-openai` brings along;
other models count a little differently. mcp-server-fetch is asked if it is on the path:
`uv tool install mcp-server-fetch --with 'mcp<2'`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import bpe_openai

from tests.benchmarks._runner import Verdict
from tests.benchmarks.calls_clients import LineTalk
from tests.benchmarks.end_to_end import our_settings
from tests.transports.lines import call

# About 370 tokens through mcp-server-fetch, as a small page has.
_TEXT = """\
A nursery is a block that owns tasks, and it is left when all of them have ended. A task that
fails cancels its siblings, and the failure leaves the block. So no task is forgotten, and no
failure is lost. A function that starts tasks in a nursery of its own has nothing left to do when
it returns.

A cancel scope bounds the time of the code inside of it, however deep the calls are nested. When
its deadline passes, the next checkpoint raises an exception that unwinds the stack up to the
scope. Files and sockets are closed on the way, by the same context managers that close them after
a success or a failure.

What has finished is kept outside of the scope, so that a deadline takes nothing from it. A report
of a batch lists every item once: with its value, with its failure, as cancelled, or as not
started. The same batch can be run again, and then does only what is missing.

A capacity limiter decides how many tasks run at once. Each of them borrows a token and gives it
back at the end of a block. Those that wait form a queue, first in, first out. A limiter that
several batches share bounds all of them together, whatever each of them would like to do. Back-
pressure follows by itself: a source is read only when there is a free token, so that memory does
not grow with the number of items.

A test runs such code on a virtual clock, and cancels it at each of its checkpoints in turn. After
each run it looks whether anything is left behind: a slot, a token, a task, a thread. What holds
there for every point in time holds in production as well.
"""
_PAGE = (
    "<!doctype html><html><head><title>Structured concurrency</title></head><body><article>"
    "<h1>Structured concurrency</h1>"
    + "".join(f"<p>{paragraph}</p>" for paragraph in _TEXT.split("\n\n"))
    + "</article></body></html>"
).encode()
_LEAN = {"TRIO_TOOLS_ANSWERS_ENVELOPE": "lean"}
_MOST_TOKENS, _MOST_ENVELOPE_TOKENS = 420, 60


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(_PAGE)))
        self.end_headers()
        self.wfile.write(_PAGE)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def _served() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/nurseries"
        server.shutdown()


def _answer(
    command: list[str], tool: str, env: dict[str, str] | None = None, **arguments: Any
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=our_settings(folder) | (env or {}),
        )
        try:
            return LineTalk(process).exchange(call(1, tool, **arguments))["result"]
        finally:
            process.kill()
            process.communicate()


def run(options: list[str]) -> int:
    """Print what the page costs in each form, and what the envelope does without any data."""
    del options
    encoding = bpe_openai.get_encoding("o200k_base")

    def tokens(text: str) -> int:
        return len(encoding.encode(text))

    with _served() as url:
        command = [sys.executable, "-m", "trio_tools", "serve"]
        ours = _answer(command, "fetch_urls", urls=[url], body_as="markdown")
        lean = _answer(command, "fetch_urls", _LEAN, urls=[url], body_as="markdown")
        peer = shutil.which("mcp-server-fetch")
        if peer is None:
            print("mcp-server-fetch is not installed")
        else:
            theirs = _answer([peer, "--ignore-robots-txt", "--allow-private-ips"], "fetch", url=url)
            print(f"mcp-server-fetch {tokens(theirs['content'][0]['text']):6} tokens")
    envelope = ours["structuredContent"]
    page = envelope["data"]["results"][0]["value"]["text"]
    text, structured = tokens(ours["content"][0]["text"]), tokens(_compact(envelope))
    lean_text = tokens(lean["content"][0]["text"])
    lean_structured = tokens(_compact(lean["structuredContent"]))
    empty = tokens(_compact({**envelope, "data": {}}))
    print(f"the page alone   {tokens(page):6} tokens")
    verdicts = [
        Verdict("a small page as text", text, _MOST_TOKENS, "tokens"),
        Verdict("a small page as structured content", structured, _MOST_TOKENS, "tokens"),
        Verdict("the same, lean, as text", lean_text, _MOST_TOKENS, "tokens"),
        Verdict("the same, lean, as structured content", lean_structured, _MOST_TOKENS, "tokens"),
        Verdict("the envelope without data", empty, _MOST_ENVELOPE_TOKENS, "tokens"),
    ]
    print(*verdicts, sep="\n")
    return 0 if all(verdict.reached for verdict in verdicts) else 1


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
