"""A real nginx in front of servers of ours, with a configuration of docs/deploying."""

import os
import shutil
import socket
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

NEEDS_NGINX = pytest.mark.skipif(
    not shutil.which("nginx"), reason="nginx is not installed (apt: nginx-light)"
)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


@asynccontextmanager
async def nginx(folder, site, changes):
    """Run nginx for the block, with a configuration in which places of this machine are put."""
    text = site.read_text("utf-8")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "site.conf").write_text(text)
    user = "user root;" if os.geteuid() == 0 else ""
    places = "".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log stderr warn; {user}"
        "events { worker_connections 64; }"
        f"http {{ access_log off; {places} include {folder}/site.conf; }}"
    )
    command = ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.run_process, command))
        yield
        nursery.cancel_scope.cancel()


async def until_it_listens(port):
    """Wait until something accepts connections at a port of this machine."""
    with trio.fail_after(20):
        while True:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                await trio.sleep(0.02)
            else:
                await stream.aclose()
                return
