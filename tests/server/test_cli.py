"""The command line, in process and as people start it."""

import json
import os
import signal
import socket
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.servers_in_memory import server_of, values_of
from tests.test_architecture import ROOT
from trio_tools import __main__ as launcher
from trio_tools import __version__
from trio_tools.command_line.main import main
from trio_tools.settings import Settings
from trio_tools.tools.call import Answer

SITE = """
import sys, trio

async def answer(stream):
    async with stream:
        async for request in stream:
            if b"/hang" in request:
                print("hanging", flush=True)
                await trio.sleep_forever()
            await stream.send_all(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")

async def main():
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(listener.socket.getsockname()[1], flush=True)
    await trio.serve_listeners(answer, [listener])

trio.run(main)
"""


@pytest.fixture(autouse=True)
def _nothing_of_the_process_is_changed(monkeypatch):
    # `main` is the top of a process of its own, so it may set both. Here it is a guest.
    monkeypatch.setattr("trio_tools.command_line.main.configure_logging", lambda *_: None)
    monkeypatch.setenv("TRIO_TOOLS_CONFIG", "")
    monkeypatch.setenv("COLUMNS", "200")


def run(capsys, *words):
    """Run a command; return its exit status and what it printed."""
    try:
        status = main(words)
    except SystemExit as exit_:
        status = exit_.code
    out, err = capsys.readouterr()
    return status, out, err


def called(capsys, *words):
    status, out, _ = run(capsys, "call", *words, "--json")
    return status, json.loads(out)


def rows_of(table):
    lines = [[cell.strip() for cell in line.split("│")] for line in table.splitlines()]
    return {line[0]: line[1:] for line in lines}


def test_the_console_script_settles_signals_and_then_is_this_function(monkeypatch):
    # What is declared, not what some installation of before had.
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    [(name, value)] = declared.items()
    script = EntryPoint(name, value, "console_scripts").load()
    assert (name, script) == ("trio-tools", launcher.main)
    monkeypatch.setattr("trio_tools.command_line.main.main", lambda: 77)
    monkeypatch.setattr(sys, "argv", ["trio-tools", "tools"])
    assert script() == 77


def test_the_launcher_imports_nothing_heavy_before_signals_are_settled():
    code = "import sys, trio_tools.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert not {"argparse", "trio", "pydantic", "trio_tools.command_line.main"} & set(
        done.stdout.split()
    )


def test_version_is_that_of_the_package(capsys):
    assert run(capsys, "--version") == (0, f"trio-tools {__version__}\n", "")


def test_tools_are_listed_with_their_limits(capsys):
    status, out, _ = run(capsys, "tools")
    assert status == 0
    for words in ("fetch_urls", "compute_hash", "Execution: async (I/O-bound)", "1000 waiting"):
        assert words in out


def test_tools_are_listed_for_machines_with_schemas(capsys):
    status, out, _ = run(capsys, "tools", "--json")
    tools = {tool["name"]: tool for tool in json.loads(out)}
    assert status == 0
    assert tools["get_operation"]["inputSchema"]["required"] == ["operation_id"]
    assert tools["fetch_urls"]["outputSchema"]["title"] == "response-v2"


def test_help_behind_a_tool_is_about_that_tool(capsys):
    status, out, _ = run(capsys, "call", "fetch_urls", "--help")
    assert status == 0
    rows = rows_of(out)
    assert rows["--urls"][:2] == ["list: repeat it", "null"]
    assert rows["--max-concurrent"][:2] == ["integer ≥ 1, ≤ 50", "null"]
    assert "Timeout: 50 s by default, 300 s at most" in out
    status, out, err = run(capsys, "call", "nope", "--help")
    assert (status, out) == (2, "")
    assert "no tool is named 'nope'; there are: get_concurrency_status" in err


def test_help_on_the_command_alone_is_about_the_command(capsys):
    status, out, _ = run(capsys, "call", "--help")
    assert status == 0
    assert out.startswith("usage: trio-tools call")


def test_every_setting_is_listed_with_its_meaning(capsys):
    status, out, _ = run(capsys, "settings", "--set", "max_items=77")
    assert status == 0
    for name in Settings.model_fields:
        assert name in out
    assert rows_of(out)["max_items"] == ["77", Settings.model_fields["max_items"].description]


