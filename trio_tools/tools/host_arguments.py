"""Arguments as hosts send them: with nulls and empty texts for what is not given, and keys added.

Many hosts fill in every argument of the schema, and some add keys of their own to each call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

from trio_tools.tools.arguments import REQUIRED, arguments_of

# Which an empty text is a value for, unless the other source of the same is given.
_EMPTY_TEXT: Final = "text"
_OTHER_SOURCE: Final = "path"


def as_meant(
    arguments: dict[str, Any], fn: Callable[..., Awaitable[Any]], ignored: Collection[str]
) -> dict[str, Any]:
    """Return the arguments without what a host added, and without what it says is not given.

    Args:
        arguments: As they came.
        fn: The tool's function, whose arguments with a default are optional.
        ignored: Keys that hosts add; dropped where the tool has no such argument.
    """
    optional = {name: default is not REQUIRED for name, (_, default) in arguments_of(fn).items()}
    return {
        name: value
        for name, value in arguments.items()
        if not (
            (optional.get(name) and _is_absent(name, value, arguments))
            or (name in ignored and name not in optional)
        )
    }


def _is_absent(name: str, value: Any, arguments: dict[str, Any]) -> bool:
    empty = value == "" and (name != _EMPTY_TEXT or bool(arguments.get(_OTHER_SOURCE)))
    return value is None or empty
