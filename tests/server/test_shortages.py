"""A shortage of this process is told as one, and connections leave room for all else."""

import errno
import math
import os
import resource
import socket

import psycopg
import pytest

from trio_tools.answers.error_mapping import to_failure
from trio_tools.answers.errors import ServerOverloaded
from trio_tools.answers.shortages import SHORTAGES
from trio_tools.database import DatabaseConfig, Databases
from trio_tools.files.roots import FileRoots
from trio_tools.http.fetching.fetcher import Fetcher
from trio_tools.http.fetching.types import FetchConfig, FetchRequest
from trio_tools.http.wire import connector
from trio_tools.http.wire.errors import FetchError
from trio_tools.transports.http import connections


def shortage(number=errno.EMFILE):
    return OSError(number, os.strerror(number))


def check(failure):
    assert (failure.error_code, failure.error_type) == ("LOCAL_SHORTAGE", "overloaded")
    assert failure.data["retry_after_seconds"] == 1
    assert "This server itself is short of something (Too many open files)" in failure.message
    assert "may be down" not in f"{failure.message} {failure.remediation}"
    assert "ulimit -n" in failure.remediation


def test_an_error_of_the_system_that_says_so_is_no_defect(caplog):
    check(to_failure(shortage()))
    check(to_failure(ExceptionGroup("several", [shortage()])))
    assert caplog.text == ""
    assert all(isinstance(to_failure(shortage(number)), ServerOverloaded) for number in SHORTAGES)
    assert to_failure(OSError(errno.EIO, "I/O error")).error_code == "INTERNAL"


async def test_a_url_for_which_no_socket_could_be_made_is_not_said_to_be_down(monkeypatch):
    def none_left(*_):
        raise shortage()

    config = FetchConfig(allow_private=True, ports=None)
    async with Fetcher(config) as fetcher:
        monkeypatch.setattr("trio_tools.http.wire.connector.socket.socket", none_left)
        with pytest.raises(FetchError) as failed:
            await fetcher.fetch(FetchRequest("http://127.0.0.1:9/"))
    check(failed.value)


def unknown(*_, **__):
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def without_memory(*_, **__):
    raise socket.gaierror(socket.EAI_MEMORY, "Memory allocation failure")


def without_descriptors(*_, **__):
    raise shortage()


async def without_threads(*_, **__):
    raise RuntimeError("can't start new thread")


async def look_up():
    async with Fetcher(FetchConfig(allow_private=True, ports=None)) as fetcher:
        with pytest.raises(FetchError) as failed:
            await fetcher.fetch(FetchRequest("http://somewhere.example/"))
    return failed.value


async def test_a_name_that_could_not_be_looked_up_for_a_shortage_is_not_called_unknown(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert (await look_up()).error_code == "DNS_FAILED"
    with monkeypatch.context() as changed:  # the system says so too if it can open nothing
        changed.setattr(connector.socket, "socket", without_descriptors)
        check(await look_up())
    monkeypatch.setattr(socket, "getaddrinfo", without_descriptors)
    check(await look_up())
    monkeypatch.setattr(socket, "getaddrinfo", without_memory)
    failed = await look_up()
    assert (failed.error_code, failed.error_type) == ("LOCAL_SHORTAGE", "overloaded")
    monkeypatch.setattr(connector.trio.to_thread, "run_sync", without_threads)
    failed = await look_up()
    assert (failed.error_code, failed.error_type) == ("LOCAL_SHORTAGE", "overloaded")
    assert "can't start new thread" in failed.message


async def test_a_database_to_which_no_connection_could_be_made_is_not_called_unreachable(
    monkeypatch,
):
    def none_left(*_, **__):
        raise psycopg.OperationalError("connection is bad: Too many open files")

    monkeypatch.setattr(psycopg, "connect", none_left)
    async with Databases([DatabaseConfig("shop", "postgresql://127.0.0.1/shop")]) as databases:
        with pytest.raises(ServerOverloaded) as failed:
            await databases.query("shop", "SELECT 1")
    check(failed.value)


def test_a_file_that_could_not_be_opened_for_it_is_not_said_to_be_broken(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("x")
    roots = FileRoots([tmp_path])

    def none_left(*_, **__):
        raise shortage()

    monkeypatch.setattr(os, "open", none_left)
    with pytest.raises(ServerOverloaded) as failed:
        roots.open_binary("a")
    check(failed.value)


@pytest.mark.parametrize(
    ("soft", "most"), [(1_024, 896), (128, 64), (3, 2), (resource.RLIM_INFINITY, math.inf)]
)
def test_connections_leave_descriptors_for_workers_and_databases(soft, most, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    assert connections.most_connections() == most
