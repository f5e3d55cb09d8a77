"""One entry in a host's file of MCP servers, added or removed; every other byte stays.

Strategy: find the position of the entry by a scan that knows strings, comments and nesting, and
    change only that part of the text. Writing the parsed file again would lose comments, order
    and indentation. Each result is parsed before it is returned. So if this scan reads a text
    differently from the host, the text is refused and not written.

JSON may have comments and trailing commas, as VS Code and Zed write it. Everything here is a
function from text to text and does no I/O.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from trio_tools.command_line.commented_json import (
    NotEditable,
    ObjectText,
    container_of,
    parsed_json,
    root_of,
)


def add_to_json(text: str, container: str, name: str, entry: Mapping[str, Any]) -> str:
    """Return `text` with `entry` under `container` and `name`, replacing an existing one.

    Args:
        text: A JSON object, with or without comments; an empty text is an empty object.
        container: Key of the root that contains the servers.
        name: Key of the entry.
        entry: JSON values.

    Raises:
        NotEditable: The text is not a JSON object, or the container is not one.
    """
    if not text.strip():
        return json.dumps({container: {name: entry}}, indent=2, ensure_ascii=False) + "\n"
    root = root_of(text)
    place = root.find(container)
    if place is None:
        # No blank after the inner brace, which tells a removal that this function made the
        # container.
        written = "{" + f"{json.dumps(name)}: {json.dumps(entry, ensure_ascii=False)}" + "}"
        changed = _with_member(text, root, container, written)
    else:
        holder = container_of(text, root.members[place])
        at = holder.find(name)
        if at is None:
            lead = _lead(text, holder) if holder.members else _lead(text, root) + _unit(text, root)
            changed = _with_member(text, holder, name, _written(entry, lead, _unit(text, root)))
        else:
            member = holder.members[at]
            lead = text[: member.start].rpartition("\n")[2]
            lead = "\n" + lead if not lead.strip() else ""
            value = _written(entry, lead, _unit(text, root))
            changed = text[: member.value] + value + text[member.end :]
    changed = _with_line_ends_of(text, changed)
    return _checked(changed, parsed_json(text), parsed_json(changed), (container, name), entry)


def remove_from_json(text: str, container: str, name: str) -> str:
    """Return `text` without the entry, and without a container that `add_to_json` made for it.

    A text without such an entry is returned unchanged.

    Raises:
        NotEditable: The text is not a JSON object, or the container is not one.
    """
    if not text.strip():
        return text
    root = root_of(text)
    place = root.find(container)
    if place is None:
        return text
    holder = container_of(text, root.members[place])
    at = holder.find(name)
    if at is None:
        return text
    made_here = len(holder.members) == 1 and holder.members[0].start == holder.start + 1
    changed = _without(text, root, place) if made_here else _without(text, holder, at)
    return _checked(changed, parsed_json(text), parsed_json(changed), (container, name), None)


def add_to_toml(text: str, container: str, name: str, entry: Mapping[str, Any]) -> str:
    """Return `text` with the table `[container.name]` at its end, replacing an existing one.

    Raises:
        NotEditable: The text is not TOML.
    """
    text = remove_from_toml(text, container, name)
    _toml(text)
    values = (f"{key} = {_toml_value(value)}" for key, value in entry.items())
    block = "\n".join([f"[{container}.{name}]", *values])
    if not text:
        return f"{block}\n"
    # If the last line of the text has no line end, the result has none either, so that a removal
    # restores the text exactly.
    changed = f"{text}\n{block}\n" if text.endswith("\n") else f"{text}\n\n{block}"
    return _checked(changed, _toml(text), _toml(changed), (container, name), entry)


def remove_from_toml(text: str, container: str, name: str) -> str:
    """Return `text` without the table `[container.name]` and the tables in it.

    Raises:
        NotEditable: The text is not TOML, or has the entry in another form than a table.
    """
    if name not in _toml(text).get(container, {}):
        return text
    path = rf"""{re.escape(container)}\s*\.\s*["']?{re.escape(name)}["']?"""
    head = rf"^[ \t]*\[\s*{path}\s*(?:\.[^\]\n]*)?\][^\n]*"
    body = r"(?:\n(?![ \t]*\[)[^\n]*)*\n?"
    changed = re.sub(rf"(?:(?<=\n)\n)?{head}{body}", "", text, flags=re.MULTILINE)
    if not text.endswith("\n"):
        changed = changed.removesuffix("\n").removesuffix("\n")
    return _checked(changed, _toml(text), _toml(changed), (container, name), None)


def entry_in(text: str, container: str, name: str, *, toml: bool) -> Any:
    """Return the entry as its host reads it; None without one.

    Raises:
        NotEditable: The text cannot be read.
    """
    if not text.strip():
        return None
    whole = _toml(text) if toml else parsed_json(text)
    held = whole.get(container)
    return held.get(name) if isinstance(held, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]


def _toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise NotEditable(f"it is not TOML: {error}") from None


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{json.dumps(k)} = {_toml_value(v)}" for k, v in value.items())  # pyright: ignore[reportUnknownVariableType]
        return "{" + f" {inner} " + "}"
    # JSON strings, numbers, booleans and lists are valid TOML.
    return json.dumps(value, ensure_ascii=False)


def _with_member(text: str, holder: ObjectText, key: str, value: str) -> str:
    member = f"{json.dumps(key)}: {value}"
    lead = _lead(text, holder)
    if not holder.members:
        closing = f"\n{_indentation(text, holder.start)}"
        inner = f"{closing}{_unit(text, root_of(text))}{member}{closing}"
        return text[: holder.start + 1] + inner + text[holder.end :]
    if len(holder.commas) == len(holder.members):  # a trailing comma: the new member gets one too
        at = holder.commas[-1] + 1
        return f"{text[:at]}{lead}{member},{text[at:]}"
    at = holder.members[-1].end
    return f"{text[:at]},{lead}{member}{text[at:]}"


def _without(text: str, holder: ObjectText, place: int) -> str:
    member = holder.members[place]
    if len(holder.members) == 1:
        return text[: holder.start + 1] + text[holder.end :]
    last = place == len(holder.members) - 1
    if last and len(holder.commas) < len(holder.members):
        return text[: holder.commas[place - 1]] + text[member.end :]
    start = holder.commas[place - 1] + 1 if place else holder.start + 1
    return text[:start] + text[holder.commas[place] + 1 :]


def _lead(text: str, holder: ObjectText) -> str:
    """Return the white space before the last member, which is the layout of this object."""
    if not holder.members:
        return f"\n{_indentation(text, holder.start)}"
    last = holder.members[-1].start
    before = text[:last]
    blank = before[len(before.rstrip(" \t\r\n")) :]
    return blank.replace("\r\n", "\n").replace("\n\n", "\n")


def _indentation(text: str, at: int) -> str:
    line = text[:at].rpartition("\n")[2]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _unit(text: str, root: ObjectText) -> str:
    """Return one step of indentation: that of the root's first member, if it has its own line."""
    if root.members:
        before = text[: root.members[0].start].rpartition("\n")[2]
        if before and not before.strip():
            return before
    return "  "


def _written(entry: Mapping[str, Any], lead: str, unit: str) -> str:
    if "\n" not in lead:
        return json.dumps(entry, ensure_ascii=False)
    return json.dumps(entry, indent=unit, ensure_ascii=False).replace("\n", lead)


def _with_line_ends_of(text: str, changed: str) -> str:
    if "\r\n" not in text:
        return changed
    return re.sub(r"\r?\n", "\r\n", changed)


def _checked(
    changed: str,
    before: dict[str, Any],
    after: dict[str, Any],
    place: tuple[str, str],
    entry: Mapping[str, Any] | None,
) -> str:
    """Return `changed` if it differs from before only in the entry at `place`."""
    container, name = place
    expected = {**before, container: {**before.get(container, {})}}
    if entry is None:
        expected[container].pop(name, None)
    else:
        expected[container][name] = entry
    if {**after, container: {**after.get(container, {})}} != expected:
        raise NotEditable("this program would change more than its entry: edit the file by hand")
    return changed
