"""The function of each command. Heavy modules are imported by the command that needs them."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any, cast

import trio
from pydantic import BaseModel

from trio_tools.command_line.operations import resume, status_of_items, stop_on_interrupt
from trio_tools.settings import Settings
from trio_tools.settings.groups.upstreams import check_upstreams_are_others

if TYPE_CHECKING:
    from trio_tools.server import ToolServer
    from trio_tools.transports.http.workers.siblings import WorkerPlace

USAGE_ERROR = 2
"""Exit status if the command or a setting is wrong."""

PARTLY_FAILED = 3
"""Exit status of a call if some of its items failed."""

INTERRUPTED = 130
"""Exit status if the command was interrupted before it had an answer."""


def parse_value(text: str) -> Any:
    """Return the value of a word of the command line: parsed JSON, or else the word itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


async def serve(options: argparse.Namespace, settings: Settings, _: list[str]) -> int:
    """Check that everything in the settings exists, then serve MCP until a stop is requested."""
    if options.workers is not None and options.transport == "stdio":
        raise ValueError(
            "--workers is for HTTP, as stdio has one client: add --transport http, or leave it out"
        )
    if options.socket is not None and options.transport == "stdio":
        raise ValueError(
            "--socket is for HTTP: add --transport http to listen on it, or leave it out"
        )
    if options.socket is not None and (options.port is not None or options.host is not None):
        raise ValueError(
            "--socket takes the place of --host and --port: leave either it or them out"
        )
    place = None
    if options.transport == "http" and settings.http.workers > 1 and not options.check:
        if options.worker is None:
            from trio_tools.transports.http.workers.parent import serve_workers  # noqa: PLC0415

            return await serve_workers(settings, options.argv, count=settings.http.workers)
        from trio_tools.settings.shares import share_of  # noqa: PLC0415
        from trio_tools.transports.http.workers.siblings import WorkerPlace  # noqa: PLC0415

        place = WorkerPlace.of_json(options.worker)
        settings = share_of(settings, place.count)
        read, count = options.read_settings, place.count
        options.read_settings = lambda: share_of(read(), count)
    return await _serve_here(options, settings, place)


async def _serve_here(
    options: argparse.Namespace, settings: Settings, place: WorkerPlace | None
) -> int:
    """Serve in this process, which may be one of several workers."""
    from trio_tools.server import create_server  # noqa: PLC0415
    from trio_tools.server.start_checks import start_problems  # noqa: PLC0415

    server = create_server(settings)
    if options.check and options.transport == "http":
        from trio_tools.transports.http import check_http  # noqa: PLC0415 - heavy

        check_upstreams_are_others(settings.upstreams, settings.http)
        check_http(settings.http)
    if problems := await start_problems(server):
        for problem in problems:
            print(f"trio-tools: {problem}", file=sys.stderr)  # noqa: T201
        return USAGE_ERROR
    if options.check:
        print("the settings are valid, and everything they name exists")  # noqa: T201
    elif place is not None:
        from trio_tools.transports.http.serve import serve_worker  # noqa: PLC0415 - heavy

        await serve_worker(settings, server, place, read_settings=options.read_settings)
    elif options.transport == "http":
        from trio_tools.transports.http import serve_http  # noqa: PLC0415 - heavy

        await serve_http(
            settings, server=server, handle_signals=True, read_settings=options.read_settings
        )
    else:
        from trio_tools.transports.stdio import serve_stdio  # noqa: PLC0415 - not for http

        await serve_stdio(
            settings, server=server, handle_signals=True, read_settings=options.read_settings
        )
    return 0


async def call(options: argparse.Namespace, settings: Settings, rest: list[str]) -> int:
    """Call one tool through a server and a client in this process; print its answer."""
    from rich.console import Console  # noqa: PLC0415 - serving needs no console

    from trio_tools.command_line.console import progress_bar, show_answer  # noqa: PLC0415
    from trio_tools.server import create_server  # noqa: PLC0415
    from trio_tools.transports.memory import connect_in_process  # noqa: PLC0415

    if options.resume is not None and not options.help:
        return await resume(options.resume, settings, as_json=options.json)
    server = create_server(settings)
    if options.help:
        return await _help_on(options.tool, server)
    schemas = {listing.name: listing.input_schema for listing in await server.list_tools()}
    arguments = _tool_arguments(rest, schemas.get(options.tool, {}).get("properties", {}))
    if options.background:
        arguments["background"] = True
    console = Console(stderr=True)
    status = INTERRUPTED
    async with connect_in_process(server) as client, trio.open_nursery() as nursery:
        nursery.start_soon(stop_on_interrupt, server.drain, console, nursery.cancel_scope)
        with progress_bar(console, options.tool) as bar:
            result = await client.call_tool(options.tool, arguments, progress_callback=bar.update)
        if options.json:
            print(json.dumps(result.structured_content, ensure_ascii=False))  # noqa: T201
        else:
            text = getattr(result.content[0], "text", "") if result.content else ""
            show_answer(Console(), text, result.structured_content)
        status = 1 if result.is_error else status_of_items(result.structured_content or {})
        nursery.cancel_scope.cancel(reason="the call is answered")
    return status


async def _help_on(tool: str, server: ToolServer) -> int:
    from rich.console import Console  # noqa: PLC0415

    from trio_tools.command_line.console import show_tool  # noqa: PLC0415

    listings = {listing.name: listing for listing in await server.list_tools()}
    if tool not in listings:
        raise ValueError(f"no tool is named {tool!r}; there are: {', '.join(listings)}")
    show_tool(Console(), listings[tool])
    return 0


