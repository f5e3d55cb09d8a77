"""Access tokens of a real authorization server: what is taken, and in which words refused."""

import base64
import hashlib
import hmac
import json
import re
import time
from functools import partial

import jwt
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.authorization_server import authorization_server, claims
from tests.transports.requests import exchange, get, modern_call, open_session, post
from trio_tools.server import create_server
from trio_tools.server.policy.scopes import granted
from trio_tools.settings import Settings
from trio_tools.settings.groups.oauth import OAuthSettings
from trio_tools.transports import serve_http
from trio_tools.transports.http.oauth import keys as keys_module
from trio_tools.transports.http.oauth.keys import IssuerKeys, NoKeys

AUDIENCE = "http://localhost/mcp"
METADATA = "http://localhost/.well-known/oauth-protected-resource/mcp"
STATIC = "s" * 32
SCOPES = {"web": "tools:web", "batch": "tools:batch", "admin": "ops"}


@pytest.fixture(scope="module")
def issuer():
    with authorization_server(AUDIENCE) as running:
        yield running


class Served:
    def __init__(self, address):
        self.address = address

    async def ask(self, token, raw=get, path="/dashboard/nothing", **headers):
        shown = {"authorization": f"Bearer {token}"} if token is not None else {}
        return await exchange(self.address, raw(path, **shown, **headers))

    async def status(self, token):
        """404 for a token that is taken: there is nothing at that path."""
        return (await self.ask(token)).status

    async def call(self, token, tool, **arguments):
        headers = {"authorization": f"Bearer {token}"}
        return await exchange(self.address, modern_call(1, tool, headers=headers, **arguments))


@pytest.fixture
async def served(issuer, nursery):
    oauth = {"issuer": issuer.url, "audience": AUDIENCE, "tool_scopes": SCOPES}
    http = {"port": 0, "tokens": {"static": STATIC}, "oauth": oauth}
    settings = Settings(http=http)
    serve = partial(serve_http, settings, server=create_server(settings), read_settings=Settings)
    with trio.fail_after(60):
        yield Served(await nursery.start(serve))
    nursery.cancel_scope.cancel()


async def token_of(issuer, *args):
    return await trio.to_thread.run_sync(issuer.token, *args)


def signed(issuer, *, key=None, alg="RS256", kid=None, **changes):
    key = key or issuer.keys[-1].as_pem(private=True)
    kid = kid or issuer.keys[-1].kid
    return jwt.encode(claims(issuer, **changes), key, algorithm=alg, headers={"kid": kid})


async def test_a_client_finds_the_authorization_server_and_gets_in(issuer, served):
    refused = await served.ask(None)
    assert refused.status == 401
    challenge = refused.headers["www-authenticate"]
    assert challenge == f'Bearer resource_metadata="{METADATA}"'
    place = re.search('resource_metadata="http://localhost([^"]*)"', challenge)[1]
    for path in (place, "/.well-known/oauth-protected-resource"):
        told = await served.ask(None, path=path)
        assert (told.status, told.headers["content-type"]) == (200, "application/json")
        assert json.loads(told.body) == {
            "resource": AUDIENCE,
            "resource_name": "trio-tools",
            "authorization_servers": [issuer.url],
            "scopes_supported": ["tools:web", "tools:batch", "ops"],
            "bearer_methods_supported": ["header"],
        }
    token = await token_of(issuer)
    status = await served.call(token, "get_concurrency_status")
    assert status.status == 200
    assert await served.status(STATIC) == 404
    assert await served.status("x" * 32) == 401


async def test_the_subject_is_the_client_and_owns_what_it_starts(issuer, served):
    alice, bob = await token_of(issuer, "alice"), await token_of(issuer, "bob", "tools:batch")
    asked = {"operation": "hash", "items": [{"text": "x"}], "operation_id": "of-bob"}
    done = (await served.call(bob, "batch_process", **asked)).json()["result"]
    assert done["structuredContent"]["success"], done
    for token, found in ((bob, True), (alice, False)):
        read = (await served.call(token, "get_operation", operation_id="of-bob")).json()["result"]
        assert read["structuredContent"]["success"] is found


