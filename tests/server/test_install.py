# ruff: noqa: E501 - files stand on one line, as their bytes are the point
"""`trio-tools install` and `uninstall`: the entry is there, and every other byte is as it was."""

import json
import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_tools.command_line.commented_json import NotEditable
from trio_tools.command_line.host_answers import advice_for
from trio_tools.command_line.host_files import (
    add_to_json,
    add_to_toml,
    entry_in,
    remove_from_json,
    remove_from_toml,
)
from trio_tools.command_line.hosts import HOSTS
from trio_tools.command_line.main import _COMMANDS, main
from trio_tools.settings import Settings

ENTRY = {"command": "/opt/bin/trio-tools", "args": ["serve", "--file-root", "/srv/ü"]}

# Files as hosts and people write them, with the container that each host reads.
JSON_FILES = {
    "empty object": "{}",
    "empty container": '{"mcpServers": {}}\n',
    "one line": '{"mcpServers": {"a": {"command": "x"}}, "theme": "dark"}',
    "two blanks": '{\n  "theme": "dark",\n  "mcpServers": {\n    "a": {\n      "command": "x"\n    }\n  }\n}\n',
    "tabs": '{\n\t"mcpServers": {\n\t\t"a": {"command": "x"}\n\t}\n}\n',
    "four blanks, no servers": '{\n    "theme": "dark"\n}',
    "line ends of Windows": '{\r\n  "mcpServers": {\r\n    "a": {"command": "x"}\r\n  }\r\n}\r\n',
    "comments": '// mine\n{\n  /* servers, } and { */\n  "mcpServers": {\n    "a": {"command": "//x"} // last\n  }\n}\n',
    "trailing commas": '{\n  "mcpServers": {\n    "a": {"args": ["x",],},\n  },\n}\n',
    "a mark": '\ufeff{\n  "mcpServers": {\n    "a": {"command": "x"}\n  }\n}\n',
    "quotes and braces": '{"x": "{\\"mcpServers\\": {}}", "mcpServers": {"a": {"command": "\\\\"}}}',
    "other scripts": '{"größe": "日本", "mcpServers": {"a": {"command": "é"}}}',
}


@pytest.mark.parametrize("before", JSON_FILES.values(), ids=JSON_FILES)
def test_an_entry_comes_and_goes_and_leaves_each_other_byte(before):
    after = add_to_json(before, "mcpServers", "trio-tools", ENTRY)
    assert entry_in(after, "mcpServers", "trio-tools", toml=False) == ENTRY
    assert entry_in(after, "mcpServers", "a", toml=False) == entry_in(
        before, "mcpServers", "a", toml=False
    )
    assert remove_from_json(after, "mcpServers", "trio-tools") == before


@pytest.mark.parametrize("before", JSON_FILES.values(), ids=JSON_FILES)
def test_an_entry_that_is_there_is_replaced_in_its_place(before):
    old = add_to_json(before, "mcpServers", "trio-tools", {"command": "old"})
    new = add_to_json(old, "mcpServers", "trio-tools", ENTRY)
    assert entry_in(new, "mcpServers", "trio-tools", toml=False) == ENTRY
    assert remove_from_json(new, "mcpServers", "trio-tools") == before


def test_an_entry_is_indented_as_its_neighbours_are():
    after = add_to_json(
        '{\n  "mcpServers": {\n    "a": {}\n  }\n}\n', "mcpServers", "b", {"c": [1]}
    )
    assert after == (
        '{\n  "mcpServers": {\n    "a": {},\n'
        '    "b": {\n      "c": [\n        1\n      ]\n    }\n  }\n}\n'
    )


def test_an_entry_in_the_middle_is_removed_with_its_comma():
    text = '{\n  "mcpServers": {\n    "b": {},\n    "trio-tools": {},\n    "a": {}\n  }\n}\n'
    expected = '{\n  "mcpServers": {\n    "b": {},\n    "a": {}\n  }\n}\n'
    assert remove_from_json(text, "mcpServers", "trio-tools") == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "expected an object"),
        ('{"mcpServers": []}', "expected an object under 'mcpServers'"),
        ('{"a": 1', "expected a comma or }, found the end of the file"),
        ('{\n  "a" 1}', "line 2, column 7: expected a colon"),
        ('{"a": 1} x', "expected the end of the file"),
        ("{a: 1}", "expected a name in quotes"),
    ],
)
def test_a_file_that_is_not_json_is_refused_with_the_place(text, words):
    with pytest.raises(NotEditable, match=words):
        add_to_json(text, "mcpServers", "trio-tools", ENTRY)


