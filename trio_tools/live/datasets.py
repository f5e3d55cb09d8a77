"""The records of a dataset as items of an operation: read chunk by chunk, ahead of the work.

An unreadable record is the failure of that item and stops nothing else. Nothing is held open
between chunks: a position says where the next one begins.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any, NamedTuple

from trio_tools.answers.errors import NotFound, brief_repr
from trio_tools.files.records import DatasetItem
from trio_tools.files.roots import FileRoots
from trio_tools.live.state import ServerState
from trio_tools.operations.durable.blobs import growth_json
from trio_tools.operations.durable.journal import OperationJournal
from trio_tools.operations.item_types import BadItem
from trio_tools.operations.operation import Operation
from trio_tools.settings import DatasetSettings
from trio_tools.settings.threads import run_in_tool_thread

_TOOL = "process_large_dataset"

# The reason why a record cannot be read begins with this. The item's label contains it already.
_PLACE = re.compile(r"^line \d+: ")
# Making this many records into items is a step of a few milliseconds.
_MOST_AT_ONCE = 500


class Record(NamedTuple):
    """One record of a dataset: a JSON value, or the reason why it cannot be read."""

    label: str
    value: Any
    error: str | None = None


class DatasetChunk(NamedTuple):
    """Records in the order of the dataset, and where the next chunk begins; None at the end."""

    records: list[Record]
    following: Any
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class DatasetRequest:
    """Selects records and says how they become items.

    Attributes:
        dataset: The configured name, or a path.
        start: The position of the first record; None for the beginning.
        chunk_size: Number of records that are read at once.
        fields: Names of item fields, and of the record keys that fill them; None for all keys.
        options: Further fields of each item.
    """

    dataset: str
    start: Any
    chunk_size: int
    fields: Mapping[str, str] | None
    options: Mapping[str, Any]

    def item_of(self, operation: Operation, record: Record) -> Any:
        """Return the item for a record, or a substitute that fails."""
        if record.error is not None:
            return BadItem(record.label, _PLACE.sub("", record.error))
        value = record.value
        try:
            if self.fields is not None:
                value = {name: value[key] for name, key in self.fields.items()}
            value = {**value, **self.options} if self.options else value
        except (KeyError, TypeError) as error:
            reason = f"the record has no fields, or lacks {error}: see its keys, and `fields`"
            return BadItem(record.label, reason)
        try:
            return operation.check_item(value)
        except (TypeError, ValueError) as error:
            reason = str(error)
        return BadItem(record.label, reason)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values, from which it can be restored."""
        return asdict(self)


class DatasetStart(NamedTuple):
    """The start of an operation over a whole dataset: the request and its first chunk."""

    request: DatasetRequest
    chunk: DatasetChunk


class DatasetItems:
    """The items of a whole dataset, read a chunk at a time, each when the last one has started.

    An async iterator whose `__anext__` can be called again after a cancel or an error, so a batch
    over it can be cancelled and resumed. Items that were read are stored with the operation and
    are not read again: the dataset may have changed since.

    Args:
        state: The live server.
        operation: The operation on each item.
        request: The requested records.

    Attributes:
        items: The items read so far.
        following: The position of the next chunk.
        read_whole: Whether there is no next chunk.
        journal: Stores items that are read, if the store is not only memory.
        count: Called with the items of each further chunk and their size in bytes; raises if they
            do not fit.
    """

    def __init__(self, state: ServerState, operation: Operation, request: DatasetRequest) -> None:
        self._state = state
        self._operation = operation
        self._given = 0
        self.request = request
        self.items: list[Any] = []
        self.following: Any = request.start
        self.read_whole = False
        self.journal: OperationJournal | None = None
        self.count: Callable[[int, int], None] = lambda _items, _size: None

    def __aiter__(self) -> DatasetItems:
        """Return itself."""
        return self

    async def __anext__(self) -> Any:
        """Return the next item.

        Raises:
            ToolFailure: The rest of the dataset cannot be read, or there is no memory for it.
        """
        while self._given == len(self.items):
            if self.read_whole:
                raise StopAsyncIteration
            size = min(self.request.chunk_size, _MOST_AT_ONCE)
            self.add(await read_chunk(self._state, self.request.dataset, self.following, size))
        self._given += 1
        return self.items[self._given - 1]

    def add(self, chunk: DatasetChunk) -> None:
        """Add the next chunk, and have it stored."""
        items = [self.request.item_of(self._operation, record) for record in chunk.records]
        growth = {**storable_items(items), "next": chunk.following}
        body = growth_json(growth)
        # As objects, and as the form that is stored again after a failure of the state.
        self.count(len(items), 2 * len(body))
        self._grow(items, chunk.following)
        if self.journal is not None:
            self.journal.grow(body)

    def restore(self, growth: bytes) -> None:
        """Add the items that `add` had stored."""
        told = json.loads(growth)
        items = [
            item if isinstance(item, BadItem) else self._checked(item)
            for item in restored_items(told)
        ]
        self._grow(items, told["next"])

    def _checked(self, item: Any) -> Any:
        """Return a stored item as the operation takes it."""
        try:
            return self._operation.check_item(item)
        except (TypeError, ValueError) as error:
            return BadItem(brief_repr(item), str(error))

    def _grow(self, items: list[Any], following: Any) -> None:
        self.items += items
        self.following = following
        self.read_whole = following is None