def test_settings_shows_that_there_are_tokens_but_never_one(capsys):
    _, out, err = run(capsys, "settings", "--set", 'http.tokens={"me": "hush"}')
    assert "hush" not in out + err
    assert "(secret)" in out


def test_settings_go_into_sections_by_name_and_show_no_secret_in_them(capsys, monkeypatch):
    monkeypatch.setenv("TRIO_TOOLS_DATABASES__SHOP__URL", "postgresql://me:hush@host/shop")
    words = ["--set=apis.weather.base_url=https://example.org/v1", "--set=limits.x.max_calls=7"]
    words += ["--set=http.tls_key_password=hush"]
    status, out, err = run(capsys, "settings", *words)
    rows = rows_of(out)
    assert status == 0
    assert rows["databases.shop.url"][0] == "(secret)"
    assert rows["http.tls_key_password"][0] == "(secret)"
    assert rows["apis.weather.base_url"][0] == '"https://example.org/v1"'
    assert rows["limits.x.max_calls"] == ["7", "Limit of calls that run at once."]
    assert rows["datasets"][0] == "{}"
    assert "hush" not in out + err


def test_a_wrong_setting_shows_no_secret(capsys):
    status, out, err = run(capsys, "settings", "--set", "databases.shop=postgresql://me:hush@host")
    assert status == 2
    assert err.startswith("trio-tools: setting databases.shop: ")
    assert "hush" not in out + err


def test_a_call_prints_the_envelope_for_machines(capsys):
    status, envelope = called(capsys, "compute_hash", "--text", "abc")
    assert status == 0
    assert envelope["success"] is True
    assert envelope["data"]["hexdigest"].startswith("ba7816bf")


def test_a_call_prints_an_answer_for_people(capsys):
    status, out, _ = run(capsys, "call", "compute_hash", "--text", "abc")
    assert status == 0
    assert out.startswith("sha256 of the text (3 bytes): ba7816bf")


def test_a_text_stays_a_text_even_if_it_looks_like_a_number(capsys):
    assert called(capsys, "compute_hash", "--text", "12")[1]["data"]["size_bytes"] == 2


def test_a_name_may_be_written_with_dashes_and_its_value_after_an_equals_sign(capsys):
    _, envelope = called(capsys, "compute_hash", "--text=a=b", "--timeout-seconds=5")
    assert envelope["data"]["size_bytes"] == 3


@pytest.mark.parametrize(
    "words",
    [
        ("--urls", "ftp://a", "--urls", "ftp://b"),
        ("--urls", '["ftp://a", "ftp://b"]'),
        ("--urls=ftp://a", "--urls=ftp://b"),
        ("--urls", "ftp://a", "ftp://b"),
        ("--urls=ftp://a", "ftp://b", "--timeout-seconds", "5"),
    ],
)
def test_a_list_is_given_by_repetition_side_by_side_or_as_json(capsys, words):
    status, envelope = called(capsys, "fetch_urls", *words)
    assert status == 1  # all of them failed
    assert [error["error_code"] for error in envelope["data"]["errors"]] == ["BLOCKED_SCHEME"] * 2


def test_items_that_failed_in_part_are_exit_status_3(capsys):
    words = ("--operation", "hash", "--items", '["a", {"path": "/none"}]')
    status, envelope = called(capsys, "batch_process", *words)
    counts = envelope["data"]["counts"]
    assert (status, counts["succeeded"], counts["failed"]) == (3, 1, 1)


@pytest.mark.parametrize(
    "words", [("tools",), ("tools", "--json"), ("call", "compute_hash", "--text", "x")]
)
def test_a_reader_that_leaves_ends_a_command_without_a_traceback(words):
    command = f"{sys.executable} -m trio_tools {' '.join(words)} | head -c 0"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.stderr.strip() == ""


def test_a_failure_of_the_tool_is_exit_status_1_and_says_what_to_do(capsys):
    status, out, _ = run(capsys, "call", "compute_hash", "--path", "/etc/passwd")
    assert status == 1
    assert "OUTSIDE_FILE_ROOTS" in out
    assert "file_roots" in out


def test_an_unknown_tool_is_an_answer_with_the_names_there_are(capsys):
    status, envelope = called(capsys, "fetch_everything")
    assert status == 1
    assert "fetch_urls" in envelope["error"]


