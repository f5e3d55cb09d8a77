"""Upstreams over HTTPS: whom we trust, through which proxy, what a cancel does, what is shown."""

import logging
from contextlib import asynccontextmanager

import pytest
import trio
import trustme

from tests.http.test_proxies import a_proxy
from tests.support.upstreams import server_over
from tests.transports.lines import make_server
from tests.transports.requests import http_server

TOKEN = "swordfish-" + "7" * 30

# The SDK leaves async generators of its HTTP library to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    for part in issued.cert_chain_pems:
        part.write_to_path(folder / "cert.pem", append=True)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return folder


@asynccontextmanager
async def over_https(files, server=None, **settings):
    """Serve a small server over HTTPS with a token, and one of ours over it as `web`."""
    tls = {"tls_cert_file": files / "cert.pem", "tls_key_file": files / "key.pem"}
    async with http_server(server, tokens={"us": TOKEN}, **tls) as address:
        web = {
            "url": f"https://localhost:{address.port}/mcp",
            "headers": {"Authorization": f"Bearer {TOKEN}"},
            "tools": ["*"],
            "ca_file": files / "ca.pem",
        }
        async with server_over(web={**web, **settings}) as run:
            run.port = address.port
            yield run


async def test_a_private_authority_is_trusted_and_the_headers_are_sent(files):
    async with over_https(files) as run:
        done = await run("web.echo", *({"text": str(number)} for number in range(20)))
        assert done["data"]["counts"]["succeeded"] == 20


async def test_without_the_authority_the_setting_is_named(files):
    async with over_https(files, ca_file=None) as run:
        told = str(await run("web.echo", {"text": "x"}))
        assert "CERTIFICATE_VERIFY_FAILED" in told
        assert "set ca_file of the upstream" in told


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_ca_file_that_cannot_be_used_is_named(files, tmp_path, is_there):
    path = tmp_path / "none.pem"
    if is_there:
        path.write_text("not a certificate")
    async with over_https(files, ca_file=path) as run:
        told = str((await run("web.echo", {"text": "x"}))["data"])
        assert f"its ca_file {path} cannot be read as PEM certificates" in told
        assert "UPSTREAM_NOT_CONFIGURED" in told


async def test_requests_go_through_the_proxy_and_its_password_is_not_shown(files, monkeypatch):
    password = "bWU6b3BlbnNlc2FtZQ=="  # me:opensesame
    async with (
        over_https(files, proxy="${THE_PROXY}") as run,
        a_proxy(password=password, to=run.port) as proxy,
    ):
        monkeypatch.setenv("THE_PROXY", f"http://me:opensesame@127.0.0.1:{proxy.port}")
        done = await run("web.echo", {"text": "x"})
        assert done["data"]["complete"], done


async def test_the_environment_names_the_proxy_and_for_whom_none(files, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://me:opensesame@127.0.0.1:9")  # nobody listens there
    async with over_https(files, proxy="environment") as run:
        refused = str(await run("web.echo", {"text": "x"}))
        assert "it cannot be reached" in refused
        assert "opensesame" not in refused
    monkeypatch.setenv("NO_PROXY", "localhost")
    async with over_https(files, proxy="environment") as run:
        assert (await run("web.echo", {"text": "x"}))["data"]["complete"]
    monkeypatch.delenv("NO_PROXY")
    async with over_https(files) as run:  # without the setting, the environment is not asked
        assert (await run("web.echo", {"text": "x"}))["data"]["complete"]


async def test_a_cancel_closes_the_stream_and_ends_the_work_at_the_other_end(files):
    server = make_server()
    ended = trio.Event()

    @server.tool()
    async def linger() -> str:
        """Wait for ever."""
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with over_https(files, server) as run:
        await run("web.echo", {"text": "x"})  # so that it has started
        assert (await run("web.linger", {}, timeout_seconds=0.5))["data"]["counts"]["cancelled"]
        with trio.fail_after(20):
            await ended.wait()
        assert run.status("web").in_flight == 0
        assert run.status("web").restarts == 0


async def test_headers_are_in_no_answer_no_status_and_no_log(files, caplog):
    caplog.set_level(logging.DEBUG)
    server = make_server()

    @server.tool()
    async def blab() -> str:
        """Tell what it was given."""
        raise ValueError(TOKEN)

    async with over_https(files, server) as run:
        said = [str(await run("web.blab", {})), str(await run("web.echo", {"text": "x"}))]
        said.append(str(await run.client.call_tool("get_concurrency_status", {})))
        said.append(repr(run.server.state.settings))
    async with over_https(files, headers={"Authorization": f"Bearer {TOKEN}x"}) as run:
        said.append(str(await run("web.echo", {"text": "x"})))
        said.append(str(run.status("web")))
    said.append("\n".join(r.getMessage() for r in caplog.records if r.name.startswith("trio")))
    assert "401" in said[4]
    assert not [text for text in said if TOKEN in text]
