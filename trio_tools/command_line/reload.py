"""`trio-tools reload`: make a running server read its settings again, and print what changed.

An HTTP server receives a request to `/reload` with a client's token, and answers. A process, also
one on stdio, receives SIGHUP, and its log has the result.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import Any

import httpx

from trio_tools.settings import Settings

_SECONDS = 30.0


async def reload(options: argparse.Namespace, _: Settings, __: list[str]) -> int:
    """Make a server read its settings again.

    Returns:
        0, also if some settings need a restart; 1 if the server refuses or does not answer.
    """
    if options.pid is not None:
        return _send_signal(options.pid)
    headers: dict[str, str] = {}
    if options.token_env:
        headers["authorization"] = f"Bearer {os.environ.get(options.token_env, '')}"
    url = f"{options.url.rstrip('/')}/reload"
    try:
        async with httpx.AsyncClient(headers=headers, timeout=_SECONDS) as client:
            answer = await client.post(url)
    except httpx.HTTPError as error:
        return _failed(f"{options.url} does not answer: {error}")
    if not answer.headers.get("content-type", "").startswith("application/json"):
        return _failed(f"{options.url} refuses ({answer.status_code}): {answer.text.strip()[:500]}")
    return _show(answer.json())


def _show(told: dict[str, Any]) -> int:
    if "problems" in told:
        return _failed("the settings stay as they were", *told["problems"])
    taken, needs_restart = told.get("taken", []), told.get("needs_restart", [])
    if taken:
        print(f"took: {', '.join(taken)}")  # noqa: T201
    if needs_restart:
        print(f"needs a restart: {', '.join(needs_restart)}")  # noqa: T201
    if not taken and not needs_restart:
        print("no setting has changed")  # noqa: T201
    return 0


def _send_signal(pid: int) -> int:
    if pid <= 0 or not hasattr(signal, "SIGHUP"):
        return _failed(f"{pid} is not a process that can receive a signal: use --url")
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError as error:
        return _failed(f"process {pid} cannot receive a signal: {error.strerror}")
    print(f"process {pid} reads its settings again; its log has the result")  # noqa: T201
    return 0


def _failed(*lines: str) -> int:
    for line in lines:
        print(f"trio-tools: {line}", file=sys.stderr)  # noqa: T201
    return 1