def test_a_file_root_opens_a_folder(capsys, tmp_path):
    (tmp_path / "file.txt").write_text("abc")
    words = ("compute_hash", "--file-root", str(tmp_path), "--path", "file.txt")
    assert called(capsys, *words)[1]["data"]["size_bytes"] == 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "required: COMMAND"),
        (("dance",), "invalid choice: 'dance'"),
        (("tools", "--colour"), "unknown arguments: --colour"),
        (("call",), "required: TOOL"),
        (("call", "compute_hash", "abc"), "write --abc before it"),
        (("call", "compute_hash", "--text"), "--text needs a value"),
        (("call", "compute_hash", "--text", "--algorithm", "md5"), "--text needs a value"),
        (("call", "compute_hash", "--text", "a", "b"), "write --b before it"),
        (("tools", "--set", "max_items"), "--set takes NAME=VALUE, got 'max_items'"),
        (("tools", "--set", "max_items=0"), "setting max_items: "),
        (("tools", "--set", "fetch.ports.x=1"), "setting fetch.ports"),
        (("tools", "--set", "max_itmes=3"), "setting max_itmes: "),
        (("serve", "--set", "limits.x.concurrency=60"), "trio-tools: limits.x.concurrency is 60, "),
        (
            ("tools", "--set", "file_roots=/tmp"),
            "setting file_roots: it takes a JSON list, such as",
        ),
        (
            ("tools", "--set", "fetch.ports=80"),
            "setting fetch.ports: it takes a JSON list, such as",
        ),
        (("tools", "--set", "fetch.allow_networks=[1]"), "setting fetch.allow_networks.0: "),
        (
            ("serve", "--set", "http=1", "--set", "http.port=2"),
            "--set gives http a value and then sets http.port in it: leave out one of them",
        ),
        (("serve", "--set", "http.port=2", "--set", "http=1"), "setting http: Input should be"),
        (("serve", "--set", "max_items=2", "--set", "max_items.x=1"), "--set gives max_items a"),
        (("serve", "--set", "http.path=mcp"), "setting http.path: it must begin with a slash"),
        (("tools", "--config", "/none.toml"), "'/none.toml', which is not a file: correct"),
        (
            ("serve", "--set", "http.prt=1"),
            "setting http.prt: there is no such setting; write http.port\n",
        ),
        (
            ("serve", "--set", "limits.fetch_urls.max_concurency=1"),
            "no such setting; write limits.fetch_urls.max_concurrency\n",
        ),
        (
            ("serve", "--set", "apis.jira.base_ur=https://example.org"),
            "setting apis.jira.base_ur: there is no such setting; write apis.jira.base_url\n",
        ),
        (
            ("serve", "--set", "apis.jira.burst=2"),
            "setting apis.jira.base_url: it is required: give it a value\n",
        ),
        (("serve", "--set", "port=1"), "setting port: there is no such setting; write http.port\n"),
        (
            ("serve", "--set", "colour=1"),
            "no such setting; `trio-tools settings --example` lists those that there are\n",
        ),
        (("tools", "--file-root", "/no/such/folder"), "/no/such/folder"),
    ],
)
def test_a_wrong_command_is_exit_status_2_and_one_sentence(capsys, words, told):
    status, out, err = run(capsys, *words)
    assert status == 2
    assert told in err
    assert "Traceback" not in err
    assert out == ""


def test_a_variable_that_is_not_json_is_told_by_name_without_its_value(capsys, monkeypatch):
    monkeypatch.setenv("TRIO_TOOLS_FETCH__ALLOW_NETWORKS", "hush")
    monkeypatch.setenv("HUSH", "hush")
    status, out, err = run(capsys, "tools")
    assert (status, out) == (2, "")
    assert err == (
        "trio-tools: TRIO_TOOLS_FETCH__ALLOW_NETWORKS is not JSON, as lists and tables are in the "
        """environment: write it as in TRIO_TOOLS_FILE_ROOTS='["/data", "/srv/more"]'\n"""
    )


