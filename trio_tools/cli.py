"""The command line: arguments become settings, and the only `trio.run` of the project starts here.

trio-tools serve            serve MCP on stdio, or --transport http
trio-tools call TOOL ...    call one tool, with a progress bar
trio-tools tools            what there is, with limits
trio-tools settings         every setting, its value and its meaning
trio-tools demo             bulk work that goes wrong in every way, and what comes of it
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from pydantic import BaseModel, ValidationError

from trio_tools.logs import configure_logging
from trio_tools.settings import Settings
from trio_tools.version import __version__

if TYPE_CHECKING:
    from trio_tools.server import ToolServer

_USAGE_ERROR = 2
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    0: done. 1: the tool answered with a failure. 2: the command or a setting is wrong. 130:
    interrupted before there was anything to answer.
    """
    options, rest = _parser().parse_known_args(argv)
    if rest and options.command != "call":
        _parser().error(f"unknown arguments: {' '.join(rest)}")
    try:
        settings = _settings(options)
        quiet = options.command != "serve" and options.log_level is None
        configure_logging(settings.log_format, "error" if quiet else settings.log_level)
        status = _run(partial(_COMMANDS[options.command], options, settings, rest))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (
        ValidationError,
        OSError,
        ValueError,
    ) as error:  # of the start: later ones come in groups
        print(f"trio-tools: {_told(error)}", file=sys.stderr)  # noqa: T201
        return _USAGE_ERROR
    return status


def _run(command: Callable[[], Awaitable[int]]) -> int:
    gc.freeze()  # nothing of the start is garbage, and to look at all of it again takes 90 ms
    try:
        status = trio.run(command)
    except* KeyboardInterrupt:  # out of a nursery it comes in a group
        status = _INTERRUPTED
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
    shared.add_argument("--file-root", metavar="DIR", action="append", help="folder tools may read")
    shared.add_argument("--toolset", choices=("default", "patterns"))
    shared.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    shared.add_argument("--log-format", choices=("text", "json"))

    parser = argparse.ArgumentParser(
        prog="trio-tools",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"trio-tools {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", parents=[shared], help="serve MCP")
    serve.add_argument("--transport", choices=("stdio", "http"), default="stdio")
    serve.add_argument("--host", help="address to bind (http)")
    serve.add_argument("--port", type=int, help="port to bind (http); 0 picks a free one")
    serve.add_argument(
        "--insecure", action="store_true", default=None, help="bind without tokens (http)"
    )
    call = commands.add_parser(
        "call",
        parents=[shared],
        add_help=False,
        help="call one tool",
        description="Call a tool through a server and a client in this process. "
        "Arguments of the tool follow its name: --urls http://a --urls http://b. "
        "Ctrl-C makes a batch return what it has.",
    )
    call.add_argument("tool")
    call.add_argument("-h", "--help", action=_ToolHelp, help="after a tool's name: its arguments")
    call.add_argument("--json", action="store_true", help="print the answer for machines")
    tools = commands.add_parser("tools", parents=[shared], help="list the tools")
    tools.add_argument("--json", action="store_true", help="print the schemas for machines")
    commands.add_parser("settings", parents=[shared], help="list the settings")
    commands.add_parser("demo", parents=[shared], help="see it work")
    return parser


class _ToolHelp(argparse.Action):
    """Help on the command; behind the name of a tool, help on that tool, which its schema gives."""

    def __init__(self, option_strings: Sequence[str], dest: str, **more: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=False, **more)

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, *_: object) -> None:
        if getattr(namespace, "tool", None) is None:
            parser.print_help()
            parser.exit()
        namespace.help = True


def _settings(options: argparse.Namespace) -> Settings:
    """Return the settings: arguments first, then the environment, the file, the defaults."""
    if options.config:
        os.environ["TRIO_TOOLS_CONFIG"] = options.config
    given: dict[str, Any] = {}
    for assignment in options.set:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set takes NAME=VALUE, got {assignment!r}")
        _put(given, name, _parsed(value))
    shortcuts = {
        "file_roots": options.file_root,
        "toolset": options.toolset,
        "log_level": options.log_level,
        "log_format": options.log_format,
        "http.host": getattr(options, "host", None),
        "http.port": getattr(options, "port", None),
        "http.insecure": getattr(options, "insecure", None),
    }
    for name, value in shortcuts.items():
        if value is not None:
            _put(given, name, value)
    return Settings(**given)


