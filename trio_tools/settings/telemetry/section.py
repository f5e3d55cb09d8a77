"""The section of OpenTelemetry."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from trio_tools.settings.groups.section import Section

_ENDPOINT: Final = re.compile(
    r"https?://(\[[0-9A-Fa-f:.]+\]|[^\s/@:?#\[\]]+)(:[0-9]{1,5})?(/[^\s?#]*)?", re.IGNORECASE
)


def _endpoint(text: str) -> str:
    if _ENDPOINT.fullmatch(text) is None:
        raise ValueError(
            "it is not the base URL of a receiver of OTLP over HTTP: write it as in "
            "http://localhost:4318, without /v1/traces, a query or a password; headers belong into "
            "the environment variable OTEL_EXPORTER_OTLP_HEADERS"
        )
    return text.rstrip("/")


class TelemetrySettings(Section):
    """Traces and metrics that are sent with OpenTelemetry (extra `telemetry`).

    The standard environment variables `OTEL_*` apply to everything that has no setting here.
    """

    enabled: bool = Field(
        default=False, description="Whether spans and metrics are sent (extra `telemetry`)."
    )
    endpoint: Annotated[str, AfterValidator(_endpoint)] | None = Field(
        default=None,
        description="Base URL of the receiver of OTLP over HTTP; null for what "
        "OTEL_EXPORTER_OTLP_ENDPOINT says, or else http://localhost:4318.",
        examples=["http://localhost:4318"],
    )
    item_sample: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Share of the items of batch calls that have a span; those that fail always "
        "have one.",
    )
    metrics: bool = Field(
        default=True,
        description="Whether metrics are sent too, beside those of /metrics.",
    )
    url_paths: bool = Field(
        default=False,
        description="Whether spans of requests have the path of the URL. Queries, credentials and "
        "the paths of APIs never are in a span.",
    )
