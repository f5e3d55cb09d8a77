"""The package as a whole: its layers, its lazy names, what its import costs."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import trio_tools.http

FOLDER = Path(trio_tools.http.__file__).parent
LAYERS = re.findall(r"^    (\w+)  ", trio_tools.http.__doc__, re.MULTILINE)


def test_the_map_names_every_module():
    assert sorted(LAYERS) == sorted(path.stem for path in FOLDER.glob("[a-z]*.py"))


@pytest.mark.parametrize("name", LAYERS)
def test_a_module_imports_only_from_those_above_it(name):
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    imported = {
        node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module
    } | {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    ours = {
        module.rpartition(".")[2] for module in imported if module.startswith("trio_tools.http")
    }
    assert ours <= set(LAYERS[: LAYERS.index(name)])
    rest = {module for module in imported if module.startswith("trio_tools")}
    assert {m for m in rest if not m.startswith("trio_tools.http")} <= {"trio_tools.errors"}
    if name != "transport":
        assert "httpx" not in imported
    assert not {module.partition(".")[0] for module in imported} & {"mcp", "anyio", "asyncio"}


@pytest.mark.parametrize("name", trio_tools.http.__all__)
def test_every_public_name_loads(name):
    assert getattr(trio_tools.http, name).__name__ == name
    assert trio_tools.http._HOME_OF[name]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        trio_tools.http.Nothing  # noqa: B018 - the access is the test


def test_a_fetcher_needs_neither_httpx_nor_trafilatura():
    code = (
        "import sys; from trio_tools.http import Fetcher, ApiClient; Fetcher(); "
        "print({'httpx', 'trafilatura', 'brotli', 'backports.zstd', 'certifi'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
