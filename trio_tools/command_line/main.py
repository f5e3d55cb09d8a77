"""Bulk work for language models: served as MCP, or called from here.

trio-tools serve            serve MCP on stdio, or --transport http
trio-tools call TOOL ...    call one tool, with a progress bar
trio-tools operations ...   what was stored: list, show, resume, cancel, export, prune
trio-tools tools            what there is, with limits
trio-tools settings         every setting, its value and its meaning; --example for a file of them
trio-tools install HOST     add the server to Claude Code, Claude Desktop, Cursor, VS Code, …
trio-tools top              what a server does now, live
trio-tools dashboard        the page of what is stored, as of a server on stdio
trio-tools reload           let a server that runs read its settings again
trio-tools completion SHELL what bash, zsh or fish complete commands with
trio-tools doctor           check the settings and what they name; say what to do
trio-tools upstreams        the MCP servers behind this one, and their tools
trio-tools demo             bulk work that goes wrong in every way, and what comes of it
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from trio_tools.command_line import commands, operations
from trio_tools.command_line.commands import INTERRUPTED, USAGE_ERROR, parse_value
from trio_tools.command_line.hosts import ENTRY_NAME, HOSTS
from trio_tools.command_line.upstreams import add_host_files, upstreams
from trio_tools.settings import Settings
from trio_tools.settings.logs import configure_logging, configure_server_logging
from trio_tools.settings.problems import problem_lines
from trio_tools.version import __version__

if TYPE_CHECKING:
    from trio_tools.transports.shutdown import Watchdog

_Command = Callable[[argparse.Namespace, Settings, list[str]], Awaitable[int]]

_COMMANDS: dict[str, _Command] = {
    "serve": commands.serve,
    "call": commands.call,
    "operations": operations.operations,
    "tools": commands.tools,
    "settings": commands.show_settings,
    "upstreams": upstreams,
    "demo": commands.demo,
    "install": commands.install,
    "uninstall": commands.uninstall,
    "doctor": commands.doctor,
    "top": commands.top,
    "dashboard": commands.dashboard,
    "reload": commands.reload,
    "completion": commands.completion,
}


# Time for what ends after the server, in seconds.
_LEAVE_SECONDS = 0.4


def main(argv: Sequence[str] | None = None, *, ends_process: bool = False) -> int:
    """Run the command line and return the exit status.

    0: done. 1: the tool answered with a failure, or all items failed. 2: the command or a setting
    is wrong. 3: some items failed. 130: interrupted before there was anything to answer.

    Args:
        argv: The words after the command's name; by default those of this process.
        ends_process: The caller ends the process next. It then ends within `_LEAVE_SECONDS` after a
            server has stopped, whatever exit handlers and threads do.
    """
    options, rest = _parser().parse_known_args(argv)
    options.argv = list(sys.argv[1:] if argv is None else argv)
    if rest and options.command != "call":
        _parser().error(f"unknown arguments: {' '.join(rest)}")
    if options.command == "call" and options.tool is None and options.resume is None:
        _parser().error("the following arguments are required: TOOL (or --resume ID)")
    try:
        options.read_settings = partial(_settings, options)
        settings = _settings(options)
        quiet = options.command != "serve" and options.log_level is None
        configure = configure_server_logging if options.command == "serve" else configure_logging
        configure(settings.log_format, "error" if quiet else settings.log_level)
        command: Callable[[], Awaitable[int]]
        command = partial(_COMMANDS[options.command], options, settings, rest)
        if options.command == "serve" and not options.check:
            command = _ending_in_time(command, ends_process=ends_process)
        status = _run(command)
        print(end="", flush=True)  # noqa: T201 - there may be no standard output
    except BrokenPipeError:  # the reader closed our output, as `head` does
        return _without_reader()
    except (OSError, ValueError) as error:  # errors of the start; later ones are in groups
        for line in problem_lines(error):
            print(f"trio-tools: {line}", file=sys.stderr)  # noqa: T201
        return USAGE_ERROR
    return status


def _without_reader() -> int:
    """Drop buffered output, so that it cannot fail at the end of the interpreter."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _ending_in_time(
    serve: Callable[[], Awaitable[int]], *, ends_process: bool
) -> Callable[[], Awaitable[int]]:
    """Serve, and end the process if what comes after the server takes long.

    The stop of the server has its own watchdog. After it, the worker processes end, and one of them
    may hang. If the process ends too, its threads and exit handlers follow.
    """
    from trio_tools.transports.shutdown import Watchdog  # noqa: PLC0415 - of `serve` alone

    watchdog = Watchdog(_LEAVE_SECONDS)

    async def served() -> int:
        stopped = False
        try:
            status = await serve()
            stopped = status == 0  # and nothing has to be told
            return status
        finally:
            if not (stopped and ends_process):
                trio.lowlevel.add_instrument(_CallOff(watchdog))
            watchdog.arm()

    return served


