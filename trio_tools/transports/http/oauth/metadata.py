"""What a client learns about the authorization server: metadata (RFC 9728) and challenges."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from trio_tools.settings.groups.oauth import OAuthSettings

WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"


@dataclass(frozen=True, slots=True)
class ResourceMetadata:
    """The description of this server as a protected resource.

    Attributes:
        oauth: The operator's settings.
        path: The path of MCP.
        name: The server's name for people.
    """

    oauth: OAuthSettings
    path: str
    name: str

    def is_at(self, path: str) -> bool:
        """Whether a path is that of the metadata, with or without the path of MCP."""
        return path in {WELL_KNOWN, f"{WELL_KNOWN}{self.path.rstrip('/')}"}

    def document(self, origin: str) -> bytes:
        """Return the metadata as JSON. `origin` is the origin of the request's URL."""
        document = {
            "resource": self._resource(origin),
            "resource_name": self.name,
            "authorization_servers": [self.oauth.issuer],
            "scopes_supported": self._scopes(),
            "bearer_methods_supported": ["header"],
        }
        return json.dumps(document).encode()

    def challenge(
        self, origin: str, *, error: str = "", why: str = "", scopes: Sequence[str] = ()
    ) -> str:
        """Return the WWW-Authenticate field of a refusal (RFC 6750, RFC 9728)."""
        parts = {
            "error": error,
            "error_description": why,
            "scope": " ".join(scopes or self.oauth.scopes),
            "resource_metadata": self._url(origin),
        }
        told = (f'{name}="{value}"' for name, value in parts.items() if value)
        return f"Bearer {', '.join(told)}"

    def _resource(self, origin: str) -> str:
        audience = self.oauth.audience or ""
        return audience if audience.startswith(("https://", "http://")) else f"{origin}{self.path}"

    def _url(self, origin: str) -> str:
        parts = urlsplit(self._resource(origin))
        return f"{parts.scheme}://{parts.netloc}{WELL_KNOWN}{parts.path.rstrip('/')}"

    def _scopes(self) -> list[str]:
        return list(dict.fromkeys((*self.oauth.scopes, *self.oauth.tool_scopes.values())))
