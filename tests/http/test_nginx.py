"""The main matrix against nginx, where it is installed: what a usual server does."""

import os
import shutil
import socket
import subprocess
import time

import httpx
import pytest
import trio
import trustme

from tests.support.raw_http_servers import ANYWHERE, config
from trio_tools.http.fetching.fetcher import Fetcher
from trio_tools.http.fetching.types import FetchRequest
from trio_tools.http.httpx_transport import TrioTransport

NGINX = shutil.which("nginx")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (apt: nginx-light)")

CONFIG = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log warn; {user}
events {{ worker_connections 512; }}
http {{
  access_log off; default_type text/plain; keepalive_requests 3; gzip_min_length 1;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  server {{
    listen 127.0.0.1:{plain};
    listen 127.0.0.1:{tls} ssl;
    ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/cert.pem;
    root {folder}/www;
    location /gzip/ {{ alias {folder}/www/; gzip on; gzip_types *; }}
    location /close/ {{ alias {folder}/www/; keepalive_timeout 0; }}
    location /moved {{ return 301 /large.txt; }}
    location /empty {{ return 204; }}
    location /echo {{ return 200 "$request_method $args"; }}
    location /post {{ dav_methods PUT; client_max_body_size 1000; alias {folder}/www/put; }}
    location /hang-up {{ return 444; }}
  }}
}}
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


@pytest.fixture(scope="module")
def nginx(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nginx")
    authority = trustme.CA()
    cert = authority.issue_cert("127.0.0.1")
    cert.private_key_and_cert_chain_pem.write_to_path(folder / "cert.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    (folder / "www").mkdir()
    (folder / "www" / "large.txt").write_text("0123456789" * 10_000)
    plain, tls = free_port(), free_port()
    user = "user root;" if os.geteuid() == 0 else ""  # a worker of another user cannot read here
    text = CONFIG.format(folder=folder, plain=plain, tls=tls, user=user)
    (folder / "nginx.conf").write_text(text)
    log = str(folder / "error.log")
    command = [NGINX, "-p", str(folder), "-e", log, "-c", str(folder / "nginx.conf")]
    with subprocess.Popen(command) as process:
        try:
            wait_for(plain)
            yield f"http://127.0.0.1:{plain}", f"https://127.0.0.1:{tls}", folder
        finally:
            process.terminate()


def wait_for(port):
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError("nginx did not come up")


@pytest.fixture(params=["plain", "tls"])
def base(request, nginx):
    return nginx[0] if request.param == "plain" else nginx[1]


@pytest.fixture
def tls(nginx):
    import ssl  # noqa: PLC0415 - only this fixture

    return ssl.create_default_context(cafile=str(nginx[2] / "ca.pem"))


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/large.txt", {}),
        ("HEAD", "/large.txt", {}),
        ("GET", "/gzip/large.txt", {}),
        ("GET", "/close/large.txt", {}),
        ("GET", "/large.txt", {"Range": "bytes=10-19"}),
        ("GET", "/large.txt", {"If-Modified-Since": "Fri, 31 Dec 2099 00:00:00 GMT"}),
        ("GET", "/large.txt", {"Accept-Encoding": "identity"}),
        ("GET", "/empty", {}),
        ("GET", "/moved", {}),
        ("GET", "/missing", {}),
        ("GET", "/echo?a=b%20c&d=%C3%A4", {}),
        ("DELETE", "/echo", {}),
        ("POST", "/large.txt", {}),
    ],
)
async def test_nginx_answers_us_as_it_answers_stock_httpx(base, tls, method, path, headers):
    outcomes = []
    for transport in (
        TrioTransport(guard=ANYWHERE, verify=tls),
        httpx.AsyncHTTPTransport(verify=tls),
    ):
        async with httpx.AsyncClient(transport=transport) as client:
            seen = []
            for _ in range(4):  # nginx closes each connection after three requests
                response = await client.request(method, base + path, headers=headers)
                kept = {k: v for k, v in response.headers.items() if k != "date"}
                seen.append((response.status_code, kept, response.content))
            outcomes.append(seen)
    assert outcomes[0] == outcomes[1]


async def test_a_body_over_the_servers_limit_is_answered_413(base, tls):
    transport = TrioTransport(guard=ANYWHERE, verify=tls)
    async with httpx.AsyncClient(transport=transport) as client:
        assert (await client.put(base + "/post", content=b"x" * 999)).status_code in {201, 204}
        assert (await client.put(base + "/post", content=b"x" * 5_000_000)).status_code == 413


async def test_a_server_that_hangs_up_is_a_remote_protocol_error(base, tls):
    transport = TrioTransport(guard=ANYWHERE, verify=tls)
    async with httpx.AsyncClient(transport=transport) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(base + "/hang-up")


async def test_many_fetches_at_once_outlive_the_connections_that_nginx_closes(base, tls):
    settings = config(max_connections=8, max_connections_per_host=8)
    async with (
        Fetcher(settings, ssl_context=lambda: tls) as fetcher,
        trio.open_nursery() as nursery,
    ):
        pages = []

        async def fetch(number):
            path = ("/gzip/large.txt", "/moved", "/echo?x", "/empty")[number % 4]
            pages.append(await fetcher.fetch(FetchRequest(base + path, max_bytes=1000)))

        for number in range(200):
            nursery.start_soon(fetch, number)
    assert len(pages) == 200
    assert {page.status for page in pages} == {200, 204}
    assert sum(page.truncated for page in pages) == 100
