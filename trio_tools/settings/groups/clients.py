"""The section of one client: its weight and priority in queues, and its quotas."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from trio_tools.settings.groups.section import Section


class ClientSettings(Section):
    """One client, by the name of its token or the subject of its access token."""

    weight: float = Field(
        default=1.0,
        gt=0,
        le=1_000,
        description="Share of the turns while other clients wait: weight 3 gets three turns for "
        "each turn of weight 1.",
    )
    priority: int = Field(
        default=0,
        ge=-100,
        le=100,
        description="Lower numbers are served first. Waiting for 10 s counts as one step.",
    )
    calls_per_day: PositiveInt | None = Field(
        default=None, description="Limit of tool calls per day (UTC); null for no limit."
    )
    items_per_day: PositiveInt | None = Field(
        default=None,
        description="Limit of items in batch calls per day (UTC). At the limit, further calls are "
        "refused; null for no limit.",
    )

    @property
    def has_quota(self) -> bool:
        """Whether it has a daily quota."""
        return self.calls_per_day is not None or self.items_per_day is not None