async def test_a_session_belongs_to_the_subject_that_opened_it(issuer, served):
    alice, bob = await token_of(issuer, "alice"), await token_of(issuer, "bob")
    session = await open_session(served.address, authorization=f"Bearer {alice}")
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    assert (await exchange(served.address, post(ping, **session))).status == 200
    stolen = {**session, "authorization": f"Bearer {bob}"}
    assert (await exchange(served.address, post(ping, **stolen))).status == 404


async def test_a_family_of_tools_asks_for_its_scope(issuer, served):
    poor, rich = await token_of(issuer), await token_of(issuer, "alice", "tools:web tools:batch")
    fetch = {"urls": ["http://127.0.0.1:1/"]}
    refused = await served.call(poor, "fetch_urls", **fetch)
    assert refused.status == 403
    assert refused.headers["www-authenticate"] == (
        'Bearer error="insufficient_scope", '
        'error_description="The access token lacks the scope tools:web.", scope="tools:web", '
        f'resource_metadata="{METADATA}"'
    )
    assert (await served.call(rich, "fetch_urls", **fetch)).status == 200
    assert (await served.call(STATIC, "fetch_urls", **fetch)).status == 200
    assert (await served.call(poor, "compute_hash", text="x")).status == 200


async def test_a_batch_opens_no_operation_that_its_own_scope_closes(issuer, served):
    token = await token_of(issuer, "alice", "tools:batch")
    asked = {"operation": "fetch", "items": ["http://127.0.0.1:1/"]}
    assert (await served.call(token, "batch_process", **asked)).status == 403
    # A body that reads differently to whoever looks first is judged by what is called.
    body = modern_call(1, "get_concurrency_status", headers={"authorization": f"Bearer {token}"})
    body = body.replace(b'"arguments": {}', b'"arguments": {}, "name": "fetch_urls"')
    length = len(body.partition(b"\r\n\r\n")[2])
    body = re.sub(rb"content-length: \d+", b"content-length: %d" % length, body)
    body = body.replace(b"mcp-name: get_concurrency_status", b"mcp-name: fetch_urls")
    assert (await exchange(served.address, body)).status == 403


async def test_the_policy_around_a_call_refuses_it_too():
    oauth = {"issuer": "https://x", "audience": "y", "tool_scopes": SCOPES}
    server = create_server(Settings(http={"oauth": oauth}))
    for scopes, code in (((), "INSUFFICIENT_SCOPE"), (SCOPES.values(), None)):
        with granted(frozenset(scopes)):
            result = await server.call_tool("fetch_urls", {"urls": ["http://127.0.0.1:1/"]})
        assert result.structured_content["data"].get("error_code") == code
    both = frozenset({"tools:batch"})
    with granted(both):
        asked = {"operation": "fetch", "items": ["http://127.0.0.1:1/"]}
        result = await server.call_tool("batch_process", asked)
    assert result.structured_content["data"]["error_code"] == "INSUFFICIENT_SCOPE"


async def test_operators_doors_ask_for_the_scope_of_admin(issuer, served):
    poor, rich = await token_of(issuer), await token_of(issuer, "alice", "ops")
    for path, raw in (("/metrics", get), ("/reload", partial_post)):
        assert (await served.ask(poor, raw, path)).status == 403
        assert (await served.ask(rich, raw, path)).status in {200, 409}
        assert (await served.ask(None, raw, path)).status == 401
        evil = {"origin": "https://evil.example"}
        assert (await served.ask(rich, raw, path, **evil)).status == 403


def partial_post(path, **headers):
    return post(b"", path=path, **headers)


def unsigned(issuer):
    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'none', 'kid': issuer.keys[-1].kid})}.{part(claims(issuer))}."


