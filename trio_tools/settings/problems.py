"""Errors in settings, as lines that use the name under which each setting was given."""

from __future__ import annotations

from difflib import get_close_matches

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
        message = _message(each["type"], each["msg"], name)
        if message.startswith(f"{name}."):
            told.append(message)
        else:
            told.append(
                f"setting {name}: {message}" if written == name else f"{written}: {message}"
            )
    return told


def _message(kind: str, message: str, name: str) -> str:
    match kind:
        case "tuple_type" | "frozen_set_type":
            return """it takes a JSON list, such as ["a", "b"]"""
        case "extra_forbidden":
            near = _nearest_setting(name)
            return f"there is no such setting; {f'write {near}' if near else _LIST_OF_SETTINGS}"
        case "missing":
            return "it is required: give it a value"
        case _:
            return message.removeprefix("Value error, ")


_LIST_OF_SETTINGS = "`trio-tools settings --example` lists those that there are"


def _nearest_setting(name: str) -> str | None:
    """Return the setting that a name may have been meant for: of its group, else of any group."""
    from trio_tools.settings.reference import setting_rows  # noqa: PLC0415 - of errors alone

    *group, leaf = name.split(".")
    of_group: dict[str, str] = {}
    elsewhere: dict[str, str] = {}
    for row in setting_rows():
        *its_group, its_leaf = row.name.split(".")
        # The parts of a group that operators choose differ: apis.github.burst, apis.jira.burst.
        if len(its_group) == len(group) and its_group[:1] == group[:1]:
            of_group[its_leaf] = ".".join((*group, its_leaf))
        else:
            elsewhere.setdefault(its_leaf, row.name)
    near = get_close_matches(leaf, list(of_group), 1, 0.7)
    return of_group[near[0]] if near else elsewhere.get(leaf)
