"""The settings of an upstream with the references in them filled in.

A child gets a short list of environment variables and those in the settings, and no others. It
starts in `/`, so that Python, Node and npx find no code in our working directory. Its program is
searched only in the absolute folders of PATH.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from trio_tools.answers.errors import UpstreamFailed
from trio_tools.settings import UpstreamSettings

_T = TypeVar("_T")

_PASSED_ON: Final = (
    "HOME",
    "LANG",
    "LC_ALL",
    "LOGNAME",
    "PATH",
    "SHELL",
    "TMPDIR",
    "TZ",
    "USER",
)
_REFERENCE: Final = re.compile(
    r"\$\{(?:file:(?P<file>[^}]+)|(?:env:)?(?P<name>[A-Za-z_]\w*)(?::-(?P<default>[^}]*))?)\}"
)
_SECRET_HEADER: Final = re.compile("auth|cookie|key|secret|token", re.IGNORECASE)
_MAX_SECRET_BYTES: Final = 100_000
_LEAST_SECRET_CHARS: Final = 6


@dataclass(frozen=True)
class Program:
    """A program that is ready to be started.

    Attributes:
        path: Absolute path.
        args: Its arguments.
        env: Its whole environment.
        cwd: Its working directory, absolute.
    """

    path: str
    args: tuple[str, ...]
    env: dict[str, str] = field(repr=False)
    cwd: str


@dataclass(frozen=True)
class Endpoint:
    """A Streamable HTTP server.

    Attributes:
        url: Its URL.
        headers: Headers of every request to it.
        ca_file: Certificate authorities that are trusted, instead of the default ones.
        proxy: URL of a proxy, or "environment".
    """

    url: str
    headers: dict[str, str] = field(repr=False)
    ca_file: Path | None = None
    proxy: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Launch:
    """The way to reach an upstream, and the secrets that must not be shown.

    Attributes:
        target: A program or a URL.
        secrets: Texts that are replaced in what the upstream says of failures.
        tokens: Of these, the credentials in headers, which are replaced in results too. A value of
            `env` may be a word or a path that belongs into a result.
    """

    target: Program | Endpoint
    secrets: tuple[str, ...] = field(repr=False)
    tokens: tuple[str, ...] = field(default=(), repr=False)

    def redacted(self, text: str) -> str:
        """Return a text of the upstream without the secrets."""
        return _without(self.secrets, text)

    def redacted_result(self, result: dict[str, Any]) -> dict[str, Any]:
        """Return the result of a tool, as JSON values, without the secrets."""
        hidden = self.secrets if result.get("isError") else self.tokens
        return _without(hidden, result) if hidden else result


def launch_of(settings: UpstreamSettings) -> Launch:
    """Fill in the references of the settings, and find the program.

    Raises:
        UpstreamFailed: A referenced variable or file, or the program, does not exist.
    """
    environ = os.environ
    secrets: list[str] = []

    def filled(text: str) -> str:
        value = _fill(text, environ)
        if value != text:
            secrets.append(value)
        return value

    if settings.url is not None:
        headers = {name: filled(text.get_secret_value()) for name, text in settings.headers.items()}
        proxy = None if settings.proxy is None else filled(settings.proxy.get_secret_value())
        endpoint = Endpoint(filled(settings.url), headers, settings.ca_file, proxy)
        hidden = [*headers.values(), *map(_credentials, headers.values()), *_passwords(proxy)]
        tokens = [v for name, v in headers.items() if _SECRET_HEADER.search(name)]
        tokens += [_credentials(value) for value in tokens]
        return Launch(endpoint, _worth_hiding([*secrets, *hidden]), _worth_hiding(tokens))
    assert settings.command is not None
    own = {name: filled(text.get_secret_value()) for name, text in settings.env.items()}
    env = {name: environ[name] for name in _PASSED_ON if name in environ} | own
    cwd = filled(settings.cwd or "/")
    args = tuple(filled(arg) for arg in settings.args)
    path = _program(filled(settings.command), env.get("PATH", os.defpath))
    return Launch(Program(path, args, env, cwd), _worth_hiding([*secrets, *own.values()]))


def _fill(text: str, environ: Mapping[str, str]) -> str:
    def value_of(match: re.Match[str]) -> str:
        if match["file"] is not None:
            return _read(match["file"])
        value = environ.get(match["name"]) or match["default"]
        if value is None:
            raise UpstreamFailed(
                f"its settings refer to the environment variable {match['name']}, which is not set",
                error_code="UPSTREAM_NOT_CONFIGURED",
            )
        return value

    return _REFERENCE.sub(value_of, text)


def _read(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return file.read(_MAX_SECRET_BYTES).decode().strip()
    except (OSError, ValueError) as error:
        raise UpstreamFailed(
            f"its settings refer to the file {path}, which cannot be read: {type(error).__name__}",
            error_code="UPSTREAM_NOT_CONFIGURED",
        ) from None


def _program(command: str, search: str) -> str:
    if "/" in command:
        if not command.startswith("/"):
            raise UpstreamFailed(
                f"its command {command!r} is a relative path: write an absolute one, or the bare "
                "name of a program",
                error_code="UPSTREAM_NOT_CONFIGURED",
            )
        found = shutil.which(command)
    else:
        folders = [folder for folder in search.split(os.pathsep) if folder.startswith("/")]
        found = shutil.which(command, path=os.pathsep.join(folders))
    if found is None:
        raise UpstreamFailed(
            f"its command {command!r} is not found: install it, or write its absolute path",
            error_code="UPSTREAM_NOT_CONFIGURED",
        )
    return found


def _without(hidden: tuple[str, ...], value: _T) -> _T:
    """Return a JSON value with `***` in place of the hidden texts, in names too."""
    changed: Any = value
    if isinstance(value, str):
        for text in hidden:
            changed = changed.replace(text, "***")
    elif isinstance(value, dict):
        table = cast("dict[str, Any]", value)
        changed = {_without(hidden, name): _without(hidden, each) for name, each in table.items()}
    elif isinstance(value, list):
        changed = [_without(hidden, each) for each in cast("list[Any]", value)]
    return changed


def _credentials(header: str) -> str:
    """Return the part after the scheme of a header such as `Bearer abc`."""
    return header.rpartition(" ")[2]


def _passwords(proxy: str | None) -> list[str]:
    credentials = (proxy or "").rpartition("@")[0].rpartition("/")[2]
    return [credentials, credentials.partition(":")[2]]


def _worth_hiding(values: list[str]) -> tuple[str, ...]:
    """Return the texts that may be secrets, longest first."""
    return tuple(
        sorted({v for v in values if len(v) >= _LEAST_SECRET_CHARS}, key=len, reverse=True)
    )