def signed_with_the_public_key(issuer):
    """A shared secret that everybody knows: the text of the public key."""
    public = issuer.keys[-1].as_pem(private=False)
    head, body, _ = signed(issuer).split(".")
    header = {"alg": "HS256", "kid": issuer.keys[-1].kid}
    head = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    mac = hmac.new(public, f"{head}.{body}".encode(), hashlib.sha256).digest()
    return f"{head}.{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


PAST = int(time.time()) - 3600
OTHER_RSA = rsa.generate_private_key(65537, 2048)
OTHER_EC = ec.generate_private_key(ec.SECP256R1())


BAD = (
    (lambda i: signed(i, exp=PAST), "has expired"),
    (lambda i: signed(i, aud="http://localhost/other"), "another audience"),
    (lambda i: signed(i, iss="https://evil.example"), "another issuer"),
    (lambda i: signed(i, nbf=PAST + 7200), "not valid yet"),
    *((lambda i, n=n: signed(i, **{n: None}), "claim|audience") for n in ("exp", "aud")),
    (lambda i: signed(i, sub=None), "lacks a claim"),
    (lambda i: signed(i, sub=""), "subject"),
    (lambda i: signed(i, sub="static"), "name of another client"),
    (lambda i: signed(i, sub="anonymous"), "name of another client"),
    (unsigned, "algorithm that is not accepted"),
    (signed_with_the_public_key, "algorithm that is not accepted"),
    (lambda i: signed(i, alg="RS512"), "algorithm that is not accepted"),
    (lambda i: signed(i, key=OTHER_RSA), "not signed with a key"),
    (lambda i: signed(i, key=OTHER_EC, alg="ES256"), "not signed with a key"),
    (lambda i: signed(i, alg="PS256"), "not signed with a key"),
    (lambda i: signed(i) + "x", "not signed with a key|not a signed JWT"),
    (lambda i: "not.a.token", "not a signed JWT"),
    (lambda i: "x" * 20_000, "too long"),
    (lambda i: "ünïcode", "not a signed JWT"),
)


async def test_a_bad_token_is_refused_and_told_why(issuer, served):
    for make, why in BAD:
        token = make(issuer).encode().decode("latin-1")
        refused = await served.ask(token)
        assert refused.status == 401
        assert re.search(why, refused.body.decode())
        assert 'error="invalid_token"' in refused.headers["www-authenticate"]
        assert refused.headers["www-authenticate"].isascii()


async def test_a_new_key_is_found_and_unknown_ones_cost_one_fetch(issuer, served, monkeypatch):
    assert await served.status(await token_of(issuer)) == 404
    monkeypatch.setattr(keys_module, "ASK_PAUSE_SECONDS", 600.0)
    served_keys = issuer.asked
    issuer.rotate()
    # The fetch at the start was just now, so the next one is not due at once.
    assert await served.status(await token_of(issuer)) in {401, 404}
    flood = [signed(issuer, kid=f"unknown-{number}") for number in range(10)]
    async with trio.open_nursery() as asking:
        for token in flood:
            asking.start_soon(served.status, token)
    assert issuer.asked <= served_keys + 1


# ----- keys, on a virtual clock


class Publisher:
    """Where keys are fetched from: counts, takes time, and fails as it is told."""

    def __init__(self, *kids):
        self.kids, self.fetches, self.seconds, self.error = list(kids), 0, 1.0, None

    async def __call__(self, url):
        self.fetches += 1
        await trio.sleep(self.seconds)
        if self.error:
            raise self.error
        public = OTHER_RSA.public_key()
        entry = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(public))
        return {"keys": [{**entry, "kid": kid} for kid in self.kids]}


def keys_over(publisher):
    oauth = OAuthSettings(issuer="https://i", audience="a", jwks_url="https://i/keys")
    return IssuerKeys(oauth, publisher)


async def test_all_who_wait_for_the_first_keys_share_one_fetch(autojump_clock):
    publisher = Publisher("one")
    keys = keys_over(publisher)
    async with keys.running(), trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(keys.find, "one")
    assert (publisher.fetches, trio.current_time()) == (1, 1.0)


