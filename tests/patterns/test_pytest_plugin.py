"""The marker `cancel_everywhere`: what it finds, where it points, and beside what it works."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
KNOWN_BAD = ROOT / "tests" / "support" / "known_bad.py"


def run_pytest(folder, *arguments):
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": "", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return ended.stdout + ended.stderr


def expected():
    """Return the line to be found in each program."""
    lines, name = {}, ""
    for number, line in enumerate(KNOWN_BAD.read_text("utf-8").splitlines(), 1):
        if started := re.match(r"async def (test_\w+)", line):
            name = started[1]
        elif line.endswith("# found"):
            lines[name] = number
    return lines


def found_in(output):
    return {
        name: int(line)
        for name, line in re.findall(
            r"^_+ (test_\w+) _+\n(?:\[gw.*\n)?cancelled at checkpoint \d+, "
            r"tests/support/known_bad\.py:(\d+)$",
            output,
            re.MULTILINE,
        )
    }


def test_it_finds_every_fault_at_its_line_and_says_how_to_see_just_this_one():
    output = run_pytest(ROOT, str(KNOWN_BAD), "-p", "nursery_patterns.pytest_plugin")
    assert found_in(output) == expected()
    assert f"{len(expected())} failed" in output
    assert len(expected()) >= 10

    name = "test_httpcore_642_a_close_that_awaits_in_a_finally"
    line = expected()[name]
    report = output.partition("cancelled at")[2].splitlines()
    assert report[0] == f" checkpoint 0, tests/support/known_bad.py:{line}"
    assert report[2:5] == [
        f"  {line - 1:4}     try:",
        f"> {line:4}         await trio.sleep(1)  # found",
        f"  {line + 1:4}     finally:",
    ]
    assert report[6] == "1 still open"
    again = f'pytest "tests/support/known_bad.py::{name}" --cancel-at 0'
    assert f"To see just this one: {again}" in report


def test_it_works_with_xdist():
    chosen = ["-k", "455 or 638", "-n", "1"]
    output = run_pytest(ROOT, str(KNOWN_BAD), "-p", "nursery_patterns.pytest_plugin", *chosen)
    faults = {name: line for name, line in expected().items() if "455" in name or "638" in name}
    assert found_in(output) == faults


GOOD = """
import pytest, trio
from nursery_patterns import run_batch

@pytest.fixture
def answer():
    return 42

@pytest.mark.cancel_everywhere
async def test_good(answer, probe, tmp_path):
    assert answer == 42 and tmp_path.is_dir()
    limiter = probe.watch(trio.CapacityLimiter(2))
    started = trio.current_time()
    await run_batch(trio.sleep, [1, 2, 3], limiter=limiter)
    assert trio.current_time() == started + 4  # virtual

@pytest.mark.cancel_everywhere
class TestMore:
    @pytest.mark.parametrize("seconds", [1, 2])
    @pytest.mark.trio
    async def test_method(self, seconds):
        await trio.sleep(seconds)

async def test_unmarked_is_left_to_pytest_trio():
    await trio.sleep(0)

@pytest.mark.cancel_everywhere
async def test_that_fails_by_itself():
    await trio.sleep(1)
    assert 1 + 1 == 3

@pytest.fixture
async def opened():
    yield 1

@pytest.mark.cancel_everywhere
async def test_with_an_async_fixture(opened):
    pass
"""


def test_it_works_beside_fixtures_parameters_classes_and_pytest_trio(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\ntrio_mode = true\nfilterwarnings = error\n")
    (tmp_path / "test_it.py").write_text(GOOD)
    output = run_pytest(tmp_path, "-p", "nursery_patterns.pytest_plugin", "--strict-markers")
    assert "4 passed" in output, output
    failed = re.findall(r"^(?:FAILED|ERROR) \S+::(\w+)", output, re.MULTILINE)
    assert failed == ["test_that_fails_by_itself", "test_with_an_async_fixture"]
    assert "assert (1 + 1) == 3" in output


def test_a_plain_test_that_is_marked_is_refused(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.cancel_everywhere\ndef test_plain(): pass\n"
    )
    output = run_pytest(tmp_path, "-p", "nursery_patterns.pytest_plugin")
    assert (
        "test_plain is marked cancel_everywhere but is not an async test: declare it with" in output
    )
