"""The parts of OAuth, combined for one server."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import urlsplit

from trio_tools.http.fetching.fetcher import Fetcher
from trio_tools.http.fetching.types import FetchConfig, FetchRequest
from trio_tools.http.wire.errors import FetchError
from trio_tools.live.state import ServerState
from trio_tools.server.policy.scopes import missing_scope
from trio_tools.settings import Settings
from trio_tools.transports.http.oauth.keys import IssuerKeys
from trio_tools.transports.http.oauth.metadata import ResourceMetadata
from trio_tools.transports.http.oauth.tokens import AccessTokens, Grant

_FETCH_SECONDS = 10.0
_MAX_DOCUMENT_BYTES = 250_000
_OK = 200


class ResourceServer:
    """The OAuth part of a server.

    Args:
        settings: The operator's settings; `http.oauth.issuer` is set.

    Attributes:
        tokens: Checks access tokens within the block of `running`.
    """

    def __init__(self, settings: Settings) -> None:
        oauth = settings.http.oauth
        hosts = {urlsplit(url).hostname or "" for url in (oauth.issuer, oauth.jwks_url) if url}
        self._fetcher = Fetcher(
            FetchConfig(
                ports=None,
                allow_hosts=frozenset(hosts),
                max_redirects=0,
                max_body_bytes=_MAX_DOCUMENT_BYTES,
                timeout_seconds=_FETCH_SECONDS,
                proxy=settings.fetch.proxy,
                proxy_resolves=settings.fetch.proxy_resolves,
            )
        )
        self._keys = IssuerKeys(oauth, self._fetch)
        metadata = ResourceMetadata(oauth, settings.http.path, settings.name)
        self.tokens = AccessTokens(oauth, self._keys, metadata)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Keep the issuer's keys up to date while the block is open."""
        async with self._fetcher, self._keys.running():
            yield

    @staticmethod
    def missing_scope(state: ServerState, grant: Grant, body: bytes) -> str | None:
        """Return a scope that a call needs, from its body; None if it needs none.

        Other requests, and invalid ones, are left to the SDK.
        """
        if not state.settings.http.oauth.tool_scopes:
            return None
        try:
            message = _object(json.loads(body))
        except ValueError:
            return None
        params = _object(message.get("params"))
        tool = params.get("name")
        if message.get("method") != "tools/call" or not isinstance(tool, str):
            return None
        arguments = _object(params.get("arguments"))
        return missing_scope(state, grant.scopes, grant.subject, tool, arguments)

    async def _fetch(self, url: str) -> Any:
        try:
            page = await self._fetcher.fetch(FetchRequest(url=url, body_as="json"))
        except FetchError as error:
            raise OSError(error.message) from None
        if page.status != _OK:
            raise OSError(f"{url} answers with status {page.status}")
        return page.json


def _object(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
