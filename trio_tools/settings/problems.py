"""Errors in settings, as lines that use the name under which each setting was given."""

from __future__ import annotations

from pydantic import ValidationError

from trio_tools.settings.settings import written_name


def problem_lines(error: Exception) -> list[str]:
    """Return a line for each problem in an error of reading the settings."""
    if not isinstance(error, ValidationError):
        return [str(error)]
    told: list[str] = []
    for each in error.errors(include_url=False):
        name = ".".join(map(str, each["loc"]))
        written = written_name(name)
        message = each["msg"].removeprefix("Value error, ")
        if each["type"] in {"tuple_type", "frozen_set_type"}:
            message = """it takes a JSON list, such as ["a", "b"]"""
        if message.startswith(f"{name}."):
            told.append(message)
        else:
            told.append(
                f"setting {name}: {message}" if written == name else f"{written}: {message}"
            )
    return told
