"""The signing keys of an issuer: cached, rotated, and fetched outside of requests.

A request looks its key up in the cache. Only for a missing key it waits for a fetch, which all
such requests share, and at most one is started in `ASK_PAUSE_SECONDS`. So tokens with unknown
keys cause at most two requests a minute to the issuer.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, cast
from urllib.parse import urlsplit

import jwt
import trio

from nursery_patterns import SingleFlight, single_flight
from trio_tools.settings.groups.oauth import OAuthSettings

REFRESH_SECONDS: Final = 600.0
"""Age at which keys are fetched again. A revoked key is dropped then."""

KEEP_SECONDS: Final = 86_400.0
"""Age up to which keys are used while the issuer is unavailable."""

ASK_PAUSE_SECONDS: Final = 30.0
"""Minimum seconds between two fetches for missing keys."""

FAILED_PAUSE_SECONDS: Final = 5.0
"""The same while there is no key at all."""

WAIT_SECONDS: Final = 5.0
"""Seconds that a request waits for a fetch."""

MAX_KEYS: Final = 100
"""Limit of keys of one issuer; further ones are ignored."""

_log = logging.getLogger("trio_tools")

Fetch = Callable[[str], Awaitable[Any]]
"""Returns the JSON at a URL, or raises OSError."""


class IssuerKey(NamedTuple):
    """A public key.

    Attributes:
        material: The key in the form of PyJWT.
        kind: `RSA`, `EC` or `OKP`.
        algorithm: The only algorithm of the key; None for all of its kind.
    """

    material: Any
    kind: str
    algorithm: str | None


class NoKeys(Exception):  # noqa: N818 - an answer, not an error of ours
    """The issuer's keys are not available, so no token can be checked."""


class IssuerKeys:
    """The keys of one issuer, within the block of `running`.

    Args:
        oauth: The issuer, and the URL of its keys.
        fetch: Fetches JSON.
    """

    def __init__(self, oauth: OAuthSettings, fetch: Fetch) -> None:
        self._oauth = oauth
        self._fetch = fetch
        self._keys: dict[str | None, IssuerKey] = {}
        self._fetched = -math.inf
        self._ask_again = -math.inf
        self._refresh: SingleFlight[[], None] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Fetch the keys now, and again before they expire, while the block is open."""
        async with trio.open_nursery() as nursery:
            self._refresh = single_flight(self._load, nursery)
            nursery.start_soon(self._keep_fresh, self._refresh)
            try:
                yield
            finally:
                self._refresh = None
                nursery.cancel_scope.cancel(reason="tokens are checked no more")

    async def find(self, kid: str | None) -> IssuerKey | None:
        """Return the key with that id; None if the issuer has none.

        A token without an id requires an issuer with only one key.

        Raises:
            NoKeys: No key is known, and the issuer cannot be reached.
        """
        found = self._cached(kid)
        if found is None and self._refresh is not None:
            due = trio.current_time() >= self._ask_again
            if due or self._refresh.in_flight:
                with trio.move_on_after(WAIT_SECONDS):
                    await self._refresh()
                found = self._cached(kid)
        if found is None and not self._keys:
            raise NoKeys
        return found

    def _cached(self, kid: str | None) -> IssuerKey | None:
        if trio.current_time() > self._fetched + KEEP_SECONDS:
            self._keys = {}
        if kid is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(kid)

    async def _keep_fresh(self, refresh: SingleFlight[[], None]) -> None:
        while True:
            await refresh()
            await trio.sleep(REFRESH_SECONDS if self._keys else FAILED_PAUSE_SECONDS)

    async def _load(self) -> None:
        self._ask_again = trio.current_time() + ASK_PAUSE_SECONDS
        try:
            document = await self._fetch(self._oauth.jwks_url or await self._discover())
            self._keys = _keys_of(document)
            self._fetched = trio.current_time()
        except (OSError, ValueError) as error:
            if not self._keys:
                self._ask_again = trio.current_time() + FAILED_PAUSE_SECONDS
            _log.warning("the keys of %s cannot be fetched: %s", self._oauth.issuer, error)

    async def _discover(self) -> str:
        """Return the URL of the keys from the issuer's metadata (RFC 8414, OpenID Connect)."""
        issuer = (self._oauth.issuer or "").rstrip("/")
        parts = urlsplit(issuer)
        origin = f"{parts.scheme}://{parts.netloc}"
        places = (
            f"{origin}/.well-known/oauth-authorization-server{parts.path}",
            f"{issuer}/.well-known/openid-configuration",
        )
        reason = ""
        for place in places:
            try:
                document = await self._fetch(place)
            except OSError as error:
                reason = str(error)
                continue
            told = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
            if told.get("issuer") != self._oauth.issuer:
                raise ValueError(f"{place} is the metadata of another issuer")
            url = told.get("jwks_uri")
            if not isinstance(url, str) or urlsplit(url).scheme not in {"https", parts.scheme}:
                raise ValueError(f"{place} names no keys: set http.oauth.jwks_url")
            return url
        raise ValueError(f"it has no metadata ({reason}): set http.oauth.jwks_url")


def _keys_of(document: Any) -> dict[str | None, IssuerKey]:
    """Return the signing keys of a key set; unsupported ones are skipped."""
    entries = cast("dict[str, Any]", document).get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("its answer is not a key set")  # noqa: TRY004 - of what was fetched
    keys: dict[str | None, IssuerKey] = {}
    for entry in _objects(cast("list[Any]", entries)[:MAX_KEYS]):
        # A secret key in a public place cannot authenticate anything.
        if entry.get("kty") == "oct" or entry.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK.from_dict(entry)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue
        keys[key.key_id] = IssuerKey(key.key, key.key_type or "", entry.get("alg"))
    if not keys:
        raise ValueError("it has no key for signatures that is understood")
    return keys


def _objects(entries: Iterable[Any]) -> Iterable[dict[str, Any]]:
    return (cast("dict[str, Any]", each) for each in entries if isinstance(each, dict))
