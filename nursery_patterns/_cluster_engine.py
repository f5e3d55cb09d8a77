"""The interface between `run_in_cluster` and an engine that distributes calls."""

from __future__ import annotations

import io
import pickle
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, final

from nursery_patterns._errors import NotPicklable, TooLargeForCluster

_NOT_PICKLABLE = (pickle.PicklingError, AttributeError, RecursionError, TypeError, ValueError)

Dumps = Callable[[Any], bytes]

# A larger function is stored on the cluster once, if the engine can, and not sent with each call.
_LARGE_FUNCTION = 100_000


@final
class PickledFunction:
    """The bytes of a function. They are made once, by its first call, in the engine's thread."""

    __slots__ = ("__weakref__", "_bytes")

    def __init__(self) -> None:
        self._bytes: bytes | None = None

    def of(self, fn: Callable[..., Any], dumps: Dumps) -> bytes:
        """Return the function pickled."""
        if self._bytes is None:
            self._bytes = dumps(fn)
        return self._bytes


@final
class Functions:
    """The pickled forms of the functions that are in use, so that each is pickled once."""

    def __init__(self) -> None:
        # By identity, which is unique while the function exists.
        self._by_id: dict[int, tuple[weakref.ref[Any], PickledFunction]] = {}

    def of(self, fn: Callable[..., Any]) -> PickledFunction:
        """Return the pickled form of a function, which may be made later."""
        key = id(fn)
        found = self._by_id.get(key)
        if found is not None and found[0]() is fn:
            return found[1]
        pickled = PickledFunction()
        with suppress(TypeError):  # of a kind that has no weak references
            gone = partial(self._forget, key)
            self._by_id[key] = weakref.ref(fn, gone), pickled
        return pickled

    def _forget(self, key: int, reference: weakref.ref[Any]) -> None:
        if key in self._by_id and self._by_id[key][0] is reference:
            del self._by_id[key]


@final
@dataclass(frozen=True, slots=True, eq=False)
class ClusterJob:
    """One call, on its way to a node.

    Attributes:
        name: Of the function, for messages.
        fn: The function.
        function: Its bytes, the same for all calls.
        args: Its arguments.
        max_bytes: Most bytes of the function and its arguments, and of its result, pickled.
        request: Id, client, age and time left, both in seconds, of the request that it serves.
        trace: The trace that it belongs to, as headers name it (`traceparent`); empty without one.
    """

    name: str
    fn: Callable[..., Any]
    function: PickledFunction
    args: tuple[Any, ...]
    max_bytes: int
    request: tuple[str, str, float, float] | None = None
    trace: Mapping[str, str] = field(default_factory=dict[str, str])

    def pickled(
        self,
        dumps: Dumps,
        reference: type | None = None,
        store: Callable[[PickledFunction, bytes], Any] | None = None,
    ) -> tuple[bytes, *tuple[Any, ...]]:
        """Return the arguments with which to call `run_job` on a node.

        Args:
            dumps: Pickles functions by value, such as `cloudpickle.dumps`.
            reference: Type of the engine's references. The engine replaces references in the
                arguments of a task by their values.
            store: Stores a function of more than 100 kB once and returns its reference.

        Raises:
            NotPicklable: The function or an argument cannot be pickled.
            TooLargeForCluster: They are larger than `max_bytes`.
        """
        places = [n for n, arg in enumerate(self.args) if _is(arg, reference)]
        sent = [None if n in places else arg for n, arg in enumerate(self.args)]
        shared = [self.args[n] for n in places]
        try:
            function = self.function.of(self.fn, dumps)
            stored = store is not None and len(function) > _LARGE_FUNCTION
            # All in one argument: an engine takes longer for each argument than for its bytes.
            call = (
                None if stored else function,
                (self.name, sent, places, self.request, self.trace),
                self.max_bytes,
            )
            told = _dump_plain(call) or dumps(call)
        except _NOT_PICKLABLE as error:
            raise NotPicklable(
                f"{self.name} and its arguments must be picklable to be sent to a cluster, but: "
                f"{error}. Leave out what holds open files, locks or connections, and open it in "
                "the function"
            ) from error
        if (size := len(told) + (len(function) if stored else 0)) > self.max_bytes:
            raise TooLargeForCluster(
                f"{self.name} and its arguments have {size:,} bytes and may have "
                f"{self.max_bytes:,}: put what is large into the cluster once, with "
                "ray.put(value), and give the reference as the argument"
            )
        if store is not None and stored:
            return told, store(self.function, function), *shared
        return told, *shared


class ClusterEngine(Protocol):
    """An engine that distributes calls. All three methods are called in one dedicated thread."""

    def submit(
        self,
        job: ClusterJob,
        resources: Mapping[str, float],
        ended: Callable[[bytes | Exception], None],
    ) -> object:
        """Start a job on a node, and return the argument for `cancel`.

        Args:
            job: Call `run_job(*job.pickled(...))` on a node.
            resources: Required amounts, by name.
            ended: Call it once, from any thread: with the return value of `run_job`; with a
                `WorkerCrashed` if the worker or node died; with a `ClusterLost` if the engine is no
                longer usable; or with another error.
        """
        ...

    def cancel(self, task: Any) -> None:
        """Stop a job, so that its core is free. It still calls `ended`."""
        ...

    def close(self) -> None:
        """Leave the cluster, or end it if it was started for this program."""
        ...


class _NotPlainError(Exception):
    """It contains more than plain data."""


class _PlainPickler(pickle.Pickler):
    """Pickles numbers, texts and collections of them in C; refuses everything else."""

    def reducer_override(self, obj: object, /) -> Any:
        # Not called for types that C pickles itself. Others, such as classes of the main module,
        # need a pickler that sends them by value, which takes ten times as long.
        raise _NotPlainError(type(obj))


def _dump_plain(value: object) -> bytes | None:
    """Return a pickled value, or None if it contains more than plain data."""
    buffer = io.BytesIO()
    try:
        _PlainPickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    except _NotPlainError:
        return None
    return buffer.getvalue()


def _is(value: object, kind: type | None) -> bool:
    return kind is not None and isinstance(value, kind)
