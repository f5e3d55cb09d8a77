"""What all tests share."""

import gc
import os
import signal
import tempfile

from hypothesis import HealthCheck, settings

from tests.support.postgres import pooled_url, postgres_folder, postgres_url

__all__ = ["pooled_url", "postgres_folder", "postgres_url"]

# A run that a shell has put into the background ignores Ctrl-C, and so would the processes that it
# starts, some of them in order to interrupt them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

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
