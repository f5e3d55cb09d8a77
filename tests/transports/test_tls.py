import ssl

import pytest
import trio
import trustme

from tests.transports.lines import make_server
from tests.transports.requests import Reader, connect, get, http_server, modern_call


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
