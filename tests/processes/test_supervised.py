"""`serve` under a supervisor such as systemd, with the sockets that it opened."""

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import closing

import pytest

from tests.processes.running import ROOT, environment
from tests.transports.requests import exchange, get
from trio_tools.transports.http import Address

PATIENCE = 120

# Descriptors 3 and 4, and the id of the process that they are meant for.
HAND_OVER = """
import os, sys
for place, number in enumerate(sys.argv[1].split(","), 3):
    os.dup2(int(number), place)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "trio_tools", *sys.argv[2:]])
"""


def start(folder, workers, sockets):
    """Start a server that is handed the sockets."""
    env = environment(state__url=f"sqlite:///{folder}/state.db")
    env |= {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "600000000"}
    env |= {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "mcp:metrics"}
    copies = [each.fileno() + 100 for each in sockets]  # out of the way of 3 and 4
    for each, copy in zip(sockets, copies, strict=True):
        os.dup2(each.fileno(), copy)
    numbers = ",".join(map(str, copies))
    command = ["serve", "--transport", "http", "--workers", str(workers)]
    try:
        return subprocess.Popen(
            [sys.executable, "-c", HAND_OVER, numbers, *command],
            env=env,
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
            pass_fds=copies,
        )
    finally:
        for copy in copies:
            os.close(copy)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_supervised_server_uses_the_sockets_that_are_open_and_tells_how_it_goes(
    workers, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("s")
    with (
        closing(socket.socket(socket.AF_UNIX)) as clients,
        closing(socket.create_server(("127.0.0.1", 0))) as metrics,
        closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as told,
    ):
        clients.bind(str(folder / "mcp.sock"))
        clients.listen()
        told.bind(str(folder / "notify"))
        told.settimeout(PATIENCE)

        def heard(pattern):
            while not re.fullmatch(pattern, told.recv(4096).decode()):
                pass

        process = start(folder, workers, (clients, metrics))
        try:
            heard("READY=1")
            heard("WATCHDOG=1")
            mcp = Address(str(folder / "mcp.sock"), 0, "")
            assert (await exchange(mcp, get("/healthz"))).status == 200
            assert (await exchange(mcp, get("/metrics"))).status == 404
            own = Address(*metrics.getsockname(), "")
            text = (await exchange(own, get("/metrics"))).body.decode()
            assert "trio_tools_build_info" in text
            assert workers == 1 or 'worker="0"' in text
            process.send_signal(signal.SIGHUP)
            heard(r"RELOADING=1\nMONOTONIC_USEC=\d+")
            heard("READY=1")
            process.terminate()
            heard("STOPPING=1")
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            process.wait()
        assert (folder / "mcp.sock").exists()  # it is the supervisor's
