"""docs/errors.md has each error code that the server gives, and no other."""

import ast
import re
from pathlib import Path

from trio_tools.http.wire.errors import Code

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "errors.md").read_text("utf-8")
TREES = [ast.parse(path.read_text("utf-8")) for path in (ROOT / "trio_tools").rglob("*.py")]


def text_of(node):
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


def codes():
    """Every literal that is given as an `error_code`, is a class's default, or is one of `Code`."""
    for node in (node for tree in TREES for node in ast.walk(tree)):
        match node:
            case ast.keyword(arg="error_code"):
                yield from text_of(node.value)
            case ast.AnnAssign(target=ast.Name(id="default_code")):
                yield from text_of(node.value)
            case _:
                pass
    yield from map(str, Code)


def documented():
    rows = re.findall(r"^\| (`[A-Z0-9_`, ]+`) \|", PAGE, re.MULTILINE)
    return [code for row in rows for code in re.findall(r"`([A-Z0-9_]+)`", row)]


def test_each_code_has_one_row():
    assert len(set(codes())) > 80
    assert set(codes()) - set(documented()) == set()
    assert len(documented()) == len(set(documented()))


def test_each_row_is_of_a_code_that_there_is():
    texts = {text for tree in TREES for node in ast.walk(tree) for text in text_of(node)}
    assert set(documented()) - texts == set()
