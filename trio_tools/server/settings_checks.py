"""Checks of settings beyond single values, which need only the names of tools and operations."""

from __future__ import annotations

import os
from collections.abc import Iterable

from trio_tools.http.apis.redaction import LEAST_SECRET_CHARS
from trio_tools.operations.operation import Operation
from trio_tools.settings import Settings, written_name
from trio_tools.tools.catalog import BUILT_IN_NAMES, DEFAULT
from trio_tools.tools.declaring.declaration import Tool


def check_names_of_limits(
    settings: Settings, operations: Iterable[Operation], own: Iterable[Tool]
) -> None:
    """Refuse a misspelt name in `limits`, which would have no effect.

    Args:
        settings: The settings with the limits.
        operations: The operations of the server.
        own: Tools of the application.

    Raises:
        ValueError: No tool and no operation has a limit of that name.
    """
    known = BUILT_IN_NAMES - {tool.name for tool in DEFAULT if tool.control}
    known |= {tool.name for tool in own if not tool.control}
    known |= {operation.limit_name for operation in operations}
    known |= {f"upstreams.{name}" for name in settings.upstreams}
    for name in settings.limits.by_tool:
        if name not in known:
            raise ValueError(
                f"limits.{name}: no tool or operation has that limit; there are: "
                f"{', '.join(sorted(known))}"
            )


def unset_secrets(settings: Settings) -> list[str]:
    """Return a line for each API whose secret is not in the environment."""
    return [
        f"{written_name(f'apis.{name}.auth_env')} names {api.auth_env}, which {trouble}"
        for name, api in settings.apis.items()
        if api.auth_env is not None and (trouble := _trouble_of_secret(api.auth_env))
    ]


def _trouble_of_secret(variable: str) -> str:
    secret = os.environ.get(variable, "")
    if not secret:
        return "is not set in the environment: set it, or leave the setting out"
    if len(secret) < LEAST_SECRET_CHARS:
        return (
            f"has fewer than {LEAST_SECRET_CHARS} characters, so it could not be distinguished "
            "from other text in a reply: use a longer secret"
        )
    return ""