async def test_a_flood_of_unknown_keys_costs_a_fetch_in_thirty_seconds(autojump_clock):
    publisher = Publisher("one")
    keys = keys_over(publisher)
    async with keys.running():
        await trio.sleep(31)
        for number in range(1_000):
            assert await keys.find(f"unknown-{number}") is None
            await trio.sleep(0.1)
    assert publisher.fetches == 1 + 4  # in 100 s


async def test_a_rotated_key_is_found_by_the_first_token_that_has_it(autojump_clock):
    publisher = Publisher("one")
    keys = keys_over(publisher)
    async with keys.running():
        await trio.sleep(40)
        publisher.kids = ["two"]
        began = trio.current_time()
        assert await keys.find("two") is not None
        assert trio.current_time() - began == publisher.seconds
        assert await keys.find("one") is None


async def test_keys_are_fetched_again_without_anybody_waiting(autojump_clock):
    publisher = Publisher("one")
    keys = keys_over(publisher)
    async with keys.running():
        await trio.sleep(2)
        publisher.kids = []
        publisher.error = OSError("down")
        began = trio.current_time()
        await trio.sleep(3 * keys_module.REFRESH_SECONDS)
        assert await keys.find("one") is not None  # kept while the issuer is down
        assert publisher.fetches >= 3
        await trio.sleep(keys_module.KEEP_SECONDS)
        with pytest.raises(NoKeys):
            await keys.find("one")
        publisher.error, publisher.kids = None, ["new"]
        await trio.sleep(keys_module.REFRESH_SECONDS)
        assert await keys.find("new") is not None
        assert trio.current_time() > began


async def test_a_cancelled_request_leaves_the_fetch_to_the_others(autojump_clock):
    publisher = Publisher("one")
    keys = keys_over(publisher)
    async with keys.running(), trio.open_nursery() as nursery:
        with trio.move_on_after(0.5):
            nursery.start_soon(keys.find, "one")
            await keys.find("one")
        assert await keys.find("one") is not None
    assert publisher.fetches == 1


async def test_an_issuer_that_does_not_answer_keeps_nobody_waiting_for_long(autojump_clock):
    publisher = Publisher("one")
    publisher.seconds = 3600
    keys = keys_over(publisher)
    async with keys.running():
        with pytest.raises(NoKeys):
            await keys.find("one")
        assert trio.current_time() == keys_module.WAIT_SECONDS


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"audience": "x"}, "without issuer"),
        ({"issuer": "https://x"}, "without audience"),
        ({"issuer": "http://x.example", "audience": "x"}, "with https"),
        ({"issuer": "https://user@x.example", "audience": "x"}, "without credentials"),
        ({"issuer": "https://x", "audience": "x", "scopes": ["a b"]}, "without blanks"),
        ({"issuer": "https://x", "audience": "x", "algorithms": ["HS256"]}, "RS256"),
        ({"issuer": "https://x", "audience": "x", "algorithms": ["none"]}, "RS256"),
        ({"issuer": "https://x", "audience": "x", "tool_scopes": {"wep": "x"}}, "web"),
    ],
)
def test_settings_that_would_let_the_wrong_ones_in_are_refused(given, told):
    with pytest.raises(ValueError, match=told):
        OAuthSettings.model_validate(given)


async def test_with_oauth_alone_nobody_is_anonymous(issuer, nursery):
    oauth = {"issuer": issuer.url, "audience": AUDIENCE, "scopes": ["mcp"]}
    settings = Settings(http={"port": 0, "host": "127.0.0.1", "oauth": oauth})
    address = await nursery.start(partial(serve_http, settings, server=create_server(settings)))
    served = Served(address)
    refused = await served.ask(None)
    assert refused.status == 401
    assert 'scope="mcp"' in refused.headers["www-authenticate"]
    assert await served.status(await token_of(issuer)) == 403
    assert await served.status(await token_of(issuer, "alice", "mcp more")) == 404
    metrics = await served.ask(await token_of(issuer, "alice", "mcp"), path="/metrics")
    assert metrics.status == 403  # no scope opens it
    nursery.cancel_scope.cancel()
