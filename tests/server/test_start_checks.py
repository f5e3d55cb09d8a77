"""A server starts right or not at all: each problem is one line with its setting."""

import json
import sqlite3

import pytest

from trio_tools.command_line.main import main


@pytest.fixture
def checked(capsys, monkeypatch):
    """Run `serve --check` with settings and variables; return its status and lines."""

    def check(*words, **variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        status = main(["serve", "--check", *words])
        out, err = capsys.readouterr()
        told = (out + err).splitlines()
        return status, [line for line in told if line.startswith(("trio-tools:", "the settings"))]

    return check


def setting(name, value):
    return ("--set", f"{name}={value}")


def test_settings_whose_things_are_there_are_right(checked, tmp_path):
    sqlite3.connect(tmp_path / "shop.db").close()
    (tmp_path / "items.jsonl").write_text("1\n")
    words = (
        *("--file-root", str(tmp_path)),
        *setting("databases.shop.url", f"sqlite:///{tmp_path}/shop.db"),
        *setting("datasets.items.path", "items.jsonl"),
    )
    assert checked(*words) == (0, ["the settings are valid, and everything they name exists"])


def test_each_thing_that_is_not_there_is_one_line_with_the_setting_as_it_was_given(
    checked, tmp_path
):
    (tmp_path / "text.db").write_text("this is no database at all")
    status, lines = checked(
        *("--file-root", str(tmp_path)),
        *setting("databases.gone.url", "sqlite:////nowhere/x.db"),
        *setting("databases.later", json.dumps({"url": "sqlite:////none.db", "optional": True})),
        *setting("apis.github", '{"base_url": "https://example.org", "auth_env": "NO_SUCH"}'),
        *setting("datasets.items.path", "items.jsonl"),
        TRIO_TOOLS_DATABASES__TEXT__URL=f"sqlite:///{tmp_path}/text.db",
    )
    assert status == 2
    starts = [line.removeprefix("trio-tools: ").split()[0].rstrip(":") for line in lines]
    assert sorted(starts) == [
        "TRIO_TOOLS_DATABASES__TEXT__URL",
        "apis.github.auth_env",
        "databases.gone.url",
        "datasets.items.path",
    ]


def test_a_database_that_does_not_answer_ends_the_start_and_its_password_stays_unsaid(checked):
    pytest.importorskip("psycopg")
    url = "postgresql://me:hushhush@127.0.0.1:1/shop"
    status, (line,) = checked(*setting("databases.shop.url", url))
    assert (status, line.partition(":")[0]) == (2, "trio-tools")
    assert line.startswith("trio-tools: databases.shop.url: ")
    assert "hushhush" not in line


@pytest.mark.parametrize("words", [setting("http.token_file", "/nowhere"), ("--host", "0.0.0.0")])
def test_what_http_would_refuse_is_checked_too(checked, words):
    status, (line,) = checked("--transport", "http", *words)
    assert (status, line.startswith("trio-tools: ")) == (2, True)


def test_a_variable_that_is_wrong_is_told_by_its_own_name(checked):
    status, (line,) = checked(TRIO_TOOLS_HTTP__PORT="many")
    assert (status, line.split(":")[:2]) == (2, ["trio-tools", " TRIO_TOOLS_HTTP__PORT"])
