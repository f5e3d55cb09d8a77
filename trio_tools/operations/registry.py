"""The operations of one server by name: built-in, given by the application, or by packages."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from itertools import chain
from typing import Any

from trio_tools.answers.errors import NotFound, brief_repr, use_one_of
from trio_tools.operations.builtin.content import content_operations
from trio_tools.operations.builtin.crawl import crawl_operations
from trio_tools.operations.builtin.data import data_operations
from trio_tools.operations.builtin.upstream import UpstreamOperations
from trio_tools.operations.builtin.web import web_operations
from trio_tools.operations.operation import Operation
from trio_tools.services import Services
from trio_tools.settings import Settings
from trio_tools.settings.computing import Place

ENTRY_POINT_GROUP = "trio_tools.operations"

AnyOperation = Operation | Callable[[Any], Awaitable[Any]]


class Operations(Mapping[str, Operation]):
    """Operations by name, in order of registration, followed by those of upstreams.

    Args:
        operations: Those that exist for the life of the server.
        places: By name, where operations compute that do not compute in their declared place.
        upstreams: Returns the operations of upstreams, which may change.

    Raises:
        ValueError: Two operations have the same name, or a place is given for an unknown
            operation or for one that computes nothing.
        TypeError: A value is neither an `Operation` nor an async function.
    """

    def __init__(
        self,
        operations: Iterable[AnyOperation],
        *,
        places: Mapping[str, Place] | None = None,
        upstreams: UpstreamOperations | None = None,
    ) -> None:
        self._upstreams = upstreams
        self._by_name: dict[str, Operation] = {}
        for given in operations:
            operation = _as_operation(given)
            if operation.name in self._by_name:
                raise ValueError(f"two operations are named {operation.name!r}: rename one of them")
            self._by_name[operation.name] = operation
        for name, place in (places or {}).items():
            self._by_name[name] = self._placed(name, place)

    def __getitem__(self, name: str) -> Operation:
        if self._upstreams is not None and name not in self._by_name:
            return self._upstreams[name]
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return chain(self._by_name, self._upstreams or ())

    def __len__(self) -> int:
        return len(self._by_name) + len(self._upstreams or ())

    def find(self, name: str) -> Operation:
        """Return the operation of that name.

        Raises:
            NotFound: The operation does not exist; the message lists the names.
        """
        if name not in self:
            raise NotFound(
                f"no operation is named {brief_repr(name)}: {use_one_of(self)}",
                error_code="UNKNOWN_OPERATION",
                data={"operations": list(self)},
            )
        return self[name]

    def _placed(self, name: str, place: Place) -> Operation:
        setting = f"operations.{name}.runs"
        if name not in self._by_name:
            computing = [
                each.name
                for each in self._by_name.values()
                if each.runs != "async" or each.computes_in
            ]
            raise ValueError(
                f"{setting}: no operation of this server has that name; those that compute are: "
                f"{', '.join(computing)}"
            )
        try:
            return self._by_name[name].placed(place)
        except ValueError as error:
            raise ValueError(f"{setting}: {error}") from None

    async def look_up(self, name: str) -> Operation:
        """Return the operation of that name. Starts its upstream if its tools are not known.

        Raises:
            NotFound: The operation does not exist; the message lists the names.
            Forbidden: The settings do not allow that tool of the upstream.
            UpstreamFailed: The upstream cannot be started.
        """
        if self._upstreams is not None:
            await self._upstreams.prepare(name)
        return self.find(name)


def builtin_operations(services: Services, settings: Settings) -> list[Operation]:
    """Return the built-in operations, bound to the services and settings of a server."""
    return [
        *web_operations(services, settings),
        *crawl_operations(services, settings),
        *content_operations(services),
        *data_operations(services),
    ]


def installed_operations() -> list[Operation]:
    """Load the operations of installed packages from the entry points `trio_tools.operations`.

    Each entry point is an `Operation` or an async function of one item.

    Raises:
        ValueError: One cannot be loaded, or is something else; the message names it.
    """
    return [_loaded(entry) for entry in entry_points(group=ENTRY_POINT_GROUP)]


def _loaded(entry: EntryPoint) -> Operation:
    try:
        return _as_operation(entry.load())
    except Exception as error:
        package = f" of the package {entry.dist.name}" if entry.dist else ""
        raise ValueError(
            f"operation {entry.name!r}{package} cannot be loaded from {entry.value!r} ({error!r}): "
            "mend or uninstall the package that offers it"
        ) from error


def _as_operation(given: Any) -> Operation:
    if isinstance(given, Operation):
        return given
    if inspect.iscoroutinefunction(given) and hasattr(given, "__name__"):
        return Operation(name=given.__name__, fn=given)
    raise TypeError(
        f"{given!r} is no operation: pass an async function of one item, or "
        "Operation(name='…', fn=…) for one without a name of its own, with runs='thread' for a "
        "plain one"
    )
