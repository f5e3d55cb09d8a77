"""One SQL statement: its parameters, and enough of its words for helpful error messages.

This is a lexer and not a protection. It separates text from quotes and comments, so that `:name`
is a parameter on every database and a second statement is reported as such. The databases
themselves prevent writes, and do not depend on this module.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from heapq import nsmallest
from typing import TYPE_CHECKING, Any

from trio_tools.answers.errors import Forbidden, InvalidArgument, TimedOut, ToolFailure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from collections.abc import Set as AbstractSet

MAX_SQL_CHARACTERS = 100_000
_MAX_TOLD = 10
_MAX_NAME_CHARS = 80

# Possessive quantifiers (`*+`) keep it linear: they never backtrack.
_TOKEN = re.compile(
    r"""
      (?P<comment> --[^\n]*+ | /\*.*?(?:\*/|\Z) )
    | (?<![\w$]) [eE]'(?:[^'\\]|\\.|'')*+(?:'|\Z)        # PostgreSQL: backslash escapes
    | '(?:[^']|'')*+(?:'|\Z)
    | "(?:[^"]|"")*+(?:"|\Z)
    | `(?:[^`]|``)*+(?:`|\Z)
    | (?<![\w$]) \$(?P<tag>(?:[^\W\d]\w*+)?)\$ .*? (?:\$(?P=tag)\$|\Z)  # PostgreSQL: dollar quotes
    | ::                                                  # PostgreSQL: a cast
    | (?<!:) :(?P<parameter>[^\W\d]\w*+)
    | (?P<word> [^\W\d][\w$]*+ )
    | (?P<end> ; )
    | (?P<bracket> [\[\]] )
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENTS_IN_FRONT = re.compile(r"(?: \s | --[^\n]*+ | /\*.*?\*/ )*+", re.VERBOSE | re.DOTALL)
_WRITING_WORDS = frozenset(
    re.findall(
        r"\w+",
        """ALTER ANALYZE ATTACH BEGIN CALL CLUSTER COMMENT COMMIT COPY CREATE DELETE DETACH DISCARD
        DO DROP GRANT IMPORT INSERT LISTEN LOAD LOCK MERGE NOTIFY PREPARE REFRESH REINDEX RELEASE
        REPLACE RESET REVOKE ROLLBACK SAVEPOINT SET START TRUNCATE UNLISTEN UPDATE VACUUM""",
    )
)
_READING_KINDS = frozenset({"EXPLAIN", "SELECT", "WITH"})
_WRITING_WORDS_INSIDE = frozenset({"INSERT", "INTO", "UPDATE", "DELETE", "MERGE"})


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement with named parameters, as the lexer reads it."""

    text: str
    """Without the semicolon, after which some drivers expect a second statement."""
    words: tuple[str, ...]
    """Keywords and unquoted names in upper case, in order."""
    placeholders: tuple[tuple[int, int, str], ...]
    """Each `:name` in the text: its start, its end and the name."""

    @classmethod
    def parse(cls, sql: str, given: Mapping[str, Any]) -> Statement:
        """Check that `sql` is one statement and that `given` has exactly its parameters.

        Raises:
            InvalidArgument: Not exactly one statement, too long, not text, or parameters are
                missing or unknown.
        """
        _check_text(sql)
        tokens = list(_TOKEN.finditer(sql))
        end = next((token for token in tokens if token["end"]), None)
        if end is not None:
            rest = _blank_comments(sql[end.end() :])
            if rest.strip(" \t\r\n\f\v;"):
                raise InvalidArgument(
                    "sql holds several statements: send them one by one, in a call each",
                    error_code="SEVERAL_STATEMENTS",
                )
        if not _blank_comments(sql).strip(" \t\r\n\f\v;"):
            raise InvalidArgument("sql is empty: write one SELECT statement")
        statement = cls(
            sql if end is None else sql[: end.start()],
            words=tuple(token["word"].upper() for token in tokens if token["word"]),
            placeholders=tuple(_placeholders(sql, tokens, given)),
        )
        _check_parameters(frozenset(name for _, _, name in statement.placeholders), given)
        return statement

    @property
    def sql(self) -> str:
        """The text without the leading comments that the lexer finds."""
        return without_comments_in_front(self.text)

    @property
    def kind(self) -> str:
        """The first word: SELECT, WITH, EXPLAIN and so on. Empty for an empty statement."""
        return self.words[0] if self.words else ""

    @property
    def seems_to_write(self) -> bool:
        """Whether a database probably refused it because it writes."""
        if self.kind == "EXPLAIN" and "CREATE" in self.words:
            return True
        return self.kind in _WRITING_WORDS or (
            self.kind in _READING_KINDS and not _WRITING_WORDS_INSIDE.isdisjoint(self.words)
        )

    def begins_with(self, words: AbstractSet[str]) -> bool:
        """Whether the text begins with one of the words (upper case), regardless of comments."""
        return self.kind in words and self.sql[: len(self.kind)].upper() == self.kind

    def in_dollars(self) -> tuple[str, list[str]]:
        """Return the text with PostgreSQL's `$1`, `$2` and so on, and their names."""
        numbers: dict[str, int] = {}
        parts: list[str] = []
        done = 0
        for begin, end, name in self.placeholders:
            number = numbers.setdefault(name, len(numbers) + 1)
            parts += (self.text[done:begin], f"${number}")
            done = end
        return "".join((*parts, self.text[done:])), list(numbers)


def without_comments_in_front(sql: str) -> str:
    """Return `sql` starting at its first word, as the lexer reads it."""
    return _COMMENTS_IN_FRONT.sub("", sql, count=1)


def read_only(reason: str) -> Forbidden:
    """Return the error for a statement that does more than read; `reason` is the database's."""
    return Forbidden(
        f"sql does more than read, and this database can only be read ({reason})",
        error_code="READ_ONLY",
        remediation="Send one statement that only reads: SELECT, WITH ... SELECT, VALUES, EXPLAIN.",
    )


def refused(statement: Statement, reason: str) -> ToolFailure:
    """Return the error for a statement that the database does not understand or allow."""
    if statement.seems_to_write:
        # PostgreSQL gets the statement inside of one that reads, where a writing word is a syntax
        # error. The caller needs to know the word, since the syntax is right.
        if reason.startswith("syntax error"):
            writes = _WRITING_WORDS_INSIDE | {"CREATE"}
            word = next((word for word in statement.words if word in writes), statement.kind)
            reason = f"it has {word}"
        return read_only(reason)
    return InvalidArgument(
        f"the database refuses the statement in sql: {reason}; correct it and call again",
        error_code="BAD_SQL",
    )


def needs_too_much_memory() -> InvalidArgument:
    """Return the error for a statement that needs more memory than a statement may have."""
    return InvalidArgument(
        "the statement needs more memory than one statement may have: select fewer columns and "
        "smaller values, or nest it less",
        error_code="TOO_LARGE",
    )


def too_slow(seconds: float) -> TimedOut:
    """Return the error for a statement that was stopped after `seconds`."""
    return TimedOut(
        f"the statement did not end within {seconds:g} seconds and was stopped: "
        "narrow it with WHERE or LIMIT, or allow more time with timeout_seconds",
        data={"timeout_seconds": seconds},
    )


def _placeholders(
    sql: str, tokens: list[re.Match[str]], given: Mapping[str, Any]
) -> Iterator[tuple[int, int, str]]:
    """Yield each `:name` that is a parameter.

    Within square brackets it may be a bound of a slice, as in `[1:n]` and `[:n]`. It is a bound
    after a value, and also if no parameter has that name.
    """
    depth = 0
    for token in tokens:
        name = token["parameter"]
        if token["bracket"]:
            depth = max(0, depth + (1 if token["bracket"] == "[" else -1))
        elif name:
            in_front = sql[: token.start()].rstrip()[-1:] if depth else ""
            is_slice = depth and (in_front.isalnum() or in_front in {"_", ")", "]", '"'})
            if not is_slice and (not depth or name in given):
                yield token.start(), token.end(), name


def _blank_comments(sql: str) -> str:
    return _TOKEN.sub(lambda token: " " if token["comment"] else token[0], sql)


def _check_text(sql: str) -> None:
    if len(sql) > MAX_SQL_CHARACTERS:
        raise InvalidArgument(
            f"sql has {len(sql):,} characters; at most {MAX_SQL_CHARACTERS:,} are allowed: "
            "pass values as parameters",
            error_code="TOO_LARGE",
        )
    if "\0" in sql or any("\ud800" <= character <= "\udfff" for character in sql):
        raise InvalidArgument("sql holds a NUL or a lone surrogate: remove it")


def _check_parameters(used: frozenset[str], given: Mapping[str, Any]) -> None:
    all_missing, all_unknown = used - given.keys(), given.keys() - used
    if all_missing or all_unknown:
        missing, unknown = _first(all_missing), _first(all_unknown)
        wrongs = [
            *(f"no value for :{name}" for name in missing),
            *(f"no :{name} in sql for the value given" for name in unknown),
        ]
        others = len(all_missing) + len(all_unknown) - len(wrongs)
        if others:
            wrongs.append(f"and {others:,} more")
        raise InvalidArgument(
            f"parameters do not match sql: {', '.join(wrongs)}",
            error_code="BAD_PARAMETERS",
            data={"missing": missing, "unknown": unknown},
        )


def _first(names: AbstractSet[str]) -> list[str]:
    return [name[:_MAX_NAME_CHARS] for name in nsmallest(_MAX_TOLD, names)]
