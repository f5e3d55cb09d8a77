"""Processes that end with the process that guards them."""

import os
import subprocess
import sys

import pytest

from nursery_patterns._process_guard import ProcessGuard, children_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has pidfd_open")

GUARDING = """
import sys, time
from nursery_patterns._process_guard import ProcessGuard
guard = ProcessGuard([int(sys.argv[1])])
print("guarding", flush=True)
time.sleep(600)
"""


@pytest.fixture
def sleeper():
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def test_a_guarded_process_is_killed_when_its_guard_is_closed(sleeper):
    ended = subprocess.Popen(["true"])
    ended.wait()
    guard = ProcessGuard([sleeper.pid, ended.pid])
    assert sleeper.poll() is None
    guard.close()
    assert sleeper.wait(60) == -9
    guard.close()  # a second time changes nothing


def test_a_guarded_process_is_killed_when_the_guarding_one_is_killed(sleeper):
    command = [sys.executable, "-c", GUARDING, str(sleeper.pid)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as guarding:
        assert guarding.stdout.readline() == b"guarding\n"
        assert sleeper.poll() is None
        guarding.kill()
    assert sleeper.wait(60) == -9


def test_the_children_of_a_process_are_found_by_name(sleeper):
    assert dict(children_of(os.getpid()))[sleeper.pid] == "sleep"
    assert dict(children_of(sleeper.pid)) == {}
