"""`@pytest.mark.cancel_everywhere`: cancel an async test at each of its checkpoints.

The package's entry point makes pytest load it. It needs only pytest. If pytest-trio is in trio
mode, it does not run the marked tests, because each run of them is a separate `trio.run`.
"""

from __future__ import annotations

import functools
import inspect
import linecache
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_NAME = "cancel_everywhere"
# Lines shown before and after the one at which the task waited.
_AROUND = 2

_HELP = (
    f"{_NAME}(seed=0, max_checkpoints=10000): run the async test on a virtual clock, once to its "
    "end and once for each of its checkpoints, cancelled there; nothing may be left behind"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--cancel-at`."""
    group = parser.getgroup("nursery_patterns")
    group.addoption(
        "--cancel-at",
        type=int,
        metavar="NUMBER",
        help=f"try only this checkpoint in tests marked {_NAME}",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line("markers", _HELP)


@pytest.fixture
def probe() -> Any:
    """A new `nursery_patterns.testing.Probe` for each run of a marked test."""
    return _PROBE


_PROBE = object()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Make a marked async test synchronous, before other plugins see that it is async."""
    marker = item.get_closest_marker(_NAME)
    if marker is None or not isinstance(item, pytest.Function):
        return
    function: Any = item.obj
    if not inspect.iscoroutinefunction(function):
        raise pytest.UsageError(
            f"{item.nodeid} is marked {_NAME} but is not an async test: declare it with `async def`"
        )
    only: int | None = item.config.getoption("--cancel-at")
    item.obj = _everywhere(function, item, only, **marker.kwargs)
    item.own_markers[:] = [mark for mark in item.own_markers if mark.name != "trio"]


def _everywhere(
    function: Any,
    item: pytest.Function,
    only: int | None,
    *,
    seed: int = 0,
    max_checkpoints: int = 10_000,
) -> Callable[..., None]:
    from nursery_patterns import testing  # noqa: PLC0415 - each run of pytest loads this module

    @functools.wraps(function)
    def run(**arguments: Any) -> None:
        _check_fixtures(arguments)

        async def scenario(probe: testing.Probe) -> None:
            given = {k: probe if v is _PROBE else v for k, v in arguments.items()}
            await function(**given)

        report = ""
        try:
            testing.cancel_at_every_checkpoint(
                scenario, seed=seed, max_checkpoints=max_checkpoints, only=only
            )
        except testing.CheckpointFailure as failure:
            if failure.checkpoint is None:  # the test itself failed, without any cancel
                raise (failure.__cause__ or failure) from None
            report = _report(failure, item)
        if report:
            pytest.fail(report, pytrace=False)

    del run.__wrapped__  # type: ignore[attr-defined] # or pytest would see an async function
    run.__signature__ = inspect.signature(function)  # type: ignore[attr-defined] # for its fixtures
    return run


def _check_fixtures(arguments: dict[str, Any]) -> None:
    for name, value in arguments.items():
        if inspect.iscoroutine(value) or inspect.isasyncgen(value):
            if inspect.iscoroutine(value):
                value.close()
            pytest.fail(
                f"the fixture {name!r} is async, and one value of it cannot serve many runs: "
                f"use an async context manager inside the test that is marked {_NAME}",
                pytrace=False,
            )


def _report(failure: Any, item: pytest.Function) -> str:
    """Report the failure, with the line of the earliest cancel that failed."""
    number = failure.checkpoint
    head = f"cancelled at checkpoint {number}, before its first step"
    excerpt: list[str] = []
    if failure.place is not None:
        file, line = failure.place
        head = f"cancelled at checkpoint {number}, {_relative(file, item)}:{line}"
        for near in range(max(1, line - _AROUND), line + _AROUND + 1):
            code = linecache.getline(file, near).rstrip()
            if code or near == line:
                excerpt.append(f"{'>' if near == line else ' '} {near:4} {code}")
    again = f'pytest "{item.nodeid}" --cancel-at {number}'
    return "\n".join([head, *excerpt, failure.problem, f"To see just this one: {again}"])


def _relative(file: str, item: pytest.Function) -> str:
    path = Path(file)
    return (
        str(path.relative_to(item.config.rootpath))
        if path.is_relative_to(item.config.rootpath)
        else file
    )
