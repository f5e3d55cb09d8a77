"""Pages of other origins, discovery, trailing slashes, and proxies in front."""

import logging

import pytest

from tests.transports.lines import INITIALIZE
from tests.transports.requests import PING, exchange, get, http_server, open_session, post
from trio_tools.transports.http.access.forwarded import TrustedProxies

SECRET = "s" * 32
ORIGIN = "https://inspector.example.com"


def preflight(origin=ORIGIN, **headers):
    given = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,x-of-its-own",
        **headers,
    }
    return get("/mcp", **given).replace(b"GET", b"OPTIONS", 1)


async def test_a_page_of_an_allowed_origin_may_ask_and_read():
    async with http_server(allowed_origins=[ORIGIN], tokens={"me": SECRET}) as address:
        answer = await exchange(address, preflight())
        assert (answer.status, answer.body) == (204, b"")
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert "POST" in answer.headers["access-control-allow-methods"]
        allowed = answer.headers["access-control-allow-headers"].lower().split(", ")
        assert {"authorization", "mcp-session-id", "mcp-protocol-version"} <= set(allowed)
        assert "x-of-its-own" in allowed[-1]
        token = {"authorization": f"Bearer {SECRET}"}
        answer = await exchange(address, post(INITIALIZE, origin=ORIGIN, **token))
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert "Mcp-Session-Id" in answer.headers["access-control-expose-headers"]
        # It can also read why it was refused.
        answer = await exchange(address, post(PING, origin=ORIGIN))
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (401, ORIGIN)


async def test_a_page_of_another_origin_may_do_neither():
    async with http_server(allowed_origins=[ORIGIN]) as address:
        for raw in (preflight("https://evil.example"), post(PING, origin="https://evil.example")):
            answer = await exchange(address, raw)
            assert answer.status == 403
            assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["oauth-protected-resource", "oauth-protected-resource/mcp", "x"])
async def test_discovery_finds_nothing_instead_of_a_locked_door(path):
    async with http_server(tokens={"me": SECRET}) as address:
        answer = await exchange(address, get(f"/.well-known/{path}"))
        assert (answer.status, answer.json()) == (404, {"error": "not_found"})


@pytest.mark.parametrize("path", ["/mcp", "/mcp/"])
async def test_a_slash_at_the_end_makes_no_difference_and_no_redirect(path):
    async with http_server(path=path) as address:
        session = await open_session(address)
        for asked in ("/mcp", "/mcp/"):
            answer = await exchange(address, post(PING, path=asked, **session))
            assert (answer.status, answer.headers.get("location")) == (200, None)


async def test_who_asks_behind_a_trusted_proxy_is_told_in_the_log(caplog):
    caplog.set_level(logging.INFO, "trio_tools")
    forwarded = {"x-forwarded-for": "6.6.6.6, 203.0.113.7", "host": "evil.example"}
    async with http_server(trusted_proxies=["127.0.0.0/8"]) as address:
        await exchange(address, get("/mcp", **forwarded))
    async with http_server() as address:
        await exchange(address, get("/mcp", **forwarded))
    peers = [r.fields["peer"] for r in caplog.records if "refused" in r.getMessage()]
    assert peers == ["203.0.113.7", "127.0.0.1"]


@pytest.mark.parametrize(
    ("headers", "client", "scheme"),
    [
        ({}, "10.0.0.1", "http"),
        ({b"x-forwarded-for": b"1.2.3.4"}, "1.2.3.4", "http"),
        ({b"x-forwarded-for": b"9.9.9.9, 1.2.3.4, 10.0.0.2"}, "1.2.3.4", "http"),
        ({b"x-forwarded-for": b"1.2.3.4:5678", b"x-forwarded-proto": b"https"}, "1.2.3.4", "https"),
        (
            {b"forwarded": b'for=9.9.9.9, For="[2001:db8::1]:47";proto=https'},
            "2001:db8::1",
            "https",
        ),
        ({b"x-forwarded-proto": b"javascript"}, "10.0.0.1", "http"),
    ],
)
def test_the_client_is_the_last_one_that_no_trusted_proxy_is(headers, client, scheme):
    scope = {"client": ("10.0.0.1", 80), "scheme": "http"}
    found = TrustedProxies(["10.0.0.0/24"]).resolve(scope, headers)
    assert (found["client"][0], found["scheme"]) == (client, scheme)
    stranger = {"client": ("10.9.9.9", 80), "scheme": "http"}
    assert TrustedProxies(["10.0.0.0/24"]).resolve(stranger, headers) == stranger
