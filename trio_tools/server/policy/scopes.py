"""Scopes: the permissions of a caller's access token, by family of tools.

A tool belongs to a family. An operation belongs to the family of the tool whose limit it shares,
so that `batch_process` cannot be used to avoid a scope.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from trio_tools.answers.errors import Forbidden, NotFound
from trio_tools.live.state import ServerState
from trio_tools.settings.groups.oauth import Family

_FAMILY_OF: Final[Mapping[str, Family]] = {
    "fetch_urls": "web",
    "crawl_site": "web",
    "call_external_api": "apis",
    "query_database": "data",
    "process_large_dataset": "data",
    "compute_hash": "compute",
    "compress_data": "compute",
    "run_inference": "inference",
    "batch_process": "batch",
    "get_operation": "operations",
    "cancel_operation": "operations",
    "get_concurrency_status": "status",
}

# None: the caller has no access token with scopes, and may use every tool.
_granted: ContextVar[frozenset[str] | None] = ContextVar("scopes of the caller", default=None)


@contextmanager
def granted(scopes: frozenset[str] | None) -> Generator[None]:
    """Apply scopes to all calls within the block; None applies none."""
    token = _granted.set(scopes)
    try:
        yield
    finally:
        _granted.reset(token)


def missing_scope(
    state: ServerState,
    scopes: frozenset[str],
    owner: str,
    tool: str,
    arguments: Mapping[str, Any],
) -> str | None:
    """Return a scope that a call needs and its caller lacks; None if it lacks none.

    Args:
        state: The live server.
        scopes: The scopes of the caller.
        owner: The caller.
        tool: The called tool.
        arguments: Its arguments, of any type.
    """
    needed = state.settings.http.oauth.tool_scopes
    if not needed:
        return None
    families = {_family_of(tool)}
    operation, operation_id = arguments.get("operation"), arguments.get("operation_id")
    if isinstance(operation, str):
        families.add(_family_of_operation(state, operation))
    elif isinstance(operation_id, str):
        families |= _families_of_stored(state, operation_id, owner)
    lacking = (needed[family] for family in families if family in needed)
    return next((scope for scope in lacking if scope not in scopes), None)


def check_scopes(state: ServerState, owner: str, tool: str, arguments: Mapping[str, Any]) -> None:
    """Refuse a call that the caller's scopes do not cover.

    Raises:
        Forbidden: A scope is missing; the message names it.
    """
    scopes = _granted.get()
    if scopes is None:
        return
    missing = missing_scope(state, scopes, owner, tool, arguments)
    if missing is not None:
        raise Forbidden(
            f"{tool} needs the scope {missing}, which this access token does not have: ask for a "
            "token with it",
            error_code="INSUFFICIENT_SCOPE",
            data={"scope": missing},
        )


def _family_of(tool: str) -> Family:
    return _FAMILY_OF.get(tool, "application")


def _family_of_operation(state: ServerState, name: str) -> Family:
    if "." in name:
        return "upstreams"
    operation = state.operations.get(name)
    return "application" if operation is None else _family_of(operation.limit_name)


def _families_of_stored(state: ServerState, operation_id: str, owner: str) -> set[Family]:
    """Return the family of the operation that a call resumes; None without such an operation."""
    try:
        kept = state.store.find(operation_id, owner)
    except NotFound:
        return set()
    return {_family_of_operation(state, kept.work.operation.name)}
