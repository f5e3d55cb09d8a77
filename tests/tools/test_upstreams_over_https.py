"""Upstreams over HTTPS: whom we trust, through which proxy, what a cancel does, what is shown."""

import logging
import traceback
from contextlib import asynccontextmanager

import pytest
import trio
import trustme
from mcp.types import CallToolResult, TextContent

from tests.http.test_proxies import a_proxy
from tests.support.upstreams import server_over, until
from tests.transports.lines import make_server
from tests.transports.requests import http_server
from trio_tools.answers.errors import UpstreamFailed
from trio_tools.command_line.doctor import _upstream
from trio_tools.command_line.upstreams import examine
from trio_tools.transports.http.metrics import Metrics

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


class Heard:
    """What a server hears, and in which version of the protocol."""

    def __init__(self, server):
        self.messages = []
        server.middleware.append(self)

    async def __call__(self, ctx, call_next):
        self.messages.append((ctx.method, ctx.protocol_version))
        return await call_next(ctx)

    def versions_of(self, method):
        return [version for heard, version in self.messages if heard == method]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_cancel_ends_the_work_at_the_other_end_in_the_way_of_its_era(files, mode):
    server = make_server()
    heard = Heard(server)
    ended = trio.Event()

    @server.tool()
    async def linger() -> str:
        """Wait for ever."""
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with over_https(files, server) as run:
        run.server.state.services.upstreams["web"]._mode = mode
        await run("web.echo", {"text": "x"})  # so that it has started
        assert (await run("web.linger", {}, timeout_seconds=0.5))["data"]["counts"]["cancelled"]
        with trio.fail_after(20):
            await ended.wait()
            if mode == "legacy":
                await until(lambda: heard.versions_of("notifications/cancelled"))
        (first, *others) = set(heard.versions_of("tools/call"))
        assert not others
        # In the newer era the closed stream is the cancel, and no message says it.
        assert (first >= "2026") is (mode == "auto")
        told = heard.versions_of("notifications/cancelled")
        assert told == ([first] if mode == "legacy" else [])
        assert ("initialize" in dict(heard.messages)) is (mode == "legacy")
        assert run.status("web").in_flight == 0
        assert run.status("web").restarts == 0


@pytest.mark.parametrize("reference", ["${THE_TOKEN}", "${env:THE_TOKEN}", "${file:TOKEN_FILE}"])
async def test_headers_from_the_environment_and_from_files_arrive(
    files, tmp_path, monkeypatch, reference
):
    monkeypatch.setenv("THE_TOKEN", TOKEN)
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    header = f"Bearer {reference}".replace("TOKEN_FILE", str(tmp_path / "token"))
    async with over_https(files, headers={"Authorization": header}) as run:
        assert (await run("web.echo", {"text": "x"}))["data"]["complete"]


@pytest.mark.parametrize("reference", ["${NO_TOKEN}", "${file:/gone/token}"])
async def test_a_reference_to_nothing_is_named(files, reference):
    async with over_https(files, headers={"Authorization": f"Bearer {reference}"}) as run:
        told = (await run("web.echo", {"text": "x"}))["error"]
    assert reference[2:-1].removeprefix("file:") in told


async def test_headers_are_shown_nowhere(files, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("THE_TOKEN", TOKEN)
    server = make_server()

    @server.tool()
    async def blab(fails: bool) -> CallToolResult:  # noqa: FBT001 - an argument on the wire
        """Tell what it was given."""
        text = f"you are Bearer {TOKEN}"
        return CallToolResult(
            content=[TextContent(type="text", text=text)],
            structured_content={"headers": [{TOKEN: text}]},
            is_error=fails,
        )

    async with over_https(files, server, headers={"Authorization": "Bearer ${THE_TOKEN}"}) as run:
        said = [str(await run("web.blab", {"fails": True}, {"fails": False}))]
        said += [str(await run.client.call_tool("get_concurrency_status", {}))]
        said += [repr(run.server.state.settings), str(await examine(run.server.state.settings))]
        said += [Metrics(run.server.state, connections=lambda: 0).text()[0].decode()]
        said += [str([f async for f in _upstream(run.server.state.settings, "web")])]
    wrong = {"Authorization": "Bearer ${THE_TOKEN}x"}
    async with over_https(files, headers=wrong) as run:
        refused = str(await run("web.echo", {"text": "x"}))
        said += [refused, str(run.status("web")), str(await examine(run.server.state.settings))]
        said += [str([f async for f in _upstream(run.server.state.settings, "web")])]
        with pytest.raises(UpstreamFailed) as caught:
            await run.server.state.services.upstreams["web"].call("echo", {"text": "x"})
        said += ["".join(traceback.format_exception(caught.value))]
    said.append("\n".join(r.getMessage() for r in caplog.records if r.name.startswith("trio")))
    assert "401" in refused
    assert said[0].count("***") >= 3
    assert not [text for text in said if TOKEN in text]
