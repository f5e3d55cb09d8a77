"""Servers under test as forks of one process that has imported all they need.

To import it takes two seconds of CPU, and there are dozens of servers. A fork is a process of its
own all the same: with its pipes, its signals, its end and its status.
"""

import array
import atexit
import functools
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress

import trio

_MODULES = (
    "trio_tools.server",
    "trio_tools.transports",
    "trio_tools.transports.http.serve",
    "trio_tools.transports.stdio.serve",
    "nursery_patterns",
)


class ForkedProcess:
    """A fork that runs a module, with the part of `trio.Process` that the tests use."""

    def __init__(self, pipes, status):
        stdin, stdout, stderr = pipes
        self.stdin = trio.lowlevel.FdStream(stdin)
        self.stdout = trio.lowlevel.FdStream(stdout)
        self.stderr = trio.lowlevel.FdStream(stderr)
        self.stdio = trio.StapledStream(self.stdin, self.stdout)
        self.pid = None
        self.returncode = None
        self._status = trio.SocketStream(trio.socket.from_stdlib_socket(status))
        self._reading = trio.Lock()
        self._told = b""

    async def begun(self):
        """Wait until there is the fork."""
        self.pid = await self._next_number()

    async def wait(self):
        """Wait for the end and return the status: negative for a signal."""
        async with self._reading:
            if self.returncode is None:
                self.returncode = await self._next_number()
        return self.returncode

    async def _next_number(self):
        while b"\n" not in self._told:
            self._told += await self._status.receive_some()
        number, _, self._told = self._told.partition(b"\n")
        return int(number)

    def send_signal(self, number):
        """Send a signal unless the process has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):  # it has ended, and nobody has waited for it yet
                os.kill(self.pid, number)

    def kill(self):
        """End the process at once."""
        self.send_signal(signal.SIGKILL)

    async def aclose(self):
        """Close all that is ours of it."""
        for stream in (self.stdin, self.stdout, self.stderr, self._status):
            await trio.aclose_forcefully(stream)


async def open_fork(module, words, env):
    """Start `python -m module words` as a fork, with pipes for its three standard files."""
    theirs_in, ours_in = os.pipe()
    ours_out, theirs_out = os.pipe()
    ours_err, theirs_err = os.pipe()
    ours, theirs = socket.socketpair()
    job = json.dumps([module, words, env]).encode()
    control = _zygote()
    fds = [theirs_in, theirs_out, theirs_err, theirs.fileno()]
    socket.send_fds(control, [len(job).to_bytes(4, "big")], fds)
    control.sendall(job)
    for fd in fds[:3]:
        os.close(fd)
    theirs.close()
    process = ForkedProcess((ours_in, ours_out, ours_err), ours)
    await process.begun()
    return process


@functools.cache
def _zygote():
    """Return the connection to the process that is forked; it ends with this one."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.processes.forking", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
    )
    theirs.close()

    def end():
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _serve(control):
    """Fork for each job until the connection is closed; return in the forks alone, with a job."""
    for name in _MODULES:
        __import__(name)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    reports = {}
    while True:
        ready = select.select([control, woken], [], [])[0]
        if woken in ready:
            os.read(woken, 1000)
            _report_ends(reports)
        if control not in ready:
            continue
        job, fds = _receive(control)
        if job is None:
            os._exit(0)
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _take(fds, [woken, wake, *(report.detach() for report in reports.values())])
            return job
        for fd in fds[:3]:
            os.close(fd)
        reports[pid] = socket.socket(fileno=fds[3])
        reports[pid].sendall(b"%d\n" % pid)


def _take(fds, others):
    """Have the standard files of a job, and close all that is its parent's."""
    for number, fd in enumerate(fds[:3]):
        os.dup2(fd, number)
    for fd in (*fds, *others):
        os.close(fd)


def _receive(control):
    size = array.array("i").itemsize
    data, ancillary, _, _ = control.recvmsg(4, socket.CMSG_SPACE(4 * size))
    if not data:
        return None, []
    fds = array.array("i")
    for _, _, content in ancillary:
        fds.frombytes(content)
    whole = b""
    while len(whole) < int.from_bytes(data, "big"):
        whole += control.recv(int.from_bytes(data, "big") - len(whole))
    return json.loads(whole), list(fds)


def _report_ends(reports):
    while reports:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with reports.pop(pid) as report:
            report.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def main():
    """Wait for jobs; in a fork, run the module of its job as the main one."""
    with socket.socket(fileno=int(sys.argv[1])) as control:
        module, words, env = _serve(control)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
