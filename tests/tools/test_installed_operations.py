"""Operations that installed packages offer: a real package on the path, with its metadata."""

import sys

import pytest

from tests.support.followed_operations import calling, server_with
from tests.support.servers_in_memory import values_of
from trio_tools import cli


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install the package `offering`, with one module and one entry point into it."""

    def install(code, value="offered:word_count"):
        (tmp_path / "offered.py").write_text(code, encoding="utf-8")
        info = tmp_path / "offering-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: offering\nVersion: 1.0\n", encoding="utf-8"
        )
        (info / "entry_points.txt").write_text(
            f"[trio_tools.operations]\nwords = {value}\n", encoding="utf-8"
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "offered", raising=False)

    return install


WORD_COUNT = "async def word_count(text: str) -> int:\n    return len(text.split())\n"


async def test_an_operation_of_a_package_is_one_like_others(install):
    install(WORD_COUNT)
    async with calling(server_with()) as call:
        answer = await call("batch_process", operation="word_count", items=["a b", "c"])
    assert values_of(answer["data"]) == [2, 1]


@pytest.mark.parametrize(
    ("code", "value", "reason"),
    [
        ("import no_such_module", "offered:f", "No module named 'no_such_module'"),
        ("raise RuntimeError('no licence')", "offered:f", "no licence"),
        ("", "offered:f", "has no attribute 'f'"),
        ("f = 3", "offered:f", "3 is no operation"),
        ("def f(text): ...", "offered:f", "is no operation"),
    ],
)
def test_one_that_cannot_be_loaded_ends_the_start_in_a_line(
    install, monkeypatch, capsys, code, value, reason
):
    monkeypatch.setattr(cli, "configure_logging", lambda *_: None)  # which would be of all tests
    install(code, value)
    assert cli.main(["tools"]) == 2
    told = capsys.readouterr().err
    assert reason in told
    assert "operation 'words' of the package offering cannot be loaded from 'offered:f'" in told
    assert told.count("\n") == 1
