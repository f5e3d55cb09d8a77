"""A real PostgreSQL for the tests that want one, started once from the binaries on the machine."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

import pytest
import trustme

# The server processes that are in the midst of what the tools asked for, a transaction included.
AT_WORK = (
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'trio-tools' AND state <> 'idle'"
)


def _postgres_binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).resolve().parent if on_path else None


def _as_postgres() -> list[str]:
    """PostgreSQL refuses to run as root, so root borrows the account that its package made."""
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    return as_user if os.geteuid() == 0 else []


def _own_address() -> str:
    """Return a loopback address of this process alone: its server has the usual port there.

    Empty where the loopback interface has one address only.
    """
    if sys.platform != "linux":
        return ""
    number = os.getpid()
    return f"127.77.{number >> 8 & 255}.{number & 255}"


class PostgresServer(NamedTuple):
    """A running PostgreSQL that can be stopped and started.

    Attributes:
        folder: Of its socket.
        start: Starts it, and returns when it answers.
        stop: Ends it at once, as a crash would.
    """

    folder: Path
    start: Callable[[], None]
    stop: Callable[[], None]


@pytest.fixture(scope="session")
def postgres_folder(postgres_server: PostgresServer) -> Path:
    """The socket folder of a running PostgreSQL with the superuser `postgres`."""
    return postgres_server.folder


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL of this session."""
    binaries = _postgres_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL binaries (initdb) on this machine")
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    prefix = _as_postgres()
    # Not under tmp_path: a socket's path is short, and the other account must reach it.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    try:
        if prefix:
            shutil.chown(folder, "postgres", "postgres")

        def run(*command: str | Path) -> None:
            subprocess.run([*prefix, *command], check=True, capture_output=True, cwd=folder)

        data = folder / "data"
        run(binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync")
        options = (
            f"-k {folder} -c listen_addresses='{_own_address()}' -c fsync=off -c max_connections=30"
        )
        control = [binaries / "pg_ctl", "-D", data, "-w"]

        def start() -> None:
            run(*control, "-l", folder / "log", "-o", options, "start")

        def stop() -> None:
            run(*control, "-m", "immediate", "stop")

        start()
        try:
            yield PostgresServer(folder, start, stop)
        finally:
            stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def postgres_url(postgres_folder: Path) -> str:
    return f"postgresql://postgres@/postgres?host={postgres_folder}"


class TlsServer(NamedTuple):
    """The PostgreSQL of the tests, where it is reached over TLS."""

    address: str
    authority: Path
    """The certificate of the authority that signed the one of the server."""

    def url(self, **parameters: object) -> str:
        """Return the URL of the shop. The certificate of the server is for shop.test."""
        query = urlencode({"hostaddr": self.address, "sslmode": "verify-full", **parameters})
        return f"postgresql://postgres@shop.test/shop?{query}"


@pytest.fixture(scope="session")
def postgres_tls(postgres_shop_url: str, postgres_folder: Path) -> TlsServer:
    import psycopg  # noqa: PLC0415 - an extra

    if not _own_address():
        pytest.skip("PostgreSQL listens on a Unix socket only on this system")
    authority = trustme.CA()
    certificate = authority.issue_cert("shop.test")
    key = postgres_folder / "server.key"
    authority.cert_pem.write_to_path(postgres_folder / "authority.crt")
    certificate.cert_chain_pems[0].write_to_path(postgres_folder / "server.crt")
    certificate.private_key_pem.write_to_path(key)
    key.chmod(0o600)
    if os.geteuid() == 0:
        shutil.chown(key, "postgres", "postgres")
    with psycopg.connect(postgres_shop_url, autocommit=True) as owner:
        for name in ("cert", "key"):
            file = postgres_folder / f"server.{'crt' if name == 'cert' else 'key'}"
            owner.execute(f"ALTER SYSTEM SET ssl_{name}_file = '{file}'")
        owner.execute("ALTER SYSTEM SET ssl = on")
        owner.execute("SELECT pg_reload_conf()")
    return TlsServer(_own_address(), postgres_folder / "authority.crt")


@pytest.fixture
def pooled_url(postgres_shop_url: str, postgres_folder: Path) -> Iterator[str]:
    """The shop behind a PgBouncer in transaction mode that has two connections to the server."""
    pooler = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if pooler is None:
        pytest.skip("no pgbouncer on this machine")
    folder = Path(tempfile.mkdtemp(prefix="pb"))
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(
        f"[databases]\nshop = host={postgres_folder} user=postgres\n"
        f"[pgbouncer]\nunix_socket_dir = {folder}\nlisten_port = 6432\nauth_type = any\n"
        "pool_mode = transaction\ndefault_pool_size = 2\n"
    )
    if os.geteuid() == 0:  # it refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
    process = subprocess.Popen(
        [*_as_postgres(), pooler, configuration], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if b"process up" in line:
                break
        yield f"postgresql://postgres@/shop?host={folder}&port=6432"
    finally:
        process.terminate()
        process.communicate()
        shutil.rmtree(folder)
