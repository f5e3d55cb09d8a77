"""The arguments that several tools share, each with one meaning and one description."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

MaxConcurrent = Annotated[
    int | None, Field(gt=0, description="Items in flight at once, within the cap.")
]
TimeoutSeconds = Annotated[float | None, Field(gt=0, description="Time for this call.")]
BudgetSeconds = Annotated[
    float | None, Field(gt=0, description="Answer within this time, with all there is.")
]
ItemTimeoutSeconds = Annotated[
    float | None, Field(gt=0, description="Give up on an item after this time.")
]
OperationId = Annotated[
    str | None,
    Field(min_length=1, max_length=128, description="Repeat an id to do only what is missing."),
]
