"""`trio-tools operations`, and calls that are gone on with later."""

import json

import pytest

from trio_tools.command_line.main import main


@pytest.fixture
def trio_tools(state_file, capsys):
    """Run the command with the state of the test; return its status and what it printed."""

    def run(*words):
        status = main([*words, "--state", f"sqlite:///{state_file}"])
        return status, capsys.readouterr()

    return run


def test_an_operation_is_listed_shown_resumed_exported_and_deleted(trio_tools):
    words = ["call", "batch_process", "--operation", "hash", "--operation-id", "op"]
    status, _ = trio_tools(*words, "--items", '[{"text": "a"}, {"text": "b"}]', "--background")
    assert status == 0
    status, said = trio_tools("call", "--resume", "op", "--json")
    assert status == 0
    assert json.loads(said.out)["data"]["counts"]["succeeded"] == 2
    _, said = trio_tools("operations", "list", "--json")
    (row,) = json.loads(said.out)
    assert (row["operation_id"], row["state"], row["done"]) == ("op", "complete", 2)
    _, said = trio_tools("operations", "show", "op")
    assert "state: complete" in said.out
    _, said = trio_tools("operations", "cancel", "op")
    assert "was not running" in said.out
    _, said = trio_tools("operations", "export", "op")
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [line["index"] for line in lines] == [0, 1]
    assert lines[0]["value"]["size_bytes"] == 1
    _, said = trio_tools("operations", "prune")
    assert said.out.startswith("0 operations")
    _, said = trio_tools("operations", "prune", "--all")
    assert said.out.startswith("1 operations")
    status, said = trio_tools("operations", "show", "op")
    assert status == 2
    assert "no operation 'op' is stored" in said.err


def test_an_id_that_a_client_chose_does_nothing_to_the_terminal(trio_tools, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    name = "[/red]\x1b[31mred\x07\n\u202e"
    words = ["call", "batch_process", "--operation", "hash", "--items", '["a"]']
    trio_tools(*words, "--operation-id", name)
    shown = r"[/red]\x1b[31mred\x07\n\u202e"
    for command in (["list"], ["show", name]):
        status, said = trio_tools("operations", *command)
        assert status == 0
        assert shown in said.out
        assert not {"\x1b", "\x07", "\u202e"} & set(said.out)


def test_a_resumed_operation_tells_by_its_status_that_some_items_failed(trio_tools):
    words = ["call", "batch_process", "--operation", "hash", "--operation-id", "op"]
    items = '[{"text": "a"}, {"path": "nothing/here"}]'
    trio_tools(*words, "--items", items, "--background")
    status, said = trio_tools("operations", "resume", "op", "--json")
    counts = json.loads(said.out)["data"]["counts"]
    assert (counts["succeeded"], counts["failed"], status) == (1, 1, 3)


def test_a_state_that_cannot_be_used_is_told_and_left_as_it_is(trio_tools, state_file):
    state_file.parent.mkdir()
    state_file.write_bytes(b"no database" * 1_000)
    status, said = trio_tools("operations", "list")
    assert status == 2
    assert "is not a SQLite database" in said.err
    assert state_file.read_bytes() == b"no database" * 1_000


def test_nothing_is_stored_in_memory(capsys):
    assert main(["operations", "list", "--state", "memory"]) == 2
    assert "nothing is stored" in capsys.readouterr().err
