"""The names in schemas and descriptions: operations, APIs, databases, models, datasets.

They are read from the live state, so only configured ones appear.
"""

from __future__ import annotations

from typing import Final

from trio_tools.live.state import ServerState
from trio_tools.tools.declaring.schemas import fields_of

_MAX_LINES: Final = 60
_MAX_LINE_CHARS: Final = 240

# Built-in operations that cannot be used without a setting.
_NEEDED = {"call_api": "apis", "query": "databases", "infer": "models_folder"}


def has_apis(state: ServerState) -> bool:
    """Whether an API is configured."""
    return bool(state.settings.apis)


def has_databases(state: ServerState) -> bool:
    """Whether a database is configured."""
    return bool(state.settings.databases)


def has_models(state: ServerState) -> bool:
    """Whether a folder of models is configured."""
    return state.settings.models_folder is not None


def has_datasets(state: ServerState) -> bool:
    """Whether a dataset is configured, or a root that may contain one."""
    return bool(state.settings.datasets or state.settings.file_roots)


def operation_names(state: ServerState) -> list[str]:
    """Return the names of the usable operations."""
    settings = state.settings
    return [
        name for name in state.operations if name not in _NEEDED or getattr(settings, _NEEDED[name])
    ]


def api_names(state: ServerState) -> list[str]:
    """Return the names of the APIs."""
    return list(state.settings.apis)


def database_names(state: ServerState) -> list[str]:
    """Return the names of the databases."""
    return list(state.settings.databases)


def dataset_names(state: ServerState) -> list[str]:
    """Return the names of the configured datasets."""
    return list(state.settings.datasets)


def model_names(state: ServerState) -> tuple[str, ...]:
    """Return the names of the models at the latest listing of the tools."""
    return state.model_names


def operation_lines(state: ServerState) -> str:
    """Return a line for each operation, with the fields of its item."""
    names = operation_names(state)
    lines = [_operation_line(state, name) for name in names[:_MAX_LINES]]
    if len(names) > _MAX_LINES:
        lines.append(f"and {len(names) - _MAX_LINES} more")
    return "\n".join(lines)


def api_lines(state: ServerState) -> str:
    """Return a line for each API, with its purpose and the allowed calls."""
    lines: list[str] = []
    for name, api in state.settings.apis.items():
        told = f"{api.description} " if api.description else ""
        methods = ", ".join(sorted(api.allowed_methods))
        paths = ", ".join(api.allowed_path_prefixes)
        lines.append(_cut(f"- {name}: {told}({methods} {paths})"))
    return "\n".join(lines)


def _operation_line(state: ServerState, name: str) -> str:
    operation = state.operations[name]
    description = operation.description.rstrip(".").partition("\n")[0]
    return _cut(f"- {name}: {description}. Item: {fields_of(operation.item_schema())}")


def _cut(line: str) -> str:
    return line if len(line) <= _MAX_LINE_CHARS else f"{line[: _MAX_LINE_CHARS - 1]}…"
