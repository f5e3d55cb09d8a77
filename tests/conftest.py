"""What all tests share."""

import gc
import os
import signal
import sys
import tempfile

import pytest
from hypothesis import HealthCheck, settings

from tests.support.postgres import (
    pooled_url,
    postgres_folder,
    postgres_server,
    postgres_tls,
    postgres_url,
)

__all__ = ["pooled_url", "postgres_folder", "postgres_server", "postgres_tls", "postgres_url"]

# A run that a shell has put into the background ignores Ctrl-C, and so would the processes that it
# starts, some of them in order to interrupt them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The suite starts several hundred interpreters. Compiling our modules anew in each would take half
# of their time, which is what they do where the environment forbids to keep compiled modules.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# What tests store is theirs: no test, and no process that one starts, comes near the user's folder.
# By default nothing is stored, so that tests run on a virtual clock, which waits for no thread.
_folder = tempfile.TemporaryDirectory(prefix="trio-tools-tests-")
os.environ["XDG_STATE_HOME"] = _folder.name
os.environ["TRIO_TOOLS_STATE__URL"] = "memory"

# The machine that runs the tests may be busy: an example is never too slow, only too many are.
settings.register_profile("default", deadline=None, max_examples=60)
settings.register_profile(
    "thorough", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_collection_finish() -> None:
    """Spare each full garbage collection the half million objects that pytest and imports made.

    It would take longer than the longest step that a task of the server may take.
    """
    gc.collect()
    gc.freeze()


# What starts processes, servers or databases; CONTRIBUTING.md has the time that each part takes.
SLOW = (
    "tests/processes/",
    "tests/patterns/test_offload.py",
    "tests/patterns/test_pytest_plugin.py",
    "tests/server/test_cli.py",
    "tests/services/test_inference.py",
    "tests/services/test_postgres.py",
    "tests/services/test_sqlite.py",
    "tests/test_docs.py::test_an_example_runs",
    "tests/test_portability.py",
    "tests/tools/test_bad_input.py",
    "tests/tools/test_both_forms.py",
    "tests/tools/test_cancel.py",
    "tests/tools/test_caps.py",
    "tests/tools/test_postgres.py",
    "tests/tools/test_upstreams.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow ones, so that `-m "not slow"` chooses the others."""
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker("slow")
