"""The package as a whole: its lazy names, and what its import costs."""

import subprocess
import sys

import pytest

import trio_tools.http


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
