"""The servers that the contenders ask: loopback nginx, or a bundled plain one where it is missing.

Run as a module it is the bundled server: `python -m tests.benchmarks.http_server PORT [CERT]`.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trio
import trustme

BODY = b'{"id": 7, "name": "a small reply", "tags": ["one", "two", "three"], "ok": true}'
REPLY = (
    b"HTTP/1.1 200 OK\r\nServer: bundled\r\nDate: Sun, 22 Nov 2026 12:00:00 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\nConnection: keep-alive\r\n\r\n%b"
) % (len(BODY), BODY)

NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off; default_type application/json;
  keepalive_requests 10000000; keepalive_timeout 600s;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  server {{
    listen 127.0.0.1:{plain} backlog=4096;
    listen 127.0.0.1:{tls} ssl backlog=4096;
    ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/cert.pem;
    location / {{ return 200 '{body}'; }}
  }}
}}
"""


@dataclass(frozen=True)
class Servers:
    kind: str
    plain_url: str
    tls_url: str
    ca_file: str


@contextlib.contextmanager
def running_servers() -> Iterator[Servers]:
    """Run a plain and a TLS server on free ports of 127.0.0.1 until the block is left."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
            folder / "cert.pem"
        )
        plain, tls = _free_port(), _free_port()
        nginx = shutil.which("nginx")
        if nginx is not None:
            config = folder / "nginx.conf"
            config.write_text(NGINX.format(folder=folder, plain=plain, tls=tls, body=BODY.decode()))
            commands = [[nginx, "-p", name, "-e", str(folder / "error.log"), "-c", str(config)]]
        else:
            module = [sys.executable, "-m", "tests.benchmarks.http_server"]
            commands = [[*module, str(plain)], [*module, str(tls), str(folder / "cert.pem")]]
        for command in commands:
            process = stack.enter_context(subprocess.Popen(command))
            stack.callback(process.terminate)
        _wait_for(plain)
        _wait_for(tls)
        yield Servers(
            kind="nginx" if nginx is not None else "bundled",
            plain_url=f"http://127.0.0.1:{plain}/",
            tls_url=f"https://127.0.0.1:{tls}/",
            ca_file=str(folder / "ca.pem"),
        )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def _wait_for(port: int) -> None:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"no server came up on port {port}")


async def _answer(stream: trio.abc.Stream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        async with stream:
            buffer = b""
            async for data in stream:
                buffer += data
                count = buffer.count(b"\r\n\r\n")
                if count:
                    buffer = buffer[buffer.rfind(b"\r\n\r\n") + 4 :]
                    await stream.send_all(REPLY * count)


async def _serve(port: int, cert: str | None) -> None:
    if cert is None:
        await trio.serve_tcp(_answer, port, host="127.0.0.1", backlog=4096)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert)
    await trio.serve_ssl_over_tcp(
        _answer, port, context, host="127.0.0.1", backlog=4096, https_compatible=True
    )


if __name__ == "__main__":
    trio.run(_serve, int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
