"""The section of one client: its turn in waiting lines, and what it may do in a day."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, PositiveInt


class ClientSettings(BaseModel):
    """One client, by the name of its token or the subject of its access token."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    weight: float = Field(
        default=1.0,
        gt=0,
        le=1_000,
        description="Its share of the turns while others wait too: 3 has thrice those of 1.",
    )
    priority: int = Field(
        default=0,
        ge=-100,
        le=100,
        description="Lower numbers are served first; 10 s of waiting count as one step.",
    )
    calls_per_day: PositiveInt | None = Field(
        default=None, description="Tool calls from midnight to midnight, UTC; null for any number."
    )
    items_per_day: PositiveInt | None = Field(
        default=None,
        description="Items of batch calls after which no further call is taken that day.",
    )
