"""Types of items: what an operation takes, and the error for an item of another shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, NoReturn, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from trio_tools.answers.errors import InvalidArgument, brief_repr

_MORE_FIELDS = 10
_MAX_TEXTS = 1_000
_MAX_TEXTS_CHARS = 20_000


@dataclass(frozen=True, slots=True)
class BadItem:
    """Replaces an item that cannot be processed; running it fails.

    Attributes:
        label: Its name in reports, a JSON value.
        reason: The error.
    """

    label: Any
    reason: str

    def fail(self) -> NoReturn:
        """Raise the error of the item."""
        raise InvalidArgument(self.reason, error_code="INVALID_ITEM")


def wrong_shape(reason: str) -> PydanticCustomError:
    """Return the validation error of an item that has a missing or an extra field."""
    return PydanticCustomError("wrong_shape", "{reason}", {"reason": reason})


class Item(BaseModel):
    """Base of item types. An unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, item: Any) -> Any:
        # Each unknown field is a separate error, and a request may contain 100,000 of them.
        if isinstance(item, dict):
            count = len(cast("dict[str, Any]", item))
            if count > len(cls.model_fields) + _MORE_FIELDS:
                known = ", ".join(cls.model_fields)
                raise wrong_shape(f"it has {count:,} fields, and there are only {known}")
        return cast("Any", item)


def _check_texts(table: Any) -> Any:
    """Refuse an invalid table of texts with one error, after a bounded search."""
    if not isinstance(table, dict):
        return table
    texts = chars = 0
    for name, value in cast("dict[str, Any]", table).items():
        several = cast("list[Any]", value) if isinstance(value, list) else [value]
        texts, chars = texts + len(several), chars + len(name)
        if texts > _MAX_TEXTS:
            raise wrong_shape(f"at most {_MAX_TEXTS:,} texts are allowed: leave some out")
        for text in several:
            if not isinstance(text, str):
                raise wrong_shape(f"{brief_repr(name)} has to be text, got {brief_repr(text)}")
            chars += len(text)
    if chars > _MAX_TEXTS_CHARS:
        raise wrong_shape(
            f"at most {_MAX_TEXTS_CHARS:,} characters are allowed, got {chars:,}: shorten it"
        )
    return cast("Any", table)


Texts = Annotated[dict[str, str], BeforeValidator(_check_texts)]
"""Texts by name, at most 1,000 of them and 20,000 characters."""
TextLists = Annotated[dict[str, str | list[str]], BeforeValidator(_check_texts)]
"""A text or several by name, at most 1,000 of them and 20,000 characters."""
