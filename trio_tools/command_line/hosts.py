"""The hosts that start MCP servers: the file of each, and the form of its entries.

One row per host. Paths and forms are from each host's documentation.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

ENTRY_NAME: Final = "trio-tools"

Scope = Literal["user", "project"]
Reads = Literal["text", "structured", "both"]


@dataclass(frozen=True)
class Host:
    """One host.

    Attributes:
        title: Its name for people.
        container: Key of its file that contains the servers.
        user_file: Path of the user's file.
        project_file: Path of the file in a project's folder; None if the host has none.
        extra: Further keys of an entry, beside `command` and `args`.
        reads: The form of an answer that reaches the model.
        forwards: The same in words.
        restart: What a person must do to make the host read the file again.
    """

    title: str
    container: str
    user_file: Callable[[], Path]
    project_file: str | None
    extra: Mapping[str, Any]
    reads: Reads
    forwards: str
    restart: str

    def file(self, scope: Scope, project: Path) -> Path:
        """Return the path of the file.

        Raises:
            ValueError: The host has no file for a project.
        """
        if scope == "user":
            return self.user_file()
        if self.project_file is None:
            raise ValueError(f"{self.title} has no file for a project: leave out --project")
        return project / self.project_file

    def entry(self, command: list[str]) -> dict[str, Any]:
        """Return the entry that starts `command`, as the host writes it."""
        return {**self.extra, "command": command[0], "args": command[1:]}


def _configuration(application: str) -> Path:
    """Return the folder of the settings of desktop applications."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / application
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming") / application
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / application


def _zed() -> Path:
    if sys.platform == "darwin":
        return Path.home() / ".config" / "zed" / "settings.json"
    return _configuration("Zed" if sys.platform == "win32" else "zed") / "settings.json"


def _codex() -> Path:
    return Path(os.environ.get("CODEX_HOME") or Path.home() / ".codex") / "config.toml"


def _claude_code() -> Path:
    folder = os.environ.get("CLAUDE_CONFIG_DIR")
    return Path(folder) / ".claude.json" if folder else Path.home() / ".claude.json"


_STDIO = {"type": "stdio"}
_BOTH = "the text and, where there is one, the structured content"

HOSTS: Final[Mapping[str, Host]] = {
    "claude-code": Host(
        "Claude Code",
        "mcpServers",
        _claude_code,
        ".mcp.json",
        _STDIO,
        "structured",
        "the structured content alone; more than about 50,000 characters go to a file, unless the "
        "tool declares its size, as these tools do",
        "start a new session, then /mcp",
    ),
    "claude-desktop": Host(
        "Claude Desktop",
        "mcpServers",
        lambda: _configuration("Claude") / "claude_desktop_config.json",
        None,
        {},
        "text",
        "the text",
        "quit it whole and start it again",
    ),
    "cursor": Host(
        "Cursor",
        "mcpServers",
        lambda: Path.home() / ".cursor" / "mcp.json",
        ".cursor/mcp.json",
        {},
        "structured",
        "the structured content, as text",
        "open its settings, Tools & MCP, and switch the server on",
    ),
    "vscode": Host(
        "VS Code",
        "servers",
        lambda: _configuration("Code") / "User" / "mcp.json",
        ".vscode/mcp.json",
        _STDIO,
        "both",
        _BOTH,
        "run the command MCP: List Servers and start it",
    ),
    "codex": Host(
        "Codex",
        "mcp_servers",
        _codex,
        ".codex/config.toml",
        {},
        "both",
        _BOTH,
        "start a new session",
    ),
    "gemini": Host(
        "Gemini CLI",
        "mcpServers",
        lambda: Path.home() / ".gemini" / "settings.json",
        ".gemini/settings.json",
        {},
        "text",
        "the text",
        "start it again, then /mcp",
    ),
    "windsurf": Host(
        "Windsurf",
        "mcpServers",
        lambda: Path.home() / ".codeium" / "windsurf" / "mcp_config.json",
        None,
        {},
        "text",
        "the text",
        "press refresh in its list of MCP servers",
    ),
    "zed": Host(
        "Zed",
        "context_servers",
        _zed,
        ".zed/settings.json",
        {"source": "custom"},
        "text",
        "the text",
        "nothing: it reads the file at once",
    ),
}
"""The hosts by their names on the command line."""