_names = st.text(st.characters(codec="utf-8"), max_size=8)
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(_names, _values, max_size=3),
    st.none() | st.dictionaries(_names.filter(lambda n: n != "me"), _values, max_size=3),
    st.sampled_from([None, 1, 2, "\t"]),
    st.booleans(),
)
def test_any_json_comes_through(others, servers, indent, ascii_only):
    whole = {k: v for k, v in others.items() if k != "servers"}
    whole |= {} if servers is None else {"servers": servers}
    before = json.dumps(whole, indent=indent, ensure_ascii=ascii_only)
    after = add_to_json(before, "servers", "me", ENTRY)
    assert json.loads(after) == {**whole, "servers": {**(servers or {}), "me": ENTRY}}
    assert remove_from_json(after, "servers", "me") == before


TOML_FILES = {
    "empty": "",
    "others": 'model = "x"\n\n[mcp_servers.a]\ncommand = "y" # mine\n',
    "no line end": '[mcp_servers.a]\ncommand = "y"',
    "tables behind": '[a]\nb = 1\n\n[mcp_servers.a.env]\nX = "1"\n',
    "arrays": "list = [\n  1,\n  2,\n]\n",
}


@pytest.mark.parametrize("before", TOML_FILES.values(), ids=TOML_FILES)
def test_an_entry_comes_and_goes_in_toml_as_well(before):
    after = add_to_toml(before, "mcp_servers", "trio-tools", ENTRY)
    assert tomllib.loads(after)["mcp_servers"]["trio-tools"] == ENTRY
    assert add_to_toml(after, "mcp_servers", "trio-tools", ENTRY) == after
    assert remove_from_toml(after, "mcp_servers", "trio-tools") == before


def test_toml_tables_of_the_entry_go_with_it_and_others_stay():
    text = '[x]\na = 1\n\n[mcp_servers.trio-tools]\ncommand = "c"\n[mcp_servers.trio-tools.env]\nA = "1"\n\n[y]\nb = 2\n'
    after = remove_from_toml(text, "mcp_servers", "trio-tools")
    assert tomllib.loads(after) == {"x": {"a": 1}, "y": {"b": 2}}


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "APPDATA", "CODEX_HOME", "CLAUDE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("host", HOSTS)
def test_each_host_gets_its_entry_in_its_own_file_and_form(host, home, capsys):
    assert main(["install", host, "--file-root", "."]) == 0
    file = HOSTS[host].user_file()
    assert file.is_relative_to(home)
    assert str(file) in capsys.readouterr().out
    text = file.read_text("utf-8")
    whole = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    entry = whole[HOSTS[host].container]["trio-tools"]
    assert os.access(entry["command"], os.X_OK)
    assert entry["args"][-3:] == ["serve", "--file-root", str(home)]
    assert entry.get("type") == ("stdio" if host in {"claude-code", "vscode"} else None)
    assert entry.get("source") == ("custom" if host == "zed" else None)
    assert main(["install", host, "--file-root", "."]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["uninstall", host]) == 0
    assert "trio-tools" not in file.read_text("utf-8")
    assert main(["uninstall", host]) == 0
    assert "no entry" in capsys.readouterr().out


def test_a_dry_run_shows_the_change_and_writes_nothing(home, capsys):
    assert main(["install", "cursor", "--dry-run", "--project"]) == 0
    assert '+  "mcpServers"' in capsys.readouterr().out
    assert list(home.iterdir()) == []


def test_printing_an_entry_writes_nothing(home, capsys):
    assert main(["install", "codex", "--print"]) == 0
    assert (
        tomllib.loads(capsys.readouterr().out)["mcp_servers"]["trio-tools"]["args"][-1] == "serve"
    )
    assert list(home.iterdir()) == []


def test_an_entry_has_every_option_that_names_a_setting(home, capsys):
    (home / "hosts.json").write_text('{"mcpServers": {}}')
    given = ["--upstreams", "hosts.json", "--state", "sqlite:///s.db", "--set", "max_items=9"]
    given += ["--tools", "fetch_urls,batch_process", "--log-level", "debug"]
    assert main(["install", "codex", "--print", *given]) == 0
    entry = tomllib.loads(capsys.readouterr().out)["mcp_servers"]["trio-tools"]
    words = entry["args"][entry["args"].index("serve") + 1 :]
    absolute = ["--upstreams", f"{home}/hosts.json", "--state", f"sqlite:///{home}/s.db"]
    assert words == [*absolute, "--set", "max_items=9", "--tools", *given[7:]]


def test_the_name_of_a_host_is_no_address_to_bind(home, monkeypatch):
    seen = []
    monkeypatch.setitem(_COMMANDS, "install", lambda _, settings, __: note(seen, settings))
    assert main(["install", "cursor"]) == 0
    assert seen == ["127.0.0.1"]


async def note(seen, settings):
    seen.append(settings.http.host)
    return 0


