"""The section `http.oauth`: which access tokens are accepted, and what they allow."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from trio_tools.settings.groups.section import Section

Family = Literal[
    "web",
    "apis",
    "data",
    "compute",
    "inference",
    "batch",
    "operations",
    "status",
    "upstreams",
    "application",
    "admin",
]
"""A family of tools. Each may require a scope."""

FAMILIES: Final[tuple[Family, ...]] = get_args(Family)

Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]

_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def _url(text: str) -> str:
    """Refuse a URL that is not https. On loopback http is allowed too, for tests."""
    try:
        parts = urlsplit(text)
        name = parts.hostname
    except ValueError:
        name = parts = None
    secure = parts is not None and (
        parts.scheme == "https" or (parts.scheme == "http" and name in _LOOPBACK)
    )
    if not (parts and secure and name) or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(
            "it must be a URL such as https://login.example, with https (or http on loopback), and "
            "without credentials, query or fragment"
        )
    return text


def _scope(text: str) -> str:
    if not _SCOPE.fullmatch(text):
        raise ValueError("a scope is printable ASCII without blanks, quotes and backslashes")
    return text


Scope = Annotated[str, AfterValidator(_scope)]
Url = Annotated[str, AfterValidator(_url)]


class OAuthSettings(Section):
    """Access tokens (JWT) of an authorization server, accepted beside `http.tokens`."""

    issuer: Url | None = Field(
        default=None,
        description="Authorization server whose access tokens are accepted: the value of `iss`. "
        "null accepts none.",
    )
    audience: str | None = Field(
        default=None,
        min_length=1,
        description="Required value in `aud` of a token: the public URL of this server's MCP path.",
    )
    jwks_url: Url | None = Field(
        default=None,
        description="URL of the issuer's keys; by default its metadata names it.",
    )
    scopes: tuple[Scope, ...] = Field(default=(), description="Scopes that every token must have.")
    tool_scopes: dict[Family, Scope] = Field(
        default_factory=dict[Family, Scope],
        description="Required scope of each family of tools. A family without an entry needs no "
        f"scope; `admin` without an entry is closed. Families: {', '.join(FAMILIES)}.",
    )
    algorithms: tuple[Algorithm, ...] = Field(
        default=("RS256", "PS256", "ES256", "EdDSA"),
        min_length=1,
        description="Accepted signature algorithms.",
    )

    @model_validator(mode="after")
    def _belongs_to_an_issuer(self) -> Self:
        fields = type(self).model_fields.items()
        given = [
            n for n, f in fields if getattr(self, n) != f.get_default(call_default_factory=True)
        ]
        if self.issuer is None and given:
            name = given[0]
            raise ValueError(f"{name} is set without issuer: set http.oauth.issuer too")
        if self.issuer is not None and self.audience is None:
            raise ValueError(
                "issuer is set without audience: set http.oauth.audience to the URL that clients "
                "use, such as https://mcp.example/mcp"
            )
        return self
