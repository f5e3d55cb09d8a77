"""The group of one API: where it is, its secret, its rate, and what may be called."""

from __future__ import annotations

import re
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt

from trio_tools.settings.groups.section import Section

_BASE_URL: Final = re.compile(
    r"https?://[^\x00-\x20\x7f\\/?#@]+(/[^\x00-\x20\x7f\\?#]*)?", re.IGNORECASE
)
_METHOD: Final = re.compile(r"[A-Z]+")


def _base_url(text: str) -> str:
    if not (_BASE_URL.fullmatch(text) and _names_a_host(text)):
        raise ValueError(
            "it must be an absolute URL such as https://example.org/v1, with http or https and a "
            "host, and without credentials (use auth_env), query or fragment"
        )
    return text


def _names_a_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bad port, or a part of an IPv6 address
        return False


def _method(text: str) -> str:
    method = text.upper()
    if not _METHOD.fullmatch(method):
        raise ValueError("it is not an HTTP method: write one like GET or POST")
    return method


def _path_prefix(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("it must begin with a slash, as every path does: write one like /v1")
    return text


class ApiSettings(Section):
    """One HTTP API that `call_external_api` may call by name."""

    description: str = Field(default="", description="Purpose of the API, for models.")
    base_url: Annotated[str, AfterValidator(_base_url)] = Field(
        description="URL under which its paths are, with the scheme."
    )
    auth_env: str | None = Field(
        default=None,
        description="Environment variable that contains the secret. No caller sees it.",
    )
    auth_header: str = Field(
        default="authorization", description="Header in which the secret is sent."
    )
    auth_scheme: str = Field(
        default="Bearer", description="Scheme before the secret; may be empty."
    )
    rate_per_second: PositiveFloat = Field(
        default=5.0, description="Average limit of requests per second."
    )
    burst: PositiveInt = Field(
        default=5, description="Requests that may start at once after a pause."
    )
    max_concurrent: PositiveInt = Field(default=3, description="Limit of requests in flight.")
    allowed_methods: frozenset[Annotated[str, AfterValidator(_method)]] = Field(
        default=frozenset({"GET"}), description="Allowed HTTP methods."
    )
    allowed_path_prefixes: tuple[Annotated[str, AfterValidator(_path_prefix)], ...] = Field(
        default=("/",), description="Prefixes of the allowed paths."
    )
