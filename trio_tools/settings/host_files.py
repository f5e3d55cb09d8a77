"""The file in which a host keeps its MCP servers, read as upstreams.

`mcpServers` of Claude Desktop, Claude Code's `.mcp.json` and Cursor, and `servers` of VS Code's
`mcp.json`, with its comments. Keys that only concern the host are ignored. Our own entry in the
file is skipped: it is how the host starts us.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from trio_tools.settings.groups.upstreams import OWN_NAMES, is_own_command

_MAX_BYTES: Final = 1_000_000
_TAKEN: Final = ("command", "args", "env", "cwd", "url", "headers")
# A text, a comment, or a comma before a closing bracket. The first match counts.
_COMMENT: Final = re.compile(
    r""" "(?:[^"\\]|\\.)*" | //[^\n]* | /\*.*?\*/ | ,(?=\s*[\]}]) """, re.VERBOSE | re.DOTALL
)
_INPUT: Final = re.compile(r"\$\{(input|command):[^}]*\}")


class HostFile(NamedTuple):
    """The upstreams in a host's file.

    Attributes:
        upstreams: Values for `Settings(upstreams=…)`, by name.
        left_out: By name, why an entry is not an upstream.
    """

    upstreams: dict[str, dict[str, Any]]
    left_out: dict[str, str]


def read_host_file(path: Path) -> HostFile:
    """Read the servers that a host starts.

    Raises:
        OSError: There is no such file.
        ValueError: It is not JSON with `mcpServers` or `servers`; the message says so.
    """
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(
            f"{path} is larger than {_MAX_BYTES:,} bytes: name a host's file of servers"
        )
    try:
        tree: Any = json.loads(_COMMENT.sub(_without_comment, data.decode("utf-8-sig")))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): name a host's file of servers") from None
    servers = _servers_in(tree)
    if servers is None:
        raise ValueError(
            f"{path} has no mcpServers (Claude Desktop, Claude Code, Cursor) and no servers "
            "(VS Code): name a host's file of servers"
        )
    folder = path.absolute().parent
    workspace = folder.parent if folder.name in {".vscode", ".cursor"} else folder
    found = HostFile({}, {})
    for name, entry in servers.items():
        _take(found, name, entry, workspace)
    return found


def _without_comment(match: re.Match[str]) -> str:
    text = match.group()
    return text if text.startswith('"') else ""


def _servers_in(tree: Any) -> dict[str, Any] | None:
    if not isinstance(tree, dict):
        return None
    fields = cast("dict[str, Any]", tree)
    inner = fields.get("mcp")
    places = [fields, cast("dict[str, Any]", inner)] if isinstance(inner, dict) else [fields]
    for place in places:
        for key in ("mcpServers", "servers"):
            if isinstance(place.get(key), dict):
                return place[key]
    return None


def _take(found: HostFile, name: str, entry: Any, workspace: Path) -> None:
    """Add an entry to the upstreams, or the reason why it is not one."""
    own_name = re.sub(r"[^A-Za-z0-9_-]+", "_", name).lstrip("_-0123456789") or "upstream"
    if not isinstance(entry, dict):
        found.left_out[own_name] = "it is not an object"
        return
    given = cast("dict[str, Any]", entry)
    if name in OWN_NAMES or _starts_us(given.get("command"), given.get("args")):
        found.left_out[own_name] = "it is trio-tools itself"
    elif given.get("disabled") is True:
        found.left_out[own_name] = "it is disabled there"
    elif given.get("type") in {"sse", "ws"}:
        found.left_out[own_name] = (
            f"its transport is {given['type']}: only stdio and http are known"
        )
    elif _INPUT.search(json.dumps(given)):
        found.left_out[own_name] = (
            "it asks the user for an input: write an environment variable there, as in ${TOKEN}"
        )
    else:
        kept = {key: given[key] for key in _TAKEN if given.get(key) is not None}
        found.upstreams[own_name] = cast("dict[str, Any]", _in_folder(kept, workspace))


def _starts_us(command: Any, args: Any) -> bool:
    words = [str(word) for word in cast("list[Any]", args)] if isinstance(args, list) else []
    return isinstance(command, str) and is_own_command(command, words)


def _in_folder(value: Any, workspace: Path) -> Any:
    """Return a value in which VS Code's variables for folders are replaced."""
    match value:
        case str():
            return value.replace("${workspaceFolder}", str(workspace)).replace(
                "${userHome}", str(Path.home())
            )
        case list():
            return [_in_folder(each, workspace) for each in cast("list[Any]", value)]
        case dict():
            fields = cast("dict[str, Any]", value)
            return {key: _in_folder(each, workspace) for key, each in fields.items()}
        case _:
            return value
