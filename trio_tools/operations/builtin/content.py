"""`hash` and `compress`: one text or one file each, in a thread."""

from __future__ import annotations

import functools
from dataclasses import asdict
from typing import Any, Self, cast

from pydantic import Field, model_validator

from trio_tools.answers.texts import counted
from trio_tools.files.hashing import hash_file, hash_text
from trio_tools.files.roots import FileRoots
from trio_tools.operations.item_types import Item, wrong_shape
from trio_tools.operations.operation import Operation
from trio_tools.services import Services

_SHOWN_CHARS = 40


class ContentItem(Item):
    """A text or a file, exactly one of them. A plain string is a text with the defaults."""

    text: str | None = None
    path: str | None = Field(None, description="A file under the allowed roots.")

    @model_validator(mode="before")
    @classmethod
    def _plain_text(cls, item: Any) -> Any:
        if isinstance(item, str):
            return {"text": item}
        # The name in the tools.
        if isinstance(item, dict) and "data" in item and "text" not in item:
            table = cast("dict[str, Any]", item)
            return {("text" if name == "data" else name): value for name, value in table.items()}
        return cast("Any", item)

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.text is None) == (self.path is None):
            raise wrong_shape("give either text or path")
        return self


class HashItem(ContentItem):
    """A text or a file, and how to hash it. A plain string is a text with the defaults."""

    algorithm: str = "sha256"


class CompressItem(ContentItem):
    """A text or a file, and how to compress it. A plain string is a text with the defaults."""

    algorithm: str = "zstd"
    level: int | None = None
    max_output_bytes: int = Field(
        0, ge=0, le=1_000_000, description="Return the result too if it is no larger."
    )


def content_operations(services: Services) -> list[Operation]:
    """Return `hash` and `compress`."""
    return [
        Operation(
            name="hash",
            fn=functools.partial(_hash, services.files),
            description="Hash a text or a file.",
            item_type=HashItem,
            runs="thread",
            label=_content_of,
            render=hash_line,
            limit_name="compute_hash",
        ),
        Operation(
            name="compress",
            fn=functools.partial(_compress, services.files),
            description="Compress a text or a file.",
            item_type=CompressItem,
            runs="thread",
            label=_content_of,
            render=compression_text,
            limit_name="compress_data",
        ),
    ]


def hash_line(value: dict[str, Any]) -> str:
    """Return the text of a hash."""
    unfit = "" if value["secure"] else ", for checksums only"
    return (
        f"{value['algorithm']} {value['hexdigest']}, {counted(value['size_bytes'], 'byte')}{unfit}"
    )


def compression_text(value: dict[str, Any]) -> str:
    """Return the text of a compression, with its content below if there is any."""
    ratio = "" if value["ratio"] is None else f" (ratio {value['ratio']})"
    size = counted(value["original_bytes"], "byte")
    told = (
        f"{value['algorithm']} level {value['level']}: {size} became "
        f"{value['compressed_bytes']}{ratio}"
    )
    if value["content_left_out"]:
        told += ", the result is not shown since it is larger than max_output_bytes"
    content = value["content_base64"]
    return told if content is None else f"{told}, in base64:\n{content}"


def _content_of(item: ContentItem) -> str:
    if item.path is not None:
        return item.path
    assert item.text is not None
    more = len(item.text) > _SHOWN_CHARS
    return f"text {item.text[:_SHOWN_CHARS]!r}{'…' if more else ''}"


def _hash(files: FileRoots, item: HashItem) -> dict[str, Any]:
    if item.text is not None:
        return asdict(hash_text(item.text, algorithm=item.algorithm))
    assert item.path is not None
    return {"path": item.path, **asdict(hash_file(files, item.path, algorithm=item.algorithm))}


def _compress(files: FileRoots, item: CompressItem) -> dict[str, Any]:
    from trio_tools.files.compression import compress_file, compress_text  # noqa: PLC0415 - costs

    if item.text is not None:
        found = compress_text(
            item.text,
            algorithm=item.algorithm,
            level=item.level,
            max_output_bytes=item.max_output_bytes,
        )
        return asdict(found)
    assert item.path is not None
    found = compress_file(
        files,
        item.path,
        algorithm=item.algorithm,
        level=item.level,
        max_output_bytes=item.max_output_bytes,
    )
    return {"path": item.path, **asdict(found)}