def _put(tree: dict[str, Any], name: str, value: Any) -> None:
    *parents, leaf = name.replace("-", "_").split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[leaf] = value


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _told(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(
            f"setting {'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors(include_url=False)
        )
    return str(error)


# ------------------------------------------------------------------------------------ commands


async def _serve(options: argparse.Namespace, settings: Settings, _: list[str]) -> int:
    if options.transport == "http":
        from trio_tools.transports.http import serve_http  # noqa: PLC0415 - heavy

        await serve_http(settings, handle_signals=True)
    else:
        from trio_tools.transports.stdio import serve_stdio  # noqa: PLC0415 - not for http

        await serve_stdio(settings, handle_signals=True)
    return 0


async def _call(options: argparse.Namespace, settings: Settings, rest: list[str]) -> int:
    from rich.console import Console  # noqa: PLC0415 - serving needs no console

    from trio_tools.console import progress_bar, show_answer  # noqa: PLC0415
    from trio_tools.server import create_server  # noqa: PLC0415
    from trio_tools.transports.memory import connect_in_process  # noqa: PLC0415

    server = create_server(settings)
    if options.help:
        return await _help_on(options.tool, server)
    schemas = {listing.name: listing.input_schema for listing in await server.list_tools()}
    arguments = _tool_arguments(rest, schemas.get(options.tool, {}).get("properties", {}))
    console = Console(stderr=True)
    status = _INTERRUPTED
    async with connect_in_process(server) as client, trio.open_nursery() as nursery:
        nursery.start_soon(_stop_on_interrupt, server.drain, console, nursery.cancel_scope)
        with progress_bar(console, options.tool) as bar:
            result = await client.call_tool(options.tool, arguments, progress_callback=bar.update)
        if options.json:
            print(json.dumps(result.structured_content, ensure_ascii=False))  # noqa: T201
        else:
            text = getattr(result.content[0], "text", "") if result.content else ""
            show_answer(Console(), text, result.structured_content)
        status = 1 if result.is_error else 0
        nursery.cancel_scope.cancel(reason="the call is answered")
    return status


async def _help_on(tool: str, server: ToolServer) -> int:
    from rich.console import Console  # noqa: PLC0415

    from trio_tools.console import show_tool  # noqa: PLC0415

    listings = {listing.name: listing for listing in await server.list_tools()}
    if tool not in listings:
        raise ValueError(f"no tool is named {tool!r}; there are: {', '.join(listings)}")
    show_tool(Console(), listings[tool])
    return 0


async def _stop_on_interrupt(
    drain: Callable[[], None], console: Any, scope: trio.CancelScope
) -> None:
    """Let the first Ctrl-C stop the work and keep what is done; the second one ends all."""
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        await anext(signals)
        console.print("stopping; what is done follows (Ctrl-C again to give up)")
        drain()
        await anext(signals)
        scope.cancel(reason="interrupted twice")


def _tool_arguments(words: list[str], properties: dict[str, Any]) -> dict[str, Any]:
    """Read `--name value` pairs; what the schema calls a list collects all values of its name."""
    arguments: dict[str, Any] = {}
    remaining = iter(words)
    for word in remaining:
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not word.startswith("--"):
            raise ValueError(f"expected --NAME VALUE, got {word!r}: write --{name} before it")
        if not equals:
            value = next(remaining, "")
            if not value:
                raise ValueError(f"--{name} needs a value")
        kinds = _kinds(properties.get(name, {}))
        parsed = value if kinds == {"string"} else _parsed(value)
        if "array" in kinds and not isinstance(parsed, list):
            arguments.setdefault(name, []).append(parsed)
        else:
            arguments[name] = parsed
    return arguments


def _kinds(schema: dict[str, Any]) -> set[str]:
    options = schema.get("anyOf", [schema])
    return {option["type"] for option in options if option.get("type", "null") != "null"}


async def _tools(options: argparse.Namespace, settings: Settings, _: list[str]) -> int:
    from rich.console import Console  # noqa: PLC0415

    from trio_tools.console import show_tools  # noqa: PLC0415
    from trio_tools.server import create_server  # noqa: PLC0415

    listings = await create_server(settings).list_tools()
    if options.json:
        dumped = [
            tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in listings
        ]
        print(json.dumps(dumped))  # noqa: T201
    else:
        show_tools(Console(), listings)
    return 0


async def _show_settings(_options: argparse.Namespace, settings: Settings, _: list[str]) -> int:
    from rich.console import Console  # noqa: PLC0415

    from trio_tools.console import show_settings  # noqa: PLC0415

    await trio.lowlevel.checkpoint()
    show_settings(Console(), _setting_rows(settings))
    return 0


def _setting_rows(section: BaseModel, prefix: str = "") -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            rows += _setting_rows(value, f"{prefix}{name}.")
        elif info.repr:
            shown = json.loads(section.model_dump_json(include={name}))[name]
            rows.append((f"{prefix}{name}", json.dumps(shown), info.description or ""))
        else:
            rows.append(
                (f"{prefix}{name}", "(secret)" if value else "none", info.description or "")
            )
    return rows


async def _demo(_options: argparse.Namespace, settings: Settings, _: list[str]) -> int:
    from trio_tools.demo import run_demo  # noqa: PLC0415

    await run_demo(settings)
    return 0


_Command = Callable[[argparse.Namespace, Settings, list[str]], Awaitable[int]]

_COMMANDS: dict[str, _Command] = {
    "serve": _serve,
    "call": _call,
    "tools": _tools,
    "settings": _show_settings,
    "demo": _demo,
}
