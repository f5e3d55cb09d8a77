"""The check of an access token: signature, issuer, audience, times, scopes (RFC 9068, 6750)."""

from __future__ import annotations

from collections.abc import Collection
from http import HTTPStatus
from typing import Any, Final, NamedTuple, cast

import jwt

from trio_tools.settings.groups.oauth import OAuthSettings
from trio_tools.transports.http.access.authentication import Denied
from trio_tools.transports.http.oauth.keys import IssuerKey, IssuerKeys, NoKeys
from trio_tools.transports.http.oauth.metadata import ResourceMetadata

LEEWAY_SECONDS: Final = 30
"""Tolerated difference between the clocks of the issuer and of this machine, in seconds."""

MAX_TOKEN_BYTES: Final = 16_384
MAX_SUBJECT_CHARS: Final = 255

_KIND_OF_KEY: Final = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}


class Grant(NamedTuple):
    """The claims of a token.

    Attributes:
        subject: Its subject, which is the client id of the calls.
        issuer: Its issuer.
        scopes: Its scopes.
    """

    subject: str
    issuer: str
    scopes: frozenset[str]


class _Invalid(Exception):  # noqa: N818 - an answer, not an error of ours
    """The token is refused; the message says why, and quotes nothing of it."""


class AccessTokens:
    """Checks access tokens of one issuer.

    Args:
        oauth: The operator's settings.
        keys: The issuer's keys.
        metadata: Makes the challenge for a client without an accepted token.

    Attributes:
        metadata: The same.
    """

    def __init__(self, oauth: OAuthSettings, keys: IssuerKeys, metadata: ResourceMetadata) -> None:
        self._oauth = oauth
        self._keys = keys
        self.metadata = metadata

    async def check(self, token: str, origin: str, reserved: Collection[str]) -> Grant:
        """Return the claims of a token.

        Args:
            token: The token of the request.
            origin: The origin of the request's URL.
            reserved: Client ids that no subject may have: those with tokens in the settings.

        Raises:
            Denied: 401 if it is missing or refused; 403 if a scope is missing; 503 while the
                issuer's keys are not available.
        """
        try:
            grant = _grant_of(await self._claims(token), reserved)
        except _Invalid as invalid:
            error, why = ("invalid_token", str(invalid)) if token else ("", "")
            reason = why or "An access token is needed: send Authorization: Bearer <token>."
            challenge = self.metadata.challenge(origin, error=error, why=why)
            headers = {"www-authenticate": challenge}
            raise Denied(HTTPStatus.UNAUTHORIZED, reason, headers) from None
        except NoKeys:
            raise Denied(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "The keys of the authorization server cannot be had: try again later.",
                {"retry-after": "5"},
            ) from None
        missing = [scope for scope in self._oauth.scopes if scope not in grant.scopes]
        if missing:
            raise self.lacks(missing[0], origin)
        return grant

    def check_admin(self, grant: Grant, origin: str) -> None:
        """Refuse clients that may use tools, but not the functions for operators.

        Raises:
            Denied: The token lacks the scope of the family admin, or the settings have none.
        """
        scope = self._oauth.tool_scopes.get("admin")
        if scope is None:
            reason = "No scope opens this: name one in http.oauth.tool_scopes.admin."
            raise Denied(HTTPStatus.FORBIDDEN, reason)
        if scope not in grant.scopes:
            raise self.lacks(scope, origin)

    def lacks(self, scope: str, origin: str) -> Denied:
        """Return the refusal of a token without a scope, with which a client can request it."""
        needed = dict.fromkeys((*self._oauth.scopes, scope))
        why = f"The access token lacks the scope {scope}."
        challenge = self.metadata.challenge(
            origin, error="insufficient_scope", why=why, scopes=tuple(needed)
        )
        return Denied(HTTPStatus.FORBIDDEN, why, {"www-authenticate": challenge})

    async def _claims(self, token: str) -> dict[str, Any]:
        if len(token) > MAX_TOKEN_BYTES:
            raise _Invalid("The access token is too long.")
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise _Invalid("The access token is not a signed JWT.") from None
        # The token selects among the allowed algorithms, so never `none` and no shared secret.
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in self._oauth.algorithms:
            raise _Invalid("The access token is signed with an algorithm that is not accepted.")
        key = await self._keys.find(kid if isinstance(kid, str) else None)
        if key is None or not _fits(key, algorithm):
            raise _Invalid("The access token is not signed with a key of the issuer.")
        try:
            return jwt.decode(
                token,
                key.material,
                algorithms=[algorithm],
                audience=self._oauth.audience,
                issuer=self._oauth.issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise _Invalid("The access token has expired.") from None
        except jwt.InvalidAudienceError:
            raise _Invalid("The access token is for another audience.") from None
        except jwt.InvalidIssuerError:
            raise _Invalid("The access token is of another issuer.") from None
        except jwt.InvalidSignatureError:
            raise _Invalid("The access token is not signed with a key of the issuer.") from None
        except jwt.PyJWTError:
            raise _Invalid("The access token lacks a claim, or is not valid yet.") from None


def _fits(key: IssuerKey, algorithm: str) -> bool:
    """Whether a key fits an algorithm, and is not reserved for another one."""
    right_kind = key.kind == _KIND_OF_KEY[algorithm[:2]]
    return right_kind and key.algorithm in {None, algorithm}


def _grant_of(claims: dict[str, Any], reserved: Collection[str]) -> Grant:
    subject = claims["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT_CHARS:
        raise _Invalid("The subject of the access token is empty, too long or no text.")
    if subject in reserved:
        raise _Invalid("The subject of the access token is the name of another client.")
    told = claims.get("scope", claims.get("scp", ""))
    words = told.split() if isinstance(told, str) else told
    listed = cast("list[Any]", words) if isinstance(words, list) else []
    return Grant(subject, claims["iss"], frozenset(each for each in listed if type(each) is str))