def test_a_port_that_is_taken_is_exit_status_2_and_one_sentence(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, out, err = run(capsys, "serve", "--transport", "http", "--port", str(port))
    assert (status, out) == (2, "")
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use" in err
    assert "Traceback" not in err


def test_a_file_of_settings_is_read_and_arguments_win_over_it(capsys, tmp_path):
    config = tmp_path / "settings.toml"
    config.write_text("max_items = 2\nmax_operations = 3\n")
    words = ("--config", str(config), "--set", "max_items=1")
    _, out, _ = run(capsys, "settings", *words)
    assert rows_of(out)["max_items"][0] == "1"
    assert rows_of(out)["max_operations"][0] == "3"


# ------------------------------------------------------------------------- as people start it


@pytest.fixture
def started():
    """Start processes that end with the test."""
    processes = []

    def start(*words, **options):
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen([sys.executable, *words], **pipes | options)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def hanging_call(started):
    """Start a call over two pages, and return it when one is done and the other one hangs."""
    site = started("-c", SITE)
    port = int(site.stdout.readline())
    urls = [f"--urls=http://127.0.0.1:{port}/{page}" for page in ("fine", "hang")]
    doors = ["--set=fetch.allow_private=true", "--set=fetch.ports=null"]
    words = ["call", "fetch_urls", *urls, "--max-concurrent=1", *doors, "--json"]
    call = started("-m", "trio_tools", *words, stderr=subprocess.PIPE)
    assert site.stdout.readline() == "hanging\n"
    return call


def test_the_first_interrupt_gives_what_is_done_and_names_the_rest(hanging_call):
    hanging_call.send_signal(signal.SIGINT)
    out, err = hanging_call.communicate(timeout=20)
    data = json.loads(out)["data"]
    assert hanging_call.returncode == 0
    assert data["complete"] is False
    assert [result["text"] for result in values_of(data)] == ["ok"]
    assert [error["error_code"] for error in data["errors"]] == ["CANCELLED"]
    assert "Ctrl-C again to give up" in err
    assert "Traceback" not in err


def test_the_second_interrupt_ends_a_call_that_has_nothing_to_give(capsys, monkeypatch):
    async def stuck(call) -> Answer:
        """Hang, and be interrupted twice."""
        for _ in range(2):
            await wait_all_tasks_blocked()
            os.kill(os.getpid(), signal.SIGINT)
        await trio.sleep_forever()

    monkeypatch.setattr("trio_tools.server.create_server", lambda _: server_of(stuck))
    status, out, err = run(capsys, "call", "stuck", "--json")
    assert (status, out) == (130, "")
    assert err.count("Ctrl-C again to give up") == 1


def test_an_interrupted_demonstration_ends_without_a_traceback(started):
    demo = started("-u", "-m", "trio_tools", "demo", stderr=subprocess.PIPE)
    while "hang for ever" not in demo.stdout.readline():
        assert demo.poll() is None
    demo.send_signal(signal.SIGINT)
    out, err = demo.communicate(timeout=20)
    assert demo.returncode == 130
    assert "Traceback" not in out + err


def test_the_demonstration_runs_to_its_end(started, tmp_path):
    state = tmp_path / "state"  # of the user: a second demonstration finds nothing of the first
    demo = started(
        *("-W", "error", "-m", "trio_tools", "demo"),
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "XDG_STATE_HOME": str(state), "TRIO_TOOLS_STATE__URL": "sqlite"},
    )
    out, err = demo.communicate(timeout=60)
    assert not state.exists()
    assert demo.returncode == 0, err
    assert "Traceback" not in out + err
    for words in (
        "115 of 120 succeeded, 1 failed, 4 cancelled",
        "the same call again, with its operation_id",
        "4 requests for what was missing",
        "4 of 6 hashed, 2 failed",
        "max_concurrent must be at most 50, got 5000",
        "Your turn",
    ):
        assert words in out


def test_python_m_trio_tools_is_the_command_line(started):
    process = started("-m", "trio_tools", "--version")
    assert process.communicate(timeout=20)[0] == f"trio-tools {__version__}\n"


def test_a_reader_that_leaves_early_is_no_error():
    command = f"{sys.executable} -m trio_tools tools --json | head -c 10"
    done = subprocess.run(  # noqa: PLW1510 - the status is that of head
        ["/bin/sh", "-c", command], capture_output=True, text=True, timeout=60
    )
    assert (len(done.stdout), done.stderr) == (10, "")
