"""Passes the scopes of an access token from the request of a call to the policy of the call."""

from __future__ import annotations

from typing import Any

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

from trio_tools.server.policy.scopes import granted


async def bind_scopes(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Apply the scopes of a request's token, as a stage of a server's middleware.

    Only with OAuth: then each request has a token, and one that is not found has no scope.
    """
    scope: dict[str, Any] = getattr(ctx.request, "scope", None) or {}
    with granted(_scopes_of(scope.get("user"))):
        return await call_next(ctx)


def _scopes_of(user: Any) -> frozenset[str] | None:
    if not isinstance(user, AuthenticatedUser):
        return frozenset()
    token = user.access_token
    # Tokens of the settings have no issuer, and allow every tool.
    return None if token.claims is None else frozenset(token.scopes)
