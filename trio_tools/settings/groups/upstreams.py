"""The section of one upstream: another MCP server whose tools become operations here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    model_validator,
)

from trio_tools.settings.groups.fetch import checked_proxy
from trio_tools.settings.groups.http import HttpSettings
from trio_tools.settings.groups.section import Section

OWN_NAMES: Final = frozenset({"trio-tools", "trio_tools"})
"""The names of this server as a program and as a module."""

_THIS_MACHINE: Final = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0", "::"})  # noqa: S104
_URL: Final = re.compile(
    r"https?://[^\x00-\x20\x7f\\/?#@]+([/?][^\x00-\x20\x7f\\#]*)?", re.IGNORECASE
)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


def _upstream_url(text: str) -> str:
    # The value of a reference is known, and checked, when the upstream is started.
    if "${" not in text and not _URL.fullmatch(text):
        raise ValueError(
            "it must be an absolute http or https URL such as https://example.org/mcp, without "
            "credentials (use headers) and without a fragment"
        )
    return text


def _upstream_proxy(url: SecretStr) -> SecretStr:
    return url if "${" in url.get_secret_value() else checked_proxy(url)


def is_own_command(command: str | None, args: tuple[str, ...] | list[str]) -> bool:
    """Whether a command starts this server itself: `trio-tools`, or Python with its module."""
    words = [command or "", *args]
    return any(
        Path(word).name in OWN_NAMES and (at == 0 or words[at - 1] in {"-m", "run"} or _runs(words))
        for at, word in enumerate(words)
    )


def _runs(words: list[str]) -> bool:
    """Whether the first word is a program that runs the package that follows."""
    return Path(words[0]).name in {"uvx", "pipx", "uv"}


class UpstreamSettings(Section):
    """One MCP server behind this one: a command that is started, or a URL.

    `${NAME}`, `${NAME:-default}`, `${env:NAME}` and `${file:/path}` in `command`, `args`, `env`,
    `cwd`, `url`, `headers` and `proxy` stand for an environment variable or the text of a file.
    They are read when the upstream is started.
    """

    command: str | None = Field(
        default=None,
        description="Program to start. It must speak MCP on standard input and output.",
    )
    args: tuple[str, ...] = Field(default=(), description="Arguments of the program.")
    env: dict[str, SecretStr] = Field(
        default_factory=dict[str, SecretStr],
        description="Environment variables of the program, added to HOME, PATH and a few more. No "
        "other variable of the server is passed on.",
        repr=False,
    )
    cwd: str | None = Field(
        default=None,
        description="Working directory of the program, as an absolute path; by default /.",
    )
    url: Annotated[str, AfterValidator(_upstream_url)] | None = Field(
        default=None, description="URL of a Streamable HTTP server."
    )
    headers: dict[str, SecretStr] = Field(
        default_factory=dict[str, SecretStr],
        description="Headers of every request to the URL.",
        repr=False,
    )
    ca_file: Path | None = Field(
        default=None,
        description="PEM file of the certificate authorities that are trusted for the URL, in "
        "place of the usual ones.",
    )
    proxy: Annotated[SecretStr, AfterValidator(_upstream_proxy)] | None = Field(
        default=None,
        description="Proxy for the URL: http://host:port, or `environment` to use HTTPS_PROXY, "
        "HTTP_PROXY and NO_PROXY.",
        repr=False,
    )
    tools: tuple[str, ...] | None = Field(
        default=None,
        description='Allowed tools, by name or by a pattern such as "read_*"; by default only those'
        " that the upstream declares read-only.",
    )
    max_concurrent: PositiveInt = Field(default=10, description="Limit of calls in flight.")
    exclusive: bool = Field(
        default=False,
        description="Whether the upstream runs only one call at a time.",
    )
    item_timeout_seconds: PositiveFloat = Field(
        default=30.0, description="Default timeout of one call."
    )
    rate_per_second: PositiveFloat | None = Field(
        default=None, description="Limit of calls per second; null for no limit."
    )
    start: Literal["lazy", "eager"] = Field(
        default="lazy",
        description="`lazy` starts the upstream at its first use. `eager` starts it with the server"
        " and never stops it when idle.",
    )
    idle_seconds: PositiveFloat = Field(
        default=300.0, description="Time without calls after which the upstream is stopped."
    )
    start_timeout_seconds: PositiveFloat = Field(
        default=30.0, description="Timeout for the start, up to the upstream's list of tools."
    )
    max_reply_bytes: int = Field(
        default=10_000_000,
        ge=1_000,
        description="Limit of bytes of one result. The rest is not read.",
    )

    @model_validator(mode="after")
    def _is_a_command_or_a_url(self) -> Self:
        if (self.command is None) == (self.url is None):
            raise ValueError("an upstream has either a command or a url: give one of them")
        if self.command is None and (self.args or self.env or self.cwd is not None):
            raise ValueError("args, env and cwd belong to a command, and this upstream has a url")
        if self.url is None and self.headers:
            raise ValueError("headers belong to a url, and this upstream has a command: use env")
        if self.url is None and (self.ca_file is not None or self.proxy is not None):
            raise ValueError(
                "ca_file and proxy belong to a url, and this upstream has a command: leave them "
                "out, or pass them to the command with args or env"
            )
        if self.cwd is not None and "${" not in self.cwd and not Path(self.cwd).is_absolute():
            raise ValueError("cwd must be an absolute path")
        if is_own_command(self.command, self.args):
            raise ValueError(
                "it is trio-tools itself, which would start itself for ever: leave it out"
            )
        return self

    @property
    def calls_at_once(self) -> int:
        """Limit of its calls in flight."""
        return 1 if self.exclusive else self.max_concurrent


def check_upstreams_are_others(upstreams: dict[str, UpstreamSettings], http: HttpSettings) -> None:
    """Refuse an upstream whose URL is the address of this server itself.

    Other names of this machine, and a port that the system chooses, are not known here. Such an
    upstream is refused at its first use, by the name that the server reports.

    Raises:
        ValueError: An upstream has that URL; the message names it.
    """
    for name, upstream in upstreams.items():
        if upstream.url is not None and _is_own_url(upstream.url, http):
            raise ValueError(
                f"upstreams.{name}.url is where this server itself is served (UPSTREAM_LOOP), "
                "which would call itself for ever: leave it out"
            )


def _is_own_url(url: str, http: HttpSettings) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme.lower() == "https" else 80)
    except ValueError:  # its port is a reference
        return False
    host = (parts.hostname or "").rstrip(".")
    if parts.path.rstrip("/") != http.path.rstrip("/"):
        return False
    if {host, f"{host}:{port}"} & {each.lower() for each in http.allowed_hosts}:
        return True
    bound = http.host.strip("[]").lower()
    here = _THIS_MACHINE if bound in _THIS_MACHINE else {bound}
    return port == http.port and host in here


def check_upstream_names(names: list[str]) -> None:
    """Refuse names that cannot be the first part of an operation's name.

    Raises:
        ValueError: One is not like `files` or `my-server`.
    """
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"upstreams.{name}: the name must be letters, digits, _ and -, at most 64, and "
                "begin with a letter, as in files or my-server"
            )
