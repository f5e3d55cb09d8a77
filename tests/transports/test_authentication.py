import pytest

from trio_tools.settings import HttpSettings
from trio_tools.transports.http.access.authentication import Authenticator, Denied, is_loopback

SECRET, OTHER = "s" * 32, "o" * 32


def doorkeeper(**settings):
    return Authenticator.from_settings(HttpSettings(**settings))


def headers(host="localhost", **more):
    given = {"host": host, **more}
    return [(name.encode(), value.encode()) for name, value in given.items() if value is not None]


def status_of(keeper, **given):
    try:
        return keeper.admit(headers(**given))
    except Denied as denied:
        return int(denied.status)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.com"])
def test_an_address_that_others_reach_needs_tokens_or_insecure_in_so_many_words(host):
    with pytest.raises(ValueError, match=r"set http.tokens, http.token_file or http.oauth.issuer"):
        doorkeeper(host=host)
    assert doorkeeper(host=host, insecure=True).digests == {}
    assert doorkeeper(host=host, tokens={"me": SECRET}).digests.keys() == {"me"}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_needs_nothing(host):
    assert is_loopback(host)
    assert status_of(doorkeeper(host=host)) == "anonymous"


@pytest.mark.parametrize(
    ("host", "result"),
    [
        ("localhost", "anonymous"),
        ("LOCALHOST:8000", "anonymous"),
        ("127.0.0.1:1", "anonymous"),
        ("[::1]:1", "anonymous"),
        ("[::1]", "anonymous"),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("localhost:8000.evil.example", 421),
        ("evil.example:localhost", 421),
        ("", 421),
        (None, 421),
    ],
)
def test_only_our_own_names_are_served(host, result):
    assert status_of(doorkeeper(), host=host) == result


def test_hosts_from_the_settings_are_served_with_any_port_or_the_one_named():
    keeper = doorkeeper(
        host="0.0.0.0", insecure=True, allowed_hosts=("api.example", "other.example:8443")
    )
    assert status_of(keeper, host="api.example:9") == "anonymous"
    assert status_of(keeper, host="other.example:8443") == "anonymous"
    assert status_of(keeper, host="other.example:9") == 421
    assert status_of(keeper, host="localhost") == 421


@pytest.mark.parametrize(
    ("origin", "result"),
    [
        ("http://localhost:3000", "anonymous"),
        ("https://127.0.0.1", "anonymous"),
        ("http://[::1]:5", "anonymous"),
        ("http://evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("http://evil.example/localhost", 403),
        ("http://localhost@evil.example", 403),
        ("http://[", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_only_pages_of_this_machine_may_call_a_loopback_server(origin, result):
    assert status_of(doorkeeper(), origin=origin) == result


def test_elsewhere_only_origins_from_the_settings_may_call():
    keeper = doorkeeper(
        host="0.0.0.0",
        insecure=True,
        allowed_hosts=("api.example",),
        allowed_origins=("https://app.example",),
    )
    assert status_of(keeper, host="api.example", origin="https://app.example") == "anonymous"
    assert status_of(keeper, host="api.example", origin="http://app.example") == 403
    assert status_of(keeper, host="api.example", origin="http://localhost") == 403


@pytest.mark.parametrize(
    ("authorization", "result"),
    [
        (f"Bearer {SECRET}", "alice"),
        (f"bearer  {OTHER}", "bob"),
        (None, 401),
        ("", 401),
        (SECRET, 401),
        (f"Basic {SECRET}", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        (f"Bearer {SECRET}x", 401),
        (f"Bearer {SECRET[:-1]}", 401),
    ],
)
def test_a_token_names_its_client(authorization, result):
    keeper = doorkeeper(tokens={"alice": SECRET, "bob": OTHER})
    assert status_of(keeper, authorization=authorization) == result


def test_what_a_refusal_says_tells_no_secret():
    with pytest.raises(Denied) as caught:
        doorkeeper(tokens={"alice": SECRET}).admit(headers(authorization="Bearer wrong"))
    assert caught.value.headers == {"www-authenticate": "Bearer"}
    assert SECRET not in caught.value.reason
    assert SECRET not in repr(doorkeeper(tokens={"alice": SECRET}))


def test_tokens_come_from_a_file_too(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"# ours\n\nalice {SECRET}\nbob\t{OTHER}\n")
    keeper = doorkeeper(token_file=path, tokens={"carol": "c" * 16})
    assert keeper.digests.keys() == {"alice", "bob", "carol"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alice", "line 1: write `client-name token`"),
        (f"alice {SECRET} more", "line 1: write"),
        ("alice short", "has 5 characters: use at least 16"),
        (f"alice {SECRET}\nbob {SECRET}", "two clients have the same token"),
        (f"alice {SECRET}\n\nalice {OTHER}", "line 3: client 'alice' has a token already"),
        (f"carol {SECRET}", "line 1: client 'carol' has a token already"),
        ("", "http.token_file '.*tokens' holds no token: write lines `client-name token`"),
        ("# none yet\n\n", "http.token_file '.*tokens' holds no token"),
    ],
)
def test_a_token_file_that_is_wrong_is_told_without_the_secret(tmp_path, text, message):
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        doorkeeper(token_file=path, tokens={"carol": "c" * 16})
    assert SECRET not in str(caught.value)
    assert OTHER not in str(caught.value)


def test_headers_have_a_bound_together():
    keeper = doorkeeper(max_header_bytes=100)
    assert status_of(keeper, x="y" * 50) == "anonymous"
    assert status_of(keeper, x="y" * 100) == 431


@pytest.mark.parametrize("mode", [0o666, 0o660, 0o602])
def test_a_file_of_tokens_that_others_can_change_is_refused(tmp_path, mode):
    file = tmp_path / "tokens"
    file.write_text(f"me {'x' * 32}\n")
    file.chmod(mode)
    with pytest.raises(ValueError, match=r"can be read or changed by others: .* chmod 600"):
        Authenticator.from_settings(HttpSettings(token_file=file))
    file.chmod(0o600)
    assert set(Authenticator.from_settings(HttpSettings(token_file=file)).digests) == {"me"}