def _tool_arguments(words: list[str], properties: dict[str, Any]) -> dict[str, Any]:
    """Read `--name value` pairs. An argument of type list takes all values up to the next name.

    A value that begins with two hyphens is written `--name=value`.
    """
    arguments: dict[str, Any] = {}
    name = ""
    for number, word in enumerate(words):
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").partition("=")
            name = name.replace("-", "_")
            follows = words[number + 1 : number + 2]
            if not equals:
                if not follows or follows[0].startswith("--") or not follows[0]:
                    raise ValueError(f"--{name} needs a value")
                continue
        else:
            value = word
        kinds = _kinds(properties.get(name, {}))
        if not name or (name in arguments and "array" not in kinds and not word.startswith("--")):
            raise ValueError(f"expected --NAME VALUE, got {word!r}: write --{word} before it")
        parsed = value if kinds == {"string"} else parse_value(value)
        if "array" in kinds and not isinstance(parsed, list):
            arguments.setdefault(name, []).append(parsed)
        else:
            arguments[name] = parsed
    return arguments


def _kinds(schema: dict[str, Any]) -> set[str]:
    options = schema.get("anyOf", [schema])
    return {option["type"] for option in options if option.get("type", "null") != "null"}


async def tools(options: argparse.Namespace, settings: Settings, _: list[str]) -> int:
    """Print the tools with their limits, or their schemas for machines."""
    from rich.console import Console  # noqa: PLC0415

    from trio_tools.command_line.console import show_tools  # noqa: PLC0415
    from trio_tools.server import create_server  # noqa: PLC0415

    server = create_server(settings)
    async with server.state.serving():  # upstreams list their tools only while serving
        listings = await server.list_tools()
    if options.json:
        dumped = [
            tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in listings
        ]
        print(json.dumps(dumped))  # noqa: T201
    else:
        show_tools(Console(), listings)
    return 0


async def show_settings(options: argparse.Namespace, settings: Settings, _: list[str]) -> int:
    """Print every setting, its value and its meaning; or an example file of settings."""
    await trio.lowlevel.checkpoint()
    if options.example:
        from trio_tools.settings.reference import example_toml  # noqa: PLC0415

        print(example_toml(), end="")  # noqa: T201
        return 0
    if options.json:
        print(settings.model_dump_json(indent=2))  # noqa: T201
        return 0
    from rich.console import Console  # noqa: PLC0415

    from trio_tools.command_line import console  # noqa: PLC0415

    console.show_settings(Console(), _setting_rows(settings))
    return 0


def _setting_rows(section: BaseModel, prefix: str = "") -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        sections = _sections(name, value)
        if sections:
            for inner_name, inner in sections.items():
                rows += _setting_rows(inner, f"{prefix}{inner_name}.")
        elif info.repr:
            shown = json.loads(section.model_dump_json(include={name}))[name]
            rows.append((f"{prefix}{name}", json.dumps(shown), info.description or ""))
        else:
            rows.append(
                (f"{prefix}{name}", "(secret)" if value else "none", info.description or "")
            )
    for key, inner in (section.model_extra or {}).items():  # names chosen by the operator
        rows += _setting_rows(inner, f"{prefix}{key}.")
    return rows


def _sections(name: str, value: Any) -> dict[str, BaseModel]:
    """Return the sections that a setting is or, as `databases`, contains by name."""
    if isinstance(value, BaseModel):
        return {name: value}
    if not isinstance(value, dict):
        return {}
    held = cast("dict[str, Any]", value).items()
    return {f"{name}.{key}": inner for key, inner in held if isinstance(inner, BaseModel)}


async def demo(_options: argparse.Namespace, settings: Settings, _: list[str]) -> int:
    """Run the demo."""
    from trio_tools.command_line.demo import run_demo  # noqa: PLC0415

    await run_demo(settings)
    return 0


async def install(options: argparse.Namespace, settings: Settings, rest: list[str]) -> int:
    """Write this server's entry into a host's file."""
    from trio_tools.command_line.install import install  # noqa: PLC0415

    return await install(options, settings, rest)


async def uninstall(options: argparse.Namespace, settings: Settings, rest: list[str]) -> int:
    """Remove this server's entry from a host's file."""
    from trio_tools.command_line.install import uninstall  # noqa: PLC0415

    return await uninstall(options, settings, rest)


async def doctor(options: argparse.Namespace, settings: Settings, rest: list[str]) -> int:
    """Check the settings and the services and files that they name."""
    from trio_tools.command_line.doctor import doctor  # noqa: PLC0415

    return await doctor(options, settings, rest)


async def reload(options: argparse.Namespace, settings: Settings, rest: list[str]) -> int:
    """Make a running server read its settings again."""
    from trio_tools.command_line.reload import reload  # noqa: PLC0415

    return await reload(options, settings, rest)


async def completion(options: argparse.Namespace, _: Settings, __: list[str]) -> int:
    """Print the script with which a shell completes the commands and their options."""
    import shtab  # noqa: PLC0415 - of this command alone

    await trio.lowlevel.checkpoint()
    print(shtab.complete(options.parser, shell=options.shell))  # noqa: T201
    return 0


async def top(options: argparse.Namespace, settings: Settings, rest: list[str]) -> int:
    """Show the current activity of a server."""
    from trio_tools.command_line.top import top  # noqa: PLC0415

    return await top(options, settings, rest)


async def dashboard(options: argparse.Namespace, settings: Settings, rest: list[str]) -> int:
    """Serve the page of a stored state."""
    from trio_tools.command_line.dashboard import dashboard  # noqa: PLC0415

    return await dashboard(options, settings, rest)
