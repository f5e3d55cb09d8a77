"""The group `limits`: concurrency, queue and timeouts of each tool, and the built-in ones."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from nursery_patterns import usable_cpus
from trio_tools.settings.groups.section import Section


class ToolLimits(Section):
    """Concurrency, queue and timeouts of one tool.

    Its defaults are those of a tool without built-in limits; `Settings.limits_of` adds those of a
    tool.
    """

    concurrency: PositiveInt = Field(
        default=10, description="Default number of items that one call runs at once."
    )
    max_concurrency: PositiveInt = Field(
        default=50, description="Limit of items in flight over all calls, and the cap for one call."
    )
    max_calls: PositiveInt = Field(default=10, description="Limit of calls that run at once.")
    max_waiting: NonNegativeInt = Field(
        default=1_000,
        description="Limit of waiting calls. A call whose turn is not expected before its deadline "
        "is refused.",
    )
    timeout_seconds: PositiveFloat = Field(default=30.0, description="Default timeout of one call.")
    max_timeout_seconds: PositiveFloat = Field(
        default=300.0,
        description="Cap of the timeouts that a call may request, for itself and for an item.",
    )
    item_timeout_seconds: PositiveFloat | None = Field(
        default=None,
        description="Default timeout of one item of a batch; null for no limit besides the call's.",
    )

    def under(self, chosen: dict[str, Any]) -> ToolLimits:
        """Return these limits with the chosen values; dependent defaults follow them."""
        values = self.model_dump() | chosen
        for name, cap in _CAP_OF.items():
            value = values[name]
            if value is None or value <= values[cap]:
                continue
            raised = name in chosen and cap not in chosen
            values |= {cap: value} if raised else {name: values[cap]}
        return ToolLimits.model_validate(values)


class LimitsSettings(Section):
    """Limits that differ from the built-in ones, by tool; and whether replicas share some.

    Those of a tool are `limits["fetch_urls"]`, or `limits.by_tool` for all of them.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, ToolLimits] = Field(init=False)  # pyright: ignore[reportIncompatibleVariableOverride] - as pydantic documents it

    shared: bool = Field(
        default=False,
        description="Whether all servers with the same PostgreSQL state share the limits of "
        "external services: rates of APIs and upstreams, concurrent requests to one API"
        " or host.",
    )
    replicas: PositiveInt = Field(
        default=1,
        description="Number of servers that share limits, used until they have been counted.",
    )

    @property
    def by_tool(self) -> dict[str, ToolLimits]:
        """The limits that were given, by tool or operation."""
        return self.__pydantic_extra__

    def get(self, tool: str) -> ToolLimits | None:
        """Return the limits that were given for a tool, None if none were."""
        return self.by_tool.get(tool)

    def __getitem__(self, tool: str) -> ToolLimits:
        return self.by_tool[tool]


# What differs from the defaults of `ToolLimits`. Batch-like tools answer within 50 s, under the
# 60 s after which most clients hang up.
_CPUS = usable_cpus()
_BATCH = {"timeout_seconds": 50.0}
_BUILT_IN: dict[str, dict[str, Any]] = {
    "fetch_urls": _BATCH,
    "batch_process": _BATCH,
    "process_large_dataset": _BATCH,
    "crawl_site": {**_BATCH, "item_timeout_seconds": 20.0},
    "call_external_api": {"concurrency": 3, "max_concurrency": 3},
    "query_database": {"concurrency": 5, "max_concurrency": 5},
    "compute_hash": {"concurrency": _CPUS, "max_concurrency": _CPUS},
    "compress_data": {"concurrency": _CPUS, "max_concurrency": _CPUS},
    "run_inference": {"concurrency": 2, "max_concurrency": 2},
}
_CAP_OF = {
    "concurrency": "max_concurrency",
    "timeout_seconds": "max_timeout_seconds",
    "item_timeout_seconds": "max_timeout_seconds",
}


def over_built_in(tool: str, given: ToolLimits) -> ToolLimits:
    """Return the limits of a tool: what was given, and for the rest what is built in.

    A default that was not set follows a lowered cap.

    Raises:
        ValueError: A default was given that is above its cap.
    """
    chosen = given.model_fields_set
    built_in = {k: v for k, v in _BUILT_IN.get(tool, {}).items() if k not in chosen}
    values = given.model_dump() | built_in
    for name, cap_name in _CAP_OF.items():
        value, cap = values[name], values[cap_name]
        if value is None or value <= cap:
            continue
        if name in chosen:
            usual = "" if cap_name in chosen else " unless set"
            raise ValueError(
                f"limits.{tool}.{name} is {value}, above {cap_name} ({cap}{usual}): lower it, or "
                f"set limits.{tool}.{cap_name} to at least {value}"
            )
        values[name] = cap
    return ToolLimits.model_construct(_fields_set=set(chosen), **values)
