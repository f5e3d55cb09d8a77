"""THE table from an error of PostgreSQL to the failure that the caller sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_tools.answers.errors import (
    Forbidden,
    InvalidArgument,
    TimedOut,
    ToolFailure,
    UpstreamFailed,
)
from trio_tools.database.statement import read_only, refused

if TYPE_CHECKING:
    from trio_tools.database.postgres.session import PostgresError
    from trio_tools.database.statement import Statement

_READ_ONLY_STATES = frozenset({"25006"})
_PERMISSION_STATES = frozenset({"42501"})
_TIMEOUT_STATES = frozenset({"57014"})
_LOCK_STATES = frozenset({"55P03", "40P01"})
_TOO_LARGE_STATES = frozenset({"54000", "54001", "53200"})
_UNTYPED_STATES = frozenset({"42P18", "42P08"})
# syntax and names; data; feature; cardinality; invalid cursor or transaction command
_REFUSED_CLASSES = frozenset({"42", "22", "0A", "21", "25", "2F", "34", "3D", "3F", "P0", "54"})
_REFUSED_STATES = frozenset({"08P01"})  # $1 without a value


def failure_of(database: str, error: PostgresError, statement: Statement | None) -> ToolFailure:  # noqa: PLR0911 - a table
    """Return the failure for an error.

    Args:
        database: The name of the database.
        error: The server's error, or the end of the connection.
        statement: The caller's statement; None for one of our own.
    """
    state, reason = error.state, _reason(error)
    if state is None or error.lost or state.startswith("57P"):
        return UpstreamFailed(lost(database, error), error_code="DATABASE_UNREACHABLE")
    if state in _READ_ONLY_STATES:
        return read_only(reason)
    if state in _PERMISSION_STATES:
        if statement is None or statement.seems_to_write:
            return read_only(reason)
        return Forbidden(
            f"the role of database {database!r} may not do that: {reason}",
            error_code="PERMISSION_DENIED",
            remediation="Read another table, or let the operator grant it to the role.",
        )
    if state in _TIMEOUT_STATES:
        return TimedOut(
            f"the database stopped the statement: {reason}; narrow it with WHERE or LIMIT"
        )
    if state in _LOCK_STATES:
        return UpstreamFailed(
            f"a lock in database {database!r} was not to be had: {reason}; call again",
            error_code="DATABASE_LOCKED",
        )
    if state in _TOO_LARGE_STATES and error.function != "chr":
        return InvalidArgument(f"the statement requests too much: {reason}", error_code="TOO_LARGE")
    if state in _UNTYPED_STATES and statement is not None:
        return _untyped(statement, reason)
    if statement is not None and (state[:2] in _REFUSED_CLASSES or state in _REFUSED_STATES):
        return refused(statement, reason)
    return UpstreamFailed(f"database {database!r} failed: {reason} ({state})")


def lost(database: str, error: PostgresError) -> str:
    """Return the message that the connection has ended and that the call can be repeated."""
    return f"database {database!r} closed the connection ({error.primary}): call again"


def _reason(error: PostgresError) -> str:
    """Return the server's error message with its detail and hint."""
    parts = [error.primary]
    if error.position is not None and error.position > 0:
        parts.append(f"at character {error.position}")
    if error.detail:
        parts.append(f"detail: {error.detail}")
    if error.hint:
        parts.append(f"hint: {error.hint}")
    return "; ".join(" ".join(part.split()) for part in parts)


def _untyped(statement: Statement, reason: str) -> InvalidArgument:
    _, names = statement.in_dollars()
    for number, name in reversed([*enumerate(names, 1)]):
        reason = reason.replace(f"${number}", f":{name}")
    example = next((name for name in names if f":{name}" in reason), names[0] if names else "name")
    return InvalidArgument(
        f"the database cannot tell the type of a parameter in sql: {reason}. Write the type, as in "
        f"CAST(:{example} AS text), at each place where it stands alone",
        error_code="BAD_SQL",
    )
