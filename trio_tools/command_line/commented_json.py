"""Where the members of a JSON object are in a text with comments and trailing commas.

VS Code and Zed write their files so. Everything here is a function of a text and does no I/O.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_IGNORED = re.compile(r"(?:\s+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_LITERAL = re.compile(r"[^\s,\]}/\"{\[:]+")
_LEAD = re.compile(r"\s*")


class NotEditable(ValueError):  # noqa: N818 - the file is at fault, not this program
    """The file does not have its host's form; the message says where. Nothing was changed."""


@dataclass(frozen=True)
class Member:
    """A key and its value: their positions in the text."""

    key: str
    start: int
    """Index of the quote that opens the key."""
    value: int
    end: int
    """Index after the value."""


@dataclass(frozen=True)
class ObjectText:
    """An object: the positions of its braces, members and commas in the text."""

    start: int
    """Index of the opening brace."""
    end: int
    """Index of the closing brace."""
    members: tuple[Member, ...]
    commas: tuple[int, ...]
    """Index of the comma after each member; one fewer than members without a trailing comma."""

    def find(self, key: str) -> int | None:
        """Return the position of the last member with that key."""
        places = [place for place, member in enumerate(self.members) if member.key == key]
        return places[-1] if places else None


def root_of(text: str) -> ObjectText:
    """Return the object that is the whole text.

    Raises:
        NotEditable: The text is not one object.
    """
    start = _skip(text, 1 if text.startswith("\ufeff") else 0)
    if text[start : start + 1] != "{":
        raise _odd(text, start, "an object, which begins with {")
    root = _object(text, start)
    rest = _skip(text, root.end + 1)
    if rest != len(text):
        raise _odd(text, rest, "the end of the file")
    return root


def container_of(text: str, member: Member) -> ObjectText:
    """Return the object that is the value of a member.

    Raises:
        NotEditable: The value is not an object.
    """
    if text[member.value] != "{":
        raise _odd(text, member.value, f"an object under {member.key!r}")
    return _object(text, member.value)


def _object(text: str, start: int) -> ObjectText:
    members: list[Member] = []
    commas: list[int] = []
    at = _skip(text, start + 1)
    while text[at : at + 1] != "}":
        key = _STRING.match(text, at)
        if key is None:
            raise _odd(text, at, "a name in quotes, or }")
        colon = _skip(text, key.end())
        if text[colon : colon + 1] != ":":
            raise _odd(text, colon, "a colon")
        value = _skip(text, colon + 1)
        end = _end_of_value(text, value)
        members.append(Member(_name(text, key), at, value, end))
        at = _skip(text, end)
        if text[at : at + 1] == ",":
            commas.append(at)
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "}":
            raise _odd(text, at, "a comma or }")
    return ObjectText(start, at, tuple(members), tuple(commas))


def _name(text: str, key: re.Match[str]) -> str:
    try:
        return str(json.loads(key[0]))
    except ValueError:
        raise _odd(text, key.start(), "a name in quotes") from None


def _end_of_value(text: str, at: int) -> int:
    opening = text[at : at + 1]
    if opening == "{":
        return _object(text, at).end + 1
    if opening == "[":
        return _end_of_list(text, at)
    found = (_STRING if opening == '"' else _LITERAL).match(text, at)
    if found is None:
        raise _odd(text, at, "a value")
    return found.end()


def _end_of_list(text: str, start: int) -> int:
    at = _skip(text, start + 1)
    while text[at : at + 1] != "]":
        at = _skip(text, _end_of_value(text, at))
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            raise _odd(text, at, "a comma or ]")
    return at + 1


def _skip(text: str, at: int) -> int:
    found = _IGNORED.match(text, at)
    assert found is not None
    return found.end()


def parsed_json(text: str) -> dict[str, Any]:
    """Return the JSON object in a text with comments and trailing commas, as its host reads it.

    Raises:
        NotEditable: The text is not a JSON object.
    """
    plain: list[str] = []
    at = 1 if text.startswith("\ufeff") else 0
    while at < len(text):
        found = _STRING.match(text, at)
        if found is None:
            after = _skip(text, at)
            if after > at:
                at = after
                plain.append(" ")
                continue
            if text[at] == "," and text[_skip(text, at + 1) :][:1] in {"}", "]"}:
                at += 1
                continue
            plain.append(text[at])
            at += 1
            continue
        plain.append(found[0])
        at = found.end()
    try:
        whole = json.loads("".join(plain))
    except ValueError as error:
        raise NotEditable(f"it is not JSON: {error}") from None
    if not isinstance(whole, dict):
        raise NotEditable("it is not a JSON object")
    return whole  # pyright: ignore[reportUnknownVariableType]


def _odd(text: str, at: int, expected: str) -> NotEditable:
    line = text.count("\n", 0, at) + 1
    column = at - (text.rfind("\n", 0, at) + 1) + 1
    found = repr(text[at : at + 10]) if at < len(text) else "the end of the file"
    return NotEditable(f"line {line}, column {column}: expected {expected}, found {found}")
