"""What of upstreams is refused at the start, and how hosts' own files are read."""

import json
import sys

import pytest
import trio

from tests.support.upstreams import small
from trio_tools.__main__ import main
from trio_tools.settings import Settings
from trio_tools.settings.groups.upstreams import check_upstreams_are_others
from trio_tools.settings.host_files import read_host_file
from trio_tools.transports.http import serve_http


@pytest.mark.parametrize(
    ("upstream", "told"),
    [
        ({}, "either a command or a url"),
        ({"command": "a", "url": "http://a"}, "either a command or a url"),
        ({"url": "http://a", "args": ["b"]}, "belong to a command"),
        ({"command": "a", "headers": {"b": "c"}}, "belong to a url"),
        ({"command": "a", "cwd": "relative"}, "absolute path"),
        ({"url": "ftp://a"}, "absolute http or https URL"),
        ({"url": "http://user:secret@a"}, "without credentials"),
        ({"command": "trio-tools", "args": ["serve"]}, "itself"),
        ({"command": "/usr/bin/python3", "args": ["-m", "trio_tools", "serve"]}, "itself"),
        ({"command": "uvx", "args": ["trio-tools", "serve"]}, "itself"),
        ({"command": "a", "max_concurrent": 0}, "greater than 0"),
        ({"command": "a", "start": "soon"}, "'lazy' or 'eager'"),
    ],
)
def test_an_upstream_that_cannot_be_is_refused_at_the_start(upstream, told):
    with pytest.raises(ValueError) as refused:
        Settings(upstreams={"it": upstream})
    assert told in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "host", "is_refused"),
    [
        ("http://127.0.0.1:8000/mcp", "127.0.0.1", True),
        ("http://LOCALHOST:8000/mcp/", "127.0.0.1", True),
        ("http://[::1]:8000/mcp", "0.0.0.0", True),
        ("http://10.0.0.7:8000/mcp", "10.0.0.7", True),
        ("https://tools.example/mcp", "127.0.0.1", True),
        ("http://127.0.0.1:8001/mcp", "127.0.0.1", False),
        ("http://127.0.0.1:8000/other", "127.0.0.1", False),
        ("http://10.0.0.8:8000/mcp", "10.0.0.7", False),
        ("http://127.0.0.1:${PORT}/mcp", "127.0.0.1", False),
    ],
)
def test_an_upstream_at_our_own_address_is_refused_at_the_start(url, host, is_refused):
    settings = Settings(
        upstreams={"it": {"url": url}},
        http={"host": host, "allowed_hosts": ("tools.example",), "insecure": True},
    )
    if not is_refused:
        check_upstreams_are_others(settings.upstreams, settings.http)
        return
    with pytest.raises(ValueError, match=r"upstreams\.it\.url is where this server itself"):
        trio.run(serve_http, settings)


@pytest.mark.parametrize("name", ["", "a.b", "1st", "two words", "x" * 65])
def test_a_name_that_cannot_begin_an_operations_name_is_refused(name):
    with pytest.raises(ValueError, match="begin with a letter"):
        Settings(upstreams={name: {"command": "a"}})


def test_secrets_of_upstreams_are_shown_nowhere():
    settings = Settings(
        upstreams={
            "a": {"command": "a", "env": {"TOKEN": "hunter2"}},
            "b": {"url": "http://b", "headers": {"Authorization": "hunter2"}},
        }
    )
    assert "hunter2" not in f"{settings!r} {settings.model_dump_json()}"


CLAUDE = """{"mcpServers": {
  "files": {"type": "stdio", "command": "npx", "args": ["-y", "server", "/srv"], "env": {"A": "b"}},
  "My Server": {"command": "my", "disabled": false, "alwaysAllow": ["x"]},
  "trio-tools": {"command": "uvx", "args": ["trio-tools", "serve"]},
  "us": {"command": "python", "args": ["-m", "trio_tools", "serve", "--upstreams", "this"]},
  "old": {"type": "sse", "url": "http://localhost/sse"},
  "off": {"command": "off", "disabled": true},
  "web": {"type": "http", "url": "https://example.org/mcp", "headers": {"X": "${TOKEN}"}}
}}"""


def test_the_file_of_claude_is_read_and_our_own_entry_skipped(tmp_path):
    path = tmp_path / ".mcp.json"
    path.write_text(CLAUDE)
    found = read_host_file(path)
    assert found.upstreams == {
        "files": {"command": "npx", "args": ["-y", "server", "/srv"], "env": {"A": "b"}},
        "My_Server": {"command": "my"},
        "web": {"url": "https://example.org/mcp", "headers": {"X": "${TOKEN}"}},
    }
    assert set(found.left_out) == {"trio-tools", "us", "old", "off"}
    assert set(Settings(upstreams=found.upstreams).upstreams) == set(found.upstreams)


def test_the_file_of_vs_code_is_read_with_its_comments_and_variables(tmp_path):
    path = tmp_path / ".vscode" / "mcp.json"
    path.parent.mkdir()
    path.write_text("""{
      // what this project needs
      "inputs": [{"id": "token", "type": "promptString"}],
      "servers": {
        "local": {"command": "node", "args": ["${workspaceFolder}/server.js", "http://a//b"],},
        /* "gone": {}, */
        "asks": {"command": "a", "env": {"T": "${input:token}"}},
      },
    }""")
    found = read_host_file(path)
    assert found.upstreams == {
        "local": {"command": "node", "args": [f"{tmp_path}/server.js", "http://a//b"]}
    }
    assert "asks the user" in found.left_out["asks"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"mcpServers": 5}', "{,", "\xff"])
def test_a_file_that_is_not_a_hosts_configuration_is_refused(tmp_path, text):
    path = tmp_path / "file.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match="name a host's file of servers"):
        read_host_file(path)


def test_the_command_upstreams_lists_tools_allowed_or_not_and_why(tmp_path, monkeypatch, capsys):
    path = tmp_path / ".mcp.json"
    given = {"small": small(), "us": {"command": "trio-tools"}, "gone": {"command": "/no/such"}}
    path.write_text(json.dumps({"mcpServers": given}))
    monkeypatch.setattr(
        sys, "argv", ["trio-tools", "upstreams", "--json", "--upstreams", str(path)]
    )
    assert main() == 1
    told = json.loads(capsys.readouterr().out)
    tools = {tool["name"]: tool for tool in told["upstreams"]["small"]["tools"]}
    assert tools["echo"]["operation"] == "small.echo"
    assert not tools["write"]["allowed"]
    assert "not declare it to be read-only" in tools["write"]["why"]
    assert "not found" in told["upstreams"]["gone"]["error"]
    assert told["left_out"] == {"us": "it is trio-tools itself"}


def test_the_command_upstreams_is_also_for_people(tmp_path, monkeypatch, capsys):
    path = tmp_path / ".mcp.json"
    path.write_text(json.dumps({"mcpServers": {"small": small()}}))
    monkeypatch.setattr(sys, "argv", ["trio-tools", "upstreams", "--upstreams", str(path)])
    assert main() == 0
    assert "yes echo" in capsys.readouterr().out