def test_a_file_behind_a_link_keeps_its_link_and_mode(home):
    real = home / "dotfiles.json"
    real.write_text("{}")
    real.chmod(0o640)
    (home / ".cursor").mkdir()
    (home / ".cursor" / "mcp.json").symlink_to(real)
    assert main(["install", "cursor"]) == 0
    assert (home / ".cursor" / "mcp.json").is_symlink()
    assert "trio-tools" in real.read_text()
    assert real.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("content", "words"), [(b"{oops", "it is not JSON"), (b"\xff\xfe", "is not UTF-8")]
)
def test_a_broken_file_is_named_and_not_touched(content, words, home, capsys):
    (home / ".mcp.json").write_bytes(content)
    assert main(["install", "claude-code", "--project"]) == 2
    error = capsys.readouterr().err
    assert ".mcp.json" in error
    assert words in error
    assert (home / ".mcp.json").read_bytes() == content


def test_a_host_without_project_files_says_so(home, capsys):
    assert main(["install", "windsurf", "--project"]) == 2
    assert "Windsurf has no file for a project: leave out --project" in capsys.readouterr().err
    assert list(home.iterdir()) == []


def test_doctor_says_what_is_wrong_and_what_to_do(home, capsys):
    (home / "data").mkdir()
    (home / ".mcp.json").write_text(
        '{"mcpServers": {"trio-tools": {"command": "/gone/trio-tools"}}}'
    )
    status = main(
        [
            "doctor",
            "--json",
            "--file-root",
            str(home / "data"),
            "--set",
            f"databases.shop.url=sqlite:///{home / 'none' / 'shop.db'}",
            "--set",
            'apis.forge={"base_url": "https://forge.example", "auth_env": "NO_SUCH_SECRET"}',
        ]
    )
    findings = {each["subject"]: each for each in json.loads(capsys.readouterr().out)}
    assert status == 1
    assert findings[f"file_roots: {home / 'data'}"]["level"] == "ok"
    assert findings["databases.shop"]["level"] == "failure"
    assert "NO_SUCH_SECRET is not set" in findings["apis.forge"]["message"]
    assert "export NO_SUCH_SECRET" in findings["apis.forge"]["fix"]
    assert findings["host claude-code"]["fix"] == "trio-tools install claude-code"
    assert findings["versions"]["level"] == "ok"


def test_doctor_of_a_sound_installation_ends_with_0(home, capsys):
    assert main(["install", "zed"]) == 0
    capsys.readouterr()
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "ok   host zed" in shown
    assert "0 failed" in shown
    assert Path(home).exists()


def findings_of(capsys, *words):
    status = main(["doctor", "--json", *words])
    return status, {each["subject"]: each for each in json.loads(capsys.readouterr().out)}


def test_doctor_looks_at_the_state_and_at_upstreams(home, capsys):
    state = home / "state" / "operations.db"
    upstream = 'upstreams.gone={"command": "/gone/server"}'
    status, found = findings_of(capsys, "--state", f"sqlite:///{state}", "--set", upstream)
    assert status == 1
    assert found["state"]["level"] == "ok"
    assert "is made with the first operation" in found["state"]["message"]
    assert found["upstreams.gone"]["level"] == "failure"
    assert "upstreams.gone.command" in found["upstreams.gone"]["fix"]
    assert not state.exists()
    state.parent.mkdir()
    state.write_bytes(b"no database" * 1_000)
    status, found = findings_of(capsys, "--state", f"sqlite:///{state}")
    assert status == 1
    assert "is not a SQLite database" in found["state"]["message"]
    _, found = findings_of(capsys, "--state", "memory")
    assert found["state"]["level"] == "warning"


@pytest.mark.parametrize(
    ("host", "words", "level", "message"),
    [
        ("claude-code", (), "ok", "the structured content alone"),
        ("zed", ("--set", "answers=structured"), "warning", "a summary and no results"),
        ("zed", ("--set", "answers=text"), "ok", "answers = text suits it"),
        ("cursor", (), "ok", "the text of each answer is sent for nothing"),
    ],
)
def test_doctor_says_what_a_host_does_with_answers(home, capsys, host, words, level, message):
    _, found = findings_of(capsys, "--for", host, *words)
    assert found[f"host {host}"]["fix"] == f"trio-tools install {host}"
    assert found[f"answers in {host}"]["level"] == level
    assert message in found[f"answers in {host}"]["message"]
    assert list(home.iterdir()) == []


def test_doctor_warns_of_a_call_that_outlasts_its_host():
    settings = Settings(limits={"fetch_urls": {"timeout_seconds": 120, "max_timeout_seconds": 300}})
    *_, last = advice_for("codex", settings)
    assert last.level == "warning"
    assert "limits.fetch_urls.timeout_seconds" in last.message
    *_, last = advice_for("claude-code", Settings(max_output_chars=600_000))
    assert "500,000 characters go to a file" in last.message