def storable_items(items: Sequence[Any]) -> dict[str, Any]:
    """Return items as plain values, and separately the substitutes for unreadable ones."""
    bad = {index: [i.label, i.reason] for index, i in enumerate(items) if isinstance(i, BadItem)}
    if not bad:
        return {"items": items}
    return {"items": [None if n in bad else item for n, item in enumerate(items)], "bad": bad}


def restored_items(told: Mapping[str, Any]) -> list[Any]:
    """Return the items that `storable_items` was given, as plain values."""
    items: list[Any] = told["items"]
    for index, (label, reason) in told.get("bad", {}).items():
        items[int(index)] = BadItem(label, reason)
    return items


async def read_chunk(state: ServerState, dataset: str, position: Any, size: int) -> DatasetChunk:
    """Return records of a dataset from a position on.

    Raises:
        ToolFailure: The dataset is unknown, or cannot be read.
    """
    configured = state.settings.datasets
    files = state.services.files
    known = configured.get(dataset)
    if known is None:
        known = DatasetSettings.model_validate({"path": dataset})
        # A name without a suffix is the name of a dataset, unless it is a folder.
        if not PurePath(dataset).suffix and not await run_in_tool_thread(files.is_folder, dataset):
            raise NotFound(
                f"no dataset is named {brief_repr(dataset)}, and no folder has that path: name a "
                f"file or a folder by its path, or one of the datasets "
                f"{', '.join(configured) or '(none)'}",
                error_code="UNKNOWN_DATASET",
                data={"datasets": list(configured)},
            )
    if known.path is None:
        return await _read_table(state, known, position, size)
    return await run_in_tool_thread(_read_path, files, known, position, size)


def _read_path(
    roots: FileRoots, known: DatasetSettings, position: str | None, size: int
) -> DatasetChunk:
    from trio_tools.files.datasets import Dataset, DatasetKind  # noqa: PLC0415 - few need it

    assert known.path is not None
    kind = None if known.kind is None else DatasetKind(known.kind)
    if kind is None and roots.is_folder(known.path):
        kind = DatasetKind.FOLDER
    dataset = Dataset(roots, known.path, kind, known.encoding, known.delimiter)
    chunk = dataset.read_chunk(position, size)
    if kind is DatasetKind.FOLDER:
        records = [
            Record(item.value or f"file {item.number}", {"path": item.value}, item.error)
            for item in chunk.items
        ]
    else:
        records = [Record(_label(item), item.value, item.error) for item in chunk.items]
    return DatasetChunk(records, chunk.next_position, chunk.warnings)


def _label(item: DatasetItem) -> str:
    return f"{item.source} line {item.number}" if item.source else f"line {item.number}"


async def _read_table(
    state: ServerState, known: DatasetSettings, after: Any, size: int
) -> DatasetChunk:
    from trio_tools.database.tables import Table  # noqa: PLC0415 - few need it

    assert known.database is not None
    assert known.table is not None
    assert known.key is not None
    seconds = state.limits_of(_TOOL).declared.max_timeout_seconds
    table = Table(state.services.databases, known.database, known.table, known.key, seconds)
    chunk = await table.read_chunk(after, size)
    records = [Record(f"{known.key} {row[known.key]}", row) for row in chunk.rows]
    return DatasetChunk(records, chunk.last_key)
