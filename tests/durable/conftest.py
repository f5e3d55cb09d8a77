"""Servers whose operations are stored in a file of the test, and no settings from outside."""

import pytest

from tests.support.servers_in_memory import no_settings_from_outside

__all__ = ["no_settings_from_outside"]


@pytest.fixture
def postgres_url(postgres_url):
    """A database without any state: all tests of a session share one server."""
    import psycopg  # noqa: PLC0415 - an extra

    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute("DROP TABLE IF EXISTS operations, outcomes, usage, trio_tools_meta")
    return postgres_url


@pytest.fixture
def state_file(tmp_path):
    return tmp_path / "state" / "operations.db"


@pytest.fixture
def state(state_file):
    """Settings of a server whose state is that file."""
    return {"state": {"url": f"sqlite:///{state_file}"}}
