"""Concurrent calls with the same arguments share one call."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Hashable
from contextvars import ContextVar
from typing import Any, Generic, ParamSpec, TypeVar, cast, final

import trio

from nursery_patterns._arguments import check_async_function, check_instance, name_of

_P = ParamSpec("_P")
_T = TypeVar("_T")

_CALL = "single_flight({fn}, nursery)"

# The calls inside which the current task runs, outermost first.
_inside: ContextVar[tuple[_Flight, ...]] = ContextVar("_inside", default=())


def single_flight(
    fn: Callable[_P, Awaitable[_T]],
    nursery: trio.Nursery,
    *,
    key: Callable[_P, Hashable] | None = None,
) -> SingleFlight[_P, _T]:
    """Return a version of `fn` in which concurrent calls with the same key share one call.

    Usage::

        async with trio.open_nursery() as nursery:
            look_up = single_flight(resolve, nursery)
            ...
            addresses = await look_up("example.org")  # by fifty tasks: `resolve` runs once

    The shared call is a task of `nursery`, in the context of the first caller. All callers wait for
    it and get the same value. It is not a cache: once the call has ended, the next caller starts a
    new one.

    **Failure**: each caller gets its own copy of the exception, which it may change and raise
    without affecting the others. This holds for `Exception` and its subclasses; `KeyboardInterrupt`
    and `SystemExit` leave through the nursery.

    **Cancellation**: a cancelled caller does not affect the others. The call is cancelled when its
    last caller is. A later caller starts a new call, also while the old one unwinds. So the
    deadline of one caller never cancels the call of another. If the nursery is cancelled, callers
    outside of it get a `RuntimeError`.

    Args:
        fn: An async function.
        nursery: The nursery of the calls. It must be open while there are callers.
        key: A function of the same arguments; calls for which it returns the same are shared. By
            default all the arguments together.

    Raises:
        TypeError: An argument has the wrong type; the message has the corrected call.
    """
    check_async_function(fn, call=_CALL, item=False)
    check_instance("nursery", nursery, trio.Nursery, call=_CALL.format(fn="fn"))
    if key is not None and not callable(key):
        raise TypeError(
            f"key must be a function of the same arguments, got {key!r}: write "
            "single_flight(fn, nursery, key=lambda url: url.host)"
        )
    return SingleFlight(fn, nursery, key or cast("Callable[_P, Hashable]", _all_arguments))


@final
class SingleFlight(Generic[_P, _T]):
    """An async function whose concurrent calls with the same key are one. See `single_flight`."""

    def __init__(
        self,
        fn: Callable[_P, Awaitable[_T]],
        nursery: trio.Nursery,
        key: Callable[_P, Hashable],
    ) -> None:
        self._fn = fn
        self._nursery = nursery
        self._key = key
        # Invariant: each has a caller, has not ended, and is not cancelled by us.
        self._flights: dict[Hashable, _Flight] = {}

    def __repr__(self) -> str:
        return f"<single_flight {name_of(self._fn)}: {len(self._flights)} in flight>"

    @property
    def in_flight(self) -> int:
        """Calls that run now and have callers."""
        return len(self._flights)

    async def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Wait for the call with this key. If there is none, start it.

        Raises:
            TypeError: The key cannot be hashed.
            RuntimeError: The call would wait for itself, or the nursery was cancelled or has ended.
            Exception: As `fn`.
        """
        key = self._key(*args, **kwargs)
        flight = self._find(key)
        await trio.lowlevel.checkpoint_if_cancelled()
        flight = self._find(key)
        if flight is None:
            flight = _Flight()
            name = f"single flight of {name_of(self._fn)}"
            self._nursery.start_soon(self._fly, key, flight, args, kwargs, name=name)
            self._flights[key] = flight
        flight.callers += 1
        try:
            await flight.ended.wait()
        finally:
            flight.callers -= 1
            if not flight.callers and not flight.ended.is_set():
                self._forget(key, flight)
                flight.scope.cancel(reason="its last caller was cancelled")
        return self._result_of(flight)

    def _find(self, key: Hashable) -> _Flight | None:
        try:
            flight = self._flights.get(key)
        except TypeError as error:
            raise TypeError(
                f"calls of {name_of(self._fn)} are shared by a key that can be hashed, got "
                f"{key!r}: write single_flight(fn, nursery, key=lambda argument: ...)"
            ) from error
        if flight in _inside.get():
            raise RuntimeError(
                f"the call of {name_of(self._fn)} with key {key!r} would wait for itself: inside "
                f"of it call {name_of(self._fn)} directly, or use another key"
            )
        return flight

    async def _fly(
        self, key: Hashable, flight: _Flight, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        _inside.set((*_inside.get(), flight))
        try:
            with flight.scope:
                await trio.lowlevel.checkpoint_if_cancelled()
                try:
                    try:
                        flight.value = await self._fn(*args, **kwargs)
                    except Exception as error:  # noqa: BLE001 - it is the callers' to handle
                        flight.error = error
                    else:
                        flight.succeeded = True
                except* Exception as errors:  # noqa: BLE001 - beside a cancel, which goes on from here
                    flight.error = errors
        finally:
            self._forget(key, flight)
            flight.ended.set()
            del flight  # it has the error, whose traceback has this frame

    def _forget(self, key: Hashable, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    def _result_of(self, flight: _Flight) -> _T:
        if flight.succeeded:
            return cast("_T", flight.value)
        if flight.error is not None:
            raise _copy_of(flight.error)
        raise RuntimeError(
            f"the shared call of {name_of(self._fn)} was cancelled with the nursery that it "
            "lives in: use a nursery that is open for as long as its callers run"
        )


@final
class _Flight:
    """One shared call."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self.callers = 0
        self.succeeded = False
        self.value: Any = None
        self.error: Exception | None = None


def _all_arguments(*args: Hashable, **kwargs: Hashable) -> Hashable:
    return args, tuple(sorted(kwargs.items()))


def _copy_of(error: Exception) -> Exception:
    """Return a copy of an exception, with its traceback, cause and notes.

    If `copy` fails, because the constructor takes arguments that the exception does not keep, the
    copy is made from the class, `args` and attributes.
    """
    twin = _copy_of_group(error) or _by_copy(error) or _from_class(error)
    twin.__dict__.update(error.__dict__)
    if hasattr(error, "__notes__"):
        twin.__notes__ = [*error.__notes__]
    twin.__cause__, twin.__context__ = error.__cause__, error.__context__
    twin.__suppress_context__ = error.__suppress_context__
    return twin.with_traceback(error.__traceback__)


def _copy_of_group(error: Exception) -> Exception | None:
    if not isinstance(error, ExceptionGroup):
        return None
    group = cast("ExceptionGroup[Exception]", error)
    return group.derive([_copy_of(inner) for inner in group.exceptions])


def _from_class(error: Exception) -> Exception:
    kind = type(error)
    return kind.__new__(kind, *error.args)


def _by_copy(error: Exception) -> Exception | None:
    try:
        twin = copy.copy(error)
    except Exception:  # noqa: BLE001 - whatever a constructor raises of arguments not meant for it
        return None
    return twin if type(twin) is type(error) and twin.args == error.args else None
