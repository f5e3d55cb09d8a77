"""Where POSIX is missing, the packages can be imported, and say what there is not."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Everything is imported once, so that what others need of POSIX at import is had. Then the names
# that Windows does not have are taken away, and our modules are imported anew.
WITHOUT_POSIX = """
import importlib, os, pkgutil, select, signal, socket, sys
import nursery_patterns, trio_tools, trio
from pathlib import Path

def import_all():
    for package in (nursery_patterns, trio_tools):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)

import_all()
for name in list(sys.modules):
    if name.partition(".")[0] in {"nursery_patterns", "trio_tools"}:
        del sys.modules[name]

for module in ("fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "posix", "syslog"):
    sys.modules[module] = None
MISSING = {
    os: '''O_NOFOLLOW O_CLOEXEC O_NONBLOCK O_NOCTTY O_DIRECTORY O_SYNC O_DSYNC WNOHANG fork forkpty
        getuid geteuid getgid getegid getpgid setsid killpg uname sched_getaffinity pread preadv
        pwrite fchown chown mkfifo openpty statvfs sysconf getloadavg register_at_fork pipe2
        posix_spawn waitid wait3 wait4 set_blocking'''.split(),
    signal: '''SIGHUP SIGQUIT SIGKILL SIGUSR1 SIGUSR2 SIGPIPE SIGALRM SIGCHLD SIGSTOP SIGCONT
        setitimer pthread_sigmask sigwait pause alarm'''.split(),
    select: ["poll", "epoll"],
    socket: ["AF_UNIX", "SCM_RIGHTS", "MSG_DONTWAIT", "MSG_NOSIGNAL", "SO_REUSEPORT"],
    trio.lowlevel: ["FdStream"],
}
for module, names in MISSING.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
os.supports_dir_fd = os.supports_fd = os.supports_follow_symlinks = set()

import nursery_patterns, trio_tools
import_all()
assert len([name for name in sys.modules if name.startswith("trio_tools.")]) > 50

from trio_tools.files.roots import FileRoots
FileRoots(())
try:
    FileRoots((Path(),))
except ValueError as error:
    print(error)
"""


def test_what_only_posix_has_is_not_needed_for_the_import():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert "leave file_roots empty here" in done.stdout
