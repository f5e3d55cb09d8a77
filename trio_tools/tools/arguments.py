"""The arguments that several tools share, each with one meaning and one description."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trio_tools.errors import InvalidArgument

MaxConcurrent = Annotated[
    int | None, Field(gt=0, description="Items in flight at once, within the cap.")
]
TimeoutSeconds = Annotated[
    float | None, Field(ge=0.001, description="Time for this call, all waiting included.")
]
BudgetSeconds = Annotated[
    float | None,
    Field(ge=0.001, description="Answer within these seconds, with all there is."),
]
ItemTimeoutSeconds = Annotated[
    float | None, Field(gt=0, description="Give up on an item after these seconds.")
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