class _CallOff(trio.abc.Instrument):
    def __init__(self, watchdog: Watchdog) -> None:
        self._watchdog = watchdog

    def after_run(self) -> None:
        self._watchdog.call_off()


def _run(command: Callable[[], Awaitable[int]]) -> int:
    gc.freeze()  # imported objects are not garbage; checking them again takes 90 ms
    try:
        status = trio.run(command)
    except* KeyboardInterrupt:  # a nursery raises it in a group
        status = INTERRUPTED
    except* (BrokenPipeError, SystemExit):  # the console raises the second one instead
        status = _without_reader()
    return status


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--config", metavar="FILE", help="TOML file of settings")
    shared.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a setting, as in --set fetch.allow_private=true (see: trio-tools settings)",
    )
    shared.add_argument(
        "--state", metavar="URL", help="where operations are stored: sqlite, memory, or a URL"
    )
    shared.add_argument("--file-root", metavar="DIR", action="append", help="folder tools may read")
    shared.add_argument(
        "--upstreams",
        metavar="FILE",
        action="append",
        help="a host's own file of MCP servers, whose tools become operations here",
    )
    shared.add_argument("--toolset", choices=("default", "patterns"))
    shared.add_argument("--tools", metavar="NAMES", help="serve these tools alone: a,b")
    shared.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    shared.add_argument("--log-format", choices=("text", "json"))

    parser = argparse.ArgumentParser(
        prog="trio-tools",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"trio-tools {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = subparsers.add_parser("serve", parents=[shared], help="serve MCP")
    serve.add_argument("--transport", choices=("stdio", "http"), default="stdio")
    serve.add_argument("--host", help="address to bind (http)")
    serve.add_argument("--port", type=int, help="port to bind (http); 0 picks a free one")
    serve.add_argument("--socket", metavar="PATH", help="unix socket in their place (http)")
    serve.add_argument(
        "--insecure", action="store_true", default=None, help="bind without tokens (http)"
    )
    serve.add_argument("--workers", type=int, metavar="N", help="processes that serve (http)")
    serve.add_argument("--worker", help=argparse.SUPPRESS)  # the index of one of them
    serve.add_argument(
        "--check", action="store_true", help="check the settings and what they name, and end"
    )
    call = subparsers.add_parser(
        "call",
        parents=[shared],
        add_help=False,
        help="call one tool",
        usage="trio-tools call [OPTION ...] TOOL [--ARGUMENT VALUE ...]",
        description="Call a tool through a server and a client in this process. "
        "Arguments of the tool follow its name: --urls http://a http://b. "
        "Ctrl-C makes a batch return what it has.",
    )
    call.add_argument("tool", metavar="TOOL", nargs="?", help="its name (see: trio-tools tools)")
    call.add_argument(
        "--background",
        action="store_true",
        help="leave the work to a server of the same state, or to: trio-tools operations resume ID",
    )
    call.add_argument("--resume", metavar="ID", help="go on with a stored operation; needs no TOOL")
    call.add_argument("-h", "--help", action=_ToolHelp, help="after a tool's name: its arguments")
    call.add_argument("--json", action="store_true", help="print the answer for machines")
    operations.add_parser(subparsers, shared)
    tools = subparsers.add_parser("tools", parents=[shared], help="list the tools")
    tools.add_argument("--json", action="store_true", help="print the schemas for machines")
    settings = subparsers.add_parser("settings", parents=[shared], help="list the settings")
    settings.add_argument(
        "--example", action="store_true", help="print a TOML file in which each is a comment"
    )
    settings.add_argument("--json", action="store_true", help="print them for machines")
    _add_install(subparsers, shared)
    top = subparsers.add_parser("top", parents=[shared], help="watch a server that runs")
    top.add_argument("--url", default="http://127.0.0.1:8000", help="where it is served")
    top.add_argument("--token-env", metavar="NAME", help="variable that holds its token")
    words = "serve the page of a stored state on this machine, as of a server on stdio"
    page = subparsers.add_parser("dashboard", parents=[shared], help=words, description=words)
    page.add_argument("--port", dest="page_port", type=int, default=0, help="0 takes a free one")
    page.add_argument("--open", action="store_true", help="open it in a browser")
    _add_reload(subparsers, shared)
    _add_doctor(subparsers, shared)
    found = subparsers.add_parser(
        "upstreams", parents=[shared], help="start every upstream, and list its tools"
    )
    found.add_argument("--json", action="store_true", help="print what there is for machines")
    completion = subparsers.add_parser(
        "completion", parents=[shared], help="print what a shell completes commands with"
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    completion.set_defaults(parser=parser)
    subparsers.add_parser("demo", parents=[shared], help="see it work")
    return parser


def _add_doctor(subparsers: Any, shared: argparse.ArgumentParser) -> None:
    doctor = subparsers.add_parser("doctor", parents=[shared], help="check this installation")
    doctor.add_argument("--json", action="store_true", help="print the findings for machines")
    doctor.add_argument(
        "--for",
        dest="for_host",
        choices=tuple(HOSTS),
        metavar="HOST",
        help=f"the host it is for: {', '.join(HOSTS)}",
    )


def _add_reload(subparsers: Any, shared: argparse.ArgumentParser) -> None:
    words = "let a server that runs read its settings again, and say what it took"
    reload = subparsers.add_parser("reload", parents=[shared], help=words, description=words)
    where = reload.add_mutually_exclusive_group()
    where.add_argument("--url", default="http://127.0.0.1:8000", help="where it is served")
    where.add_argument("--pid", type=int, help="its process, also one on stdio; its log tells")
    reload.add_argument("--token-env", metavar="NAME", help="variable that holds its token")


def _add_install(subparsers: Any, shared: argparse.ArgumentParser) -> None:
    for name, words in (
        ("install", "add the server to a host that starts MCP servers"),
        ("uninstall", "remove it from there"),
    ):
        command = subparsers.add_parser(name, parents=[shared], help=words, description=words)
        # Not `host`, which is the address for `serve`.
        command.add_argument(
            "host_name", choices=tuple(HOSTS), metavar="HOST", help=", ".join(HOSTS)
        )
        command.add_argument("--project", action="store_true", help="the file of this folder")
        command.add_argument("--file", metavar="FILE", help="another file than the host's own")
        command.add_argument("--name", default=ENTRY_NAME, help="name of the entry")
        command.add_argument("--dry-run", action="store_true", help="show what would change")
        if name == "install":
            command.add_argument(
                "--print", action="store_true", help="print the entry and write nothing"
            )


class _ToolHelp(argparse.Action):
    """Help on the command; after the name of a tool, help on that tool, from its schema."""

    def __init__(self, option_strings: Sequence[str], dest: str, **more: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=False, **more)

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, *_: object) -> None:
        if getattr(namespace, "tool", None) is None:
            parser.print_help()
            parser.exit()
        namespace.help = True


def _settings(options: argparse.Namespace) -> Settings:
    """Return the settings: from arguments, else the environment, else the file, else defaults."""
    if options.config:
        os.environ["TRIO_TOOLS_CONFIG"] = options.config
    given: dict[str, Any] = {}
    add_host_files(options, given)
    for assignment in options.set:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set takes NAME=VALUE, got {assignment!r}")
        _put(given, name, parse_value(value))
    shortcuts = {
        "file_roots": options.file_root,
        "toolset": options.toolset,
        "state.url": options.state,
        "tools": options.tools and [name.strip() for name in options.tools.split(",")],
        "log_level": options.log_level,
        "log_format": options.log_format,
        "http.host": getattr(options, "host", None),
        "http.port": getattr(options, "port", None),
        "http.socket": getattr(options, "socket", None),
        "http.insecure": getattr(options, "insecure", None),
        "http.workers": getattr(options, "workers", None),
    }
    for name, value in shortcuts.items():
        if value is not None:
            _put(given, name, value)
    return Settings(**given)


def _put(tree: dict[str, Any], name: str, value: Any) -> None:
    *parents, leaf = name.replace("-", "_").split(".")
    for depth, parent in enumerate(parents, start=1):
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
            section = ".".join(parents[:depth])
            raise ValueError(  # noqa: TRY004 - of the command, not of the code
                f"--set gives {section} a value and then sets {name} in it: leave out one of them"
            )
    tree[leaf] = value
