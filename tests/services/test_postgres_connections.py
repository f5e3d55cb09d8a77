"""How a PostgreSQL URL leads to a server: service files, TLS."""

import pytest

from trio_tools.answers.errors import UpstreamFailed
from trio_tools.database import DatabaseConfig, Databases

IS_TLS = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
SERVICE = """\
[shop]
host={folder}
dbname=shop
user=postgres

[elsewhere]
host={folder}/none
"""


async def ask(url, sql="SELECT current_database()"):
    async with Databases([DatabaseConfig("shop", url)]) as databases:
        return (await databases.query("shop", sql)).rows[0][0]


@pytest.fixture
def service_file(postgres_shop_url, postgres_folder, tmp_path):
    file = tmp_path / "pg_service.conf"
    file.write_text(SERVICE.format(folder=postgres_folder))
    return file


@pytest.mark.parametrize(
    "url",
    ["postgresql://?service=shop", "postgresql:///?service=shop", "postgres:///?service=shop"],
)
async def test_a_service_file_of_the_environment_says_where_the_database_is(
    url, service_file, monkeypatch
):
    monkeypatch.setenv("PGSERVICEFILE", str(service_file))
    assert await ask(url) == "shop"


async def test_the_service_may_be_that_of_the_environment(service_file, monkeypatch):
    monkeypatch.setenv("PGSERVICEFILE", str(service_file))
    monkeypatch.setenv("PGSERVICE", "shop")
    assert await ask("postgresql://") == "shop"


async def test_the_usual_service_file_counts_too(service_file, monkeypatch, tmp_path):
    # libpq takes the folder of the account, and not that of HOME, so the folder of the system.
    monkeypatch.setenv("PGSYSCONFDIR", str(tmp_path))
    assert await ask("postgresql:///?service=shop") == "shop"


async def test_what_the_url_says_comes_before_the_service(service_file, monkeypatch):
    monkeypatch.setenv("PGSERVICEFILE", str(service_file))
    assert await ask("postgresql:///postgres?service=shop") == "postgres"


@pytest.mark.parametrize("service", ["elsewhere", "missing"])
async def test_a_service_that_leads_nowhere_is_the_operators_to_mend(
    service, service_file, monkeypatch, caplog
):
    monkeypatch.setenv("PGSERVICEFILE", str(service_file))
    with pytest.raises(UpstreamFailed, match="the operator should look at its URL") as error:
        await ask(f"postgresql:///?service={service}")
    assert error.value.error_code == "DATABASE_UNREACHABLE"
    reason = 'definition of service "missing" not found' if service == "missing" else "none"
    assert reason in caplog.text


async def test_tls_is_spoken_where_the_url_requires_it(postgres_tls):
    assert await ask(postgres_tls.url(sslmode="require"), IS_TLS) is True
    assert await ask(postgres_tls.url(sslmode="disable"), IS_TLS) is False


async def test_a_certificate_of_ones_own_authority_is_checked_against_the_host_name(postgres_tls):
    url = postgres_tls.url(sslrootcert=postgres_tls.authority)
    assert await ask(url, IS_TLS) is True


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda url: url.replace("shop.test", "other.test"), "does not match host name"),
        (lambda url: url.replace("authority.crt", "server.crt"), "certificate verify failed"),
        (lambda url: url.replace("authority.crt", "none.crt"), "does not exist"),
    ],
)
async def test_a_server_that_cannot_be_trusted_is_not_asked(postgres_tls, change, reason, caplog):
    url = change(postgres_tls.url(sslrootcert=postgres_tls.authority))
    with pytest.raises(UpstreamFailed, match="cannot be reached: the operator") as error:
        await ask(url)
    assert error.value.error_code == "DATABASE_UNREACHABLE"
    assert reason in caplog.text
