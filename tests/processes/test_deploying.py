"""The files in docs/deploying: each is given to the program that reads it, if it is installed."""

import importlib.util
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import zipfile

import httpx
import pytest
import trio
import trustme

from tests.processes.running import http_process
from tests.support.maps import ROOT
from tests.support.nginx import NEEDS_NGINX, free_port, nginx, until_it_listens
from trio_tools.command_line.main import main
from trio_tools.server import create_server
from trio_tools.settings import Settings, UpstreamSettings
from trio_tools.transports.http.metrics import Metrics, merged
from trio_tools.version import __version__

FOLDER = ROOT / "docs" / "deploying"


def build_mcpb():
    spec = importlib.util.spec_from_file_location("build_mcpb", FOLDER / "build_mcpb.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_bundle_is_the_same_bytes_each_time_and_starts(tmp_path):
    first, second = tmp_path / "a.mcpb", tmp_path / "b.mcpb"
    for target in (first, second):
        build_mcpb().build(target)
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as bundle:
        bundle.extractall(tmp_path / "bundle")
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text("utf-8"))
    assert manifest["version"] == __version__
    command = [sys.executable, "server/main.py", "--version"]
    path = str(tmp_path / "bundle")
    done = subprocess.run(
        command, cwd=path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == f"trio-tools {__version__}"


def test_the_entry_for_the_registry_has_this_version_and_arguments_that_are_there(capsys):
    entry = json.loads((FOLDER / "server.json").read_text("utf-8"))
    (package,) = entry["packages"]
    assert entry["version"] == package["version"] == __version__
    assert len(entry["description"]) <= 100
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    offered = capsys.readouterr().out
    named = [each["name"] for each in package["packageArguments"] if each["type"] == "named"]
    assert [name for name in named if name not in offered] == []


def test_what_the_files_set_are_settings_that_there_are():
    texts = [
        path.read_text("utf-8")
        for path in FOLDER.iterdir()
        if path.is_file() and path.suffix != ".py"
    ]
    variables = {name for text in texts for name in re.findall(r"TRIO_TOOLS_[A-Z_]+", text)}
    given = dict.fromkeys(variables, "1")
    assert variables
    for name in given:
        code = "from trio_tools.settings import Settings; Settings()"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, name: "["},
            capture_output=True,
            text=True,
            check=False,
        )
        # A name that is a setting is read, and "[" is a value of none of them.
        text = name in {"TRIO_TOOLS_HTTP__HOST", "TRIO_TOOLS_HTTP__TOKEN_FILE"}
        assert (done.returncode == 0) == text, f"{name}: {done.stderr}"


async def test_the_dashboard_and_the_alerts_ask_for_metrics_that_there_are():
    upstream = UpstreamSettings(command="true")
    state = create_server(Settings(upstreams={"other": upstream})).state
    text = Metrics(state, connections=lambda: 0, restarts=0).text()[0]
    offered = set(re.findall(r"^# TYPE (\w+)", merged({0: text}).decode(), re.MULTILINE))
    for name in ("grafana.json", "alerts.yaml"):
        asked = set(re.findall(r"\b(?:trio_tools|process)_\w+", (FOLDER / name).read_text("utf-8")))
        assert asked
        assert {each.removesuffix("_bucket") for each in asked} <= offered
    dashboard = json.loads((FOLDER / "grafana.json").read_text("utf-8"))
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


@pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is not installed (apt: prometheus)"
)
def test_prometheus_takes_the_alerts():
    command = ["promtool", "check", "rules", str(FOLDER / "alerts.yaml")]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.skipif(not shutil.which("hadolint"), reason="hadolint is not installed (PyPI)")
def test_the_dockerfile_passes_its_linter():
    done = subprocess.run(
        ["hadolint", str(FOLDER / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_takes_the_units(tmp_path):
    text = (FOLDER / "trio-tools.service").read_text("utf-8")
    unit = tmp_path / "trio-tools.service"
    unit.write_text(text.replace("/opt/trio-tools/bin/trio-tools", "/bin/true"))
    shutil.copy(FOLDER / "trio-tools.socket", tmp_path)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit), str(tmp_path / "trio-tools.socket")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line for line in done.stderr.splitlines() if "trio-tools." in line] == []


@NEEDS_NGINX
async def test_a_call_goes_through_the_proxy(tmp_path):
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1", "mcp.example")
    leaf.private_key_pem.write_to_path(tmp_path / "key.pem")
    for pem in leaf.cert_chain_pems:
        pem.write_to_path(tmp_path / "cert.pem", append=True)
    port = free_port()
    async with http_process(http__allowed_hosts='["mcp.example"]') as server:
        upstream = f"127.0.0.1:{server.address.port}"
        changes = {
            "127.0.0.1:8000": upstream,
            "listen 8443": f"listen 127.0.0.1:{port}",
            "/etc/trio-tools": str(tmp_path),
        }
        async with nginx(tmp_path, FOLDER / "nginx.conf", changes):
            await until_it_listens(port)
            trust = ssl.create_default_context(cafile=None)
            authority.configure_trust(trust)
            with trio.fail_after(20):
                assert (await _initialize(port, trust)).status_code == 200
        server.kill()
        await server.ended()


async def _initialize(port, trust):
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }
    headers = {"Accept": "application/json, text/event-stream", "Host": "mcp.example"}
    async with httpx.AsyncClient(verify=trust) as client:
        return await client.post(f"https://127.0.0.1:{port}/mcp", json=body, headers=headers)
