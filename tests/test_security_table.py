"""The table of SECURITY.md names tests that there are."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TABLE = [
    line.strip("| ").split(" | ")
    for line in (ROOT / "SECURITY.md").read_text("utf-8").splitlines()
    if line.startswith("| ")
][1:]


def functions_of(path):
    tree = ast.parse((ROOT / "tests" / path).read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if hasattr(node, "name")}


@pytest.mark.parametrize(("threat", "protection", "tests"), TABLE)
def test_each_threat_has_a_protection_and_tests_that_there_are(threat, protection, tests):
    assert threat
    assert protection
    named = [part.split(":") for part in tests.split("; ")]
    for path, names in named:
        functions = re.findall(r"`(test_\w+)`", names)
        assert functions
        assert {*functions} <= functions_of(path.strip(" `"))


def test_no_threat_stands_there_twice():
    threats = [row[0] for row in TABLE]
    assert len({*threats}) == len(threats) > 30
