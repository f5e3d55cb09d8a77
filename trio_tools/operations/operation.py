"""`Operation`: a function of one item that can be run over thousands, and its declaration."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from nursery_patterns import TokenBucket, check_in_cluster
from trio_tools.answers.errors import InvalidArgument, brief_repr
from trio_tools.answers.texts import json_line
from trio_tools.operations.functions import (
    KEY,
    PROGRESS,
    Execution,
    check_function,
    first_annotation,
    first_line,
    takes,
    unwrapped,
)
from trio_tools.operations.item_types import BadItem
from trio_tools.operations.timeline import ReportProgress
from trio_tools.settings.computing import Place, computing_on_cluster, run_at

# An identifier, or the names of an upstream and of its tool.
_NAME = re.compile(r"[^\W\d]\w*|[A-Za-z_][\w-]*\.[\w./-]+")
_MAX_REASON_CHARS = 300
_MAX_LABEL_CHARS = 200
# Pydantic errors about the shape of an item whose names do not end in `_type` or `_parsing`.
_OF_SHAPE = frozenset({"missing", "extra_forbidden", "wrong_shape"})


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation, as the built-in ones and those of an application are declared.

    Usage::

        async def word_count(text: str) -> int: ...


        create_server(operations=[Operation(name="word_count", fn=word_count)])

    Attributes:
        name: Its name for callers.
        fn: Function of one item that returns JSON values, or a callable object. Async for
            `runs="async"`; a plain function is run in a thread, in a worker process (where it
            must be importable) or on a cluster (to which it is sent by value).
        description: For models; by default the first line of the docstring.
        runs: `"async"` for waiting, `"thread"` for blocking calls, `"process"` for computation
            that a cancel must really stop, `"cluster"` for computation on the cluster of the
            setting `cluster.address`, where a cancel frees the core.
        item_type: Type of an item, for validation and schema; by default the annotation of the
            first parameter of `fn`.
        label: Returns the name of an item in reports; by default the item as JSON.
        render: Returns the text of a result for a model. Called with its JSON value, it returns
            one line, or a line and below it foreign text, which is then put between markers. By
            default the JSON on one line.
        lean: Returns a result, a JSON value, without the fields that a lean answer omits. By
        default
            all of it is shown.
        limit_name: Name of its limiter; operations that share a resource share a name.
        item_timeout_seconds: Default timeout of one item; None for no bound.
        bucket: Each item takes one token of it, and waits for it without a token of the limiter.
        at_most_once: Whether an item that was running when the process ended must not run again:
            it ends as failed, with the code LOST. By default it runs again, so its effects happen
            at least once.
        computes_in: For an async `fn` that computes elsewhere: the place. None if it only waits.
        takes_own_place: Whether `fn` itself takes a token of that limiter, only while it needs
            one. By default each item of a batch holds one from its beginning to its end.

    Raises:
        TypeError: `fn` does not fit `runs`, or cannot be called with one item, or pydantic does
            not support the type of the item.
        ValueError: `name` is not an identifier, or two names with a dot between them as for tools
            of upstreams; or `runs` is not one of the four.
    """

    name: str
    fn: Callable[[Any], Any]
    description: str = ""
    runs: Execution = "async"
    item_type: Any = None
    label: Callable[[Any], Any] | None = None
    render: Callable[[Any], str] | None = None
    lean: Callable[[Any], Any] | None = None
    limit_name: str = ""
    takes_own_place: bool = False
    item_timeout_seconds: float | None = None
    bucket: TokenBucket | None = None
    at_most_once: bool = False
    computes_in: Literal["process", "cluster"] | None = None
    _items: TypeAdapter[Any] = field(init=False, repr=False, compare=False)
    _takes_key: bool = field(init=False, repr=False, compare=False)
    _takes_progress: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"an operation's name must be an identifier, got {self.name!r}: "
                "write Operation(name='word_count', fn=word_count)"
            )
        check_function(self.name, self.fn, self.runs)
        put = functools.partial(object.__setattr__, self)
        put("description", self.description or first_line(unwrapped(self.fn)) or self.name)
        put("_takes_key", takes(self.fn, KEY))
        put("_takes_progress", takes(self.fn, PROGRESS))
        put("limit_name", self.limit_name or self.name)
        put(
            "_items",
            TypeAdapter(first_annotation(self.fn) if self.item_type is None else self.item_type),
        )

    def item_schema(self) -> dict[str, Any]:
        """Return the JSON schema of one item."""
        return self._schema

    @functools.cached_property
    def _schema(self) -> dict[str, Any]:
        """Cached: making the schema takes half a millisecond, and each batch needs it."""
        return self._items.json_schema()

    def check_item(self, item: Any) -> Any:
        """Return an item in the form that `fn` takes.

        Raises:
            TypeError: Its shape is not that of the schema; the message says where.
            ValueError: Its shape is right, but a value in it cannot be processed.
        """
        try:
            return self._items.validate_python(item)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False)
        told = next(filter(_is_of_shape, found), found[0])
        place = ".".join(map(str, told["loc"]))
        message = self._words_for(told)
        reason = f"{place}: {message}" if place else message
        raise (TypeError if _is_of_shape(told) else ValueError)(reason)

    def _words_for(self, error: Any) -> str:
        """Describe a validation error with the names of fields, without Python types."""
        kind = error["type"]
        if kind == "missing":
            return "this field is missing"
        fields = ", ".join(self.item_schema().get("properties", ()))
        if kind == "extra_forbidden":
            return f"there is no such field, only {fields}"
        if kind == "model_type":
            return f"an item is an object with the fields {fields}"
        return error["msg"].removeprefix("Value error, ")

    def check_items(self, items: list[Any], *, name: str = "items") -> list[Any]:
        """Return the items in the form that `fn` takes. `name` is the name of their argument.

        An item with a value that cannot be processed becomes a `BadItem`, which fails alone.

        Raises:
            InvalidArgument: Some do not have the shape of the schema, which usually concerns all;
                the message names all bad ones, and none is run.
        """
        checked: list[Any] = []
        wrong: list[dict[str, Any]] = []
        for index, item in enumerate(items):
            try:
                checked.append(self.check_item(item))
            except ValueError as error:
                checked.append(BadItem(_label_of_bad(item), str(error)))
            except TypeError as error:
                wrong.append(
                    {
                        "index": index,
                        "item": brief_repr(item),
                        "reason": str(error)[:_MAX_REASON_CHARS],
                    }
                )
        if wrong:
            told = "; ".join(f"{name}[{w['index']}]: {w['reason'].rstrip('.')}" for w in wrong[:3])
            raise InvalidArgument(
                f"{len(wrong)} of {len(items)} {name} do not fit operation {self.name!r}: {told}. "
                "Nothing was run. Correct them and call again.",
                error_code="INVALID_ITEMS",
                data={"invalid_items": wrong, "item_schema": self.item_schema()},
            )
        return checked

    def label_of(self, item: Any) -> Any:
        """Return the name of a checked item in reports, as a JSON value."""
        return (
            self._items.dump_python(item, mode="json") if self.label is None else self.label(item)
        )

    def text_of(self, value: Any) -> str:
        """Return the text of a result that is given as JSON values."""
        return json_line(value) if self.render is None else self.render(value)

    @property
    def takes_key(self) -> bool:
        """Whether `fn` has a parameter `idempotency_key`.

        It is `operation_id/index`, the same in each run of an item, so that a service that `fn`
        calls can distinguish a second run from another item.
        """
        return self._takes_key

    @property
    def takes_progress(self) -> bool:
        """Whether `fn` has a parameter `report_progress`.

        It is a function `report_progress(done, total, message)` that reports the progress of the
        item; `total` and `message` may be None. It does not wait, and may be called at any rate.
        """
        return self._takes_progress

    async def run(
        self,
        item: Any,
        *,
        idempotency_key: str | None = None,
        report_progress: ReportProgress | None = None,
    ) -> Any:
        """Run the operation on one checked item, in the declared place.

        A cancel ends an async function at its next checkpoint and kills a worker process. A
        thread is waited for half a second and then abandoned, so its function should call
        `trio.from_thread.check_cancelled()`. On a cluster the task is killed.
        """
        fn: Any = self.fn
        if self._takes_key and idempotency_key is not None:
            fn = functools.partial(fn, idempotency_key=idempotency_key)
        if self._takes_progress:
            fn = functools.partial(fn, report_progress=report_progress or _tell_nobody)
        if self.runs != "async":
            return await run_at(self.runs, fn, item)
        if self.computes_in != "cluster":
            return await fn(item)
        with computing_on_cluster():
            return await fn(item)

    @property
    def on_cluster(self) -> bool:
        """Whether it computes on the cluster."""
        return "cluster" in {self.runs, self.computes_in}

    def placed(self, place: Place) -> Operation:
        """Return the operation with its computations moved to that place.

        Raises:
            ValueError: It computes nothing, or not in a thread; the message says so.
        """
        if self.runs != "async":
            return dataclasses.replace(self, runs=place)
        if self.computes_in is None:
            raise ValueError(f"operation {self.name!r} waits and computes nothing: leave it out")
        if place == "thread":
            raise ValueError(
                f"operation {self.name!r} computes in a worker process or on the cluster, since "
                "a thread could not be stopped: say 'process' or 'cluster'"
            )
        return dataclasses.replace(self, computes_in=place)

    async def check_cluster(self) -> None:
        """Check that the cluster can run it: it is reachable, and a node can load the function.

        Raises:
            ClusterError: The cluster is not reachable, or the function cannot be sent.
            Exception: The error of loading the function on a node, such as `ModuleNotFoundError`.
        """
        await check_in_cluster(self.fn if self.runs == "cluster" else len)


def _tell_nobody(done: float, total: float | None = None, message: str | None = None) -> None:
    """Do nothing: the default for a caller's callback where an operation runs without a batch."""


def _label_of_bad(item: Any) -> Any:
    """Return the name of an item that is not valid: a short one itself, the start of a long one."""
    if isinstance(item, str):
        return item[:_MAX_LABEL_CHARS]
    return item if len(json_line(item)) <= _MAX_LABEL_CHARS else brief_repr(item)


def _is_of_shape(error: Any) -> bool:
    """Whether an error of pydantic concerns a type or a field, not a value."""
    return error["type"] in _OF_SHAPE or error["type"].endswith(("_type", "_parsing"))
