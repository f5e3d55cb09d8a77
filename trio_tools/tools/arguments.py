"""The arguments that several tools share, each with one meaning and one description."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from trio_tools.errors import InvalidArgument


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("is a number")  # noqa: TRY004 - pydantic wants it so
    return value


_Number = BeforeValidator(_refuse_bool)

MaxConcurrent = Annotated[
    int | None, Field(gt=0, description="Items in flight at once, within the cap."), _Number
]
TimeoutSeconds = Annotated[
    float | None, Field(ge=0.001, description="Time for this call, in seconds."), _Number
]
BudgetSeconds = Annotated[
    float | None,
    Field(ge=0.001, description="Answer within these seconds, with all there is."),
    _Number,
]
ItemTimeoutSeconds = Annotated[
    float | None, Field(gt=0, description="Give up on an item after these seconds."), _Number
]
OperationId = Annotated[
    str | None,
    Field(min_length=1, max_length=128, description="Repeat an id to do only what is missing."),
]


def check_count(argument: str, count: int, most: int) -> None:
    """Refuse a list of no items or of too many, by their number alone.

    Raises:
        InvalidArgument: `count` is not from 1 to `most`.
    """
    if not 1 <= count <= most:
        raise InvalidArgument(
            f"{argument} takes 1 to {most} items, got {count}: "
            + ("split them over several calls" if count else "give at least one"),
            data={"argument": argument, "minimum": 1, "maximum": most},
        )
