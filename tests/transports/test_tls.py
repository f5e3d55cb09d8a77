import ssl

import pytest
import trio
import trustme
from cryptography.hazmat.primitives import serialization
from pydantic import ValidationError

from tests.transports.lines import make_server
from tests.transports.requests import Reader, connect, get, http_server, modern_call
from trio_tools.settings import HttpSettings, Settings
from trio_tools.transports.http.tls import tls_context


@pytest.fixture
def authority():
    return trustme.CA()


@pytest.fixture
def certificate(authority, tmp_path):
    issued = authority.issue_cert("localhost")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.private_key_pem.write_to_path(key)
    for part in issued.cert_chain_pems:
        part.write_to_path(cert, append=True)
    return {"tls_cert_file": cert, "tls_key_file": key}


async def test_https_is_served_from_certificate_files(authority, certificate):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with http_server(**certificate) as address:
        assert address.url.startswith("https://")
        async with await connect(address) as raw:
            stream = trio.SSLStream(raw, context, server_hostname="localhost")
            await stream.send_all(modern_call(1, "echo", text="ü") + get("/healthz"))
            reader = Reader(stream)
            answer = (await reader.read()).json()
            assert answer["result"]["content"][0]["text"] == "ü"
            assert (await reader.read()).body == b"alive\n"


async def test_a_client_that_speaks_no_tls_or_none_at_all_holds_nothing_up(authority, certificate):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with http_server(**certificate, grace_seconds=0.2) as address:
        async with await connect(address) as plain, await connect(address):
            await plain.send_all(get("/healthz"))
            assert b"HTTP" not in await plain.receive_some()
            async with await connect(address) as raw:
                stream = trio.SSLStream(raw, context, server_hostname="localhost")
                await stream.send_all(get("/healthz"))
                assert (await Reader(stream).read()).status == 200
        started = trio.current_time()
    assert trio.current_time() - started < 0.2 + 1


async def test_a_key_without_a_certificate_is_a_mistake(certificate):
    del certificate["tls_cert_file"]
    with pytest.RaisesGroup(
        pytest.RaisesExc(ValueError, match="tls_cert_file: set both"), flatten_subgroups=True
    ):
        async with http_server(make_server(), **certificate):
            pass


PASSWORD = "correct horse battery staple"


@pytest.fixture
def encrypted(certificate):
    """The same certificate, with a key that a password opens."""
    path = certificate["tls_key_file"]
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(PASSWORD.encode()),
        )
    )
    return certificate


@pytest.fixture
def password_file(tmp_path):
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    return path


async def answers(authority, **settings):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with http_server(**settings) as address, await connect(address) as raw:
        stream = trio.SSLStream(raw, context, server_hostname="localhost")
        await stream.send_all(get("/healthz"))
        return (await Reader(stream).read()).status == 200


async def test_a_key_with_a_password_is_opened_with_it(authority, encrypted, password_file):
    assert await answers(authority, **encrypted, tls_key_password=PASSWORD)
    assert await answers(authority, **encrypted, tls_key_password_file=password_file)


async def test_the_password_may_come_from_the_environment(authority, encrypted, monkeypatch):
    monkeypatch.setenv("TRIO_TOOLS_HTTP__TLS_KEY_PASSWORD", PASSWORD)
    assert await answers(authority, **encrypted)


async def test_a_password_for_a_key_without_one_does_no_harm(authority, certificate):
    assert await answers(authority, **certificate, tls_key_password=PASSWORD)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"key\.pem is encrypted: set http\.tls_key_password_file"),
        ({"tls_key_password": "wrong"}, r"key\.pem does not open with the password"),
        ({"tls_key_password": ""}, r"key\.pem does not open with the password"),
    ],
)
def test_a_password_that_is_missing_or_wrong_is_told_and_not_asked_for(
    given, message, encrypted, monkeypatch
):
    # OpenSSL would ask on the terminal, and wait there.
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ValueError, match=message) as caught:
        tls_context(HttpSettings(**encrypted, **given))
    assert "wrong" not in str(caught.value)


def test_the_password_shows_nowhere(encrypted, caplog):
    settings = Settings(http={**encrypted, "tls_key_password": PASSWORD})
    assert tls_context(settings.http) is not None
    with pytest.raises(ValidationError) as mistyped:
        Settings(http={"tls_key_pasword": PASSWORD, "tls_key_password": [PASSWORD]})
    for shown in (settings, settings.http, settings.model_dump_json(), mistyped.value, caplog.text):
        assert PASSWORD not in f"{shown} {shown!r}"


def test_what_belongs_together_is_set_together(authority, certificate, password_file, tmp_path):
    def refused(message, **settings):
        with pytest.raises(ValueError, match=message):
            tls_context(HttpSettings(**settings))

    refused("tls_key_password is set without http.tls_cert_file", tls_key_password=PASSWORD)
    both = {"tls_key_password": PASSWORD, "tls_key_password_file": password_file}
    refused("not both", **certificate, **both)
    other = tmp_path / "other.pem"
    authority.issue_cert("localhost").private_key_pem.write_to_path(other)
    refused("does not belong to the certificate", **{**certificate, "tls_key_file": other})
    refused("must hold a certificate chain", **{**certificate, "tls_cert_file": password_file})
