"""The models of a folder by name. Each run is in a worker process, or on a cluster.

A cancel kills the worker process.

Weights stay in the worker that loaded them, so the second run of a model in it only computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack

import trio

from nursery_patterns import WorkerCrashed
from trio_tools.answers.errors import (
    Forbidden,
    InvalidArgument,
    NotFound,
    UpstreamFailed,
    brief_repr,
    use_one_of,
)
from trio_tools.inference import worker
from trio_tools.settings.computing import run_computation
from trio_tools.settings.threads import run_in_tool_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from trio_tools.inference.worker import Signature

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")

DEFAULT_CONCURRENCY = 2
DEFAULT_MAX_VALUES = 250_000  # converted and written as JSON in one step of 25 ms
_SUFFIX = ".onnx"
# A worker has this much memory, plus three times the size of its model, in whole gigabytes.
_MEMORY_STEP = 2**30
_MAX_CPU_SECONDS = 600.0
_MAX_NAME_CHARS = 1_000


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One file of the folder: its signature, or the reason why it is not a model."""

    name: str
    signature: Signature | None
    error: str | None


class Models:
    """ONNX models under one folder, which the operator trusts.

    A model's name is its path below the folder without `.onnx`. A file that changes is loaded
    again.

    Args:
        folder: An existing folder.
        limiter: Bounds the worker processes that compute. 2 if not given.
        max_values: Limit of numbers and texts in the outputs of one run.

    Raises:
        ValueError: The folder does not exist.
    """

    def __init__(
        self,
        folder: Path,
        *,
        limiter: trio.CapacityLimiter | None = None,
        max_values: int = DEFAULT_MAX_VALUES,
    ) -> None:
        if not folder.is_dir():
            raise ValueError(f"models_folder: {str(folder)!r} is not a folder: create it first")
        self.limiter = limiter or trio.CapacityLimiter(DEFAULT_CONCURRENCY)
        self._folder = folder.resolve()
        self._max_values = max_values

    async def run(self, name: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run a model on inputs by name and return its outputs by name.

        A cancel kills the worker process; its next run starts a new one and loads the model again.

        Args:
            name: The model.
            inputs: Numbers, texts or nested lists of them. They are converted to the types of the
                model, except that a fraction does not become an integer.

        Returns:
            Numbers, texts or nested lists of them. NaN and the infinities are texts.

        Raises:
            Forbidden: The name leads out of the folder.
            NotFound: The model does not exist; the message lists the known ones.
            InvalidArgument: The file is not a model, the inputs do not fit it, or the outputs are
                too large.
            UpstreamFailed: The extra is not installed, or the model crashed its process.
        """
        path, memory = await self._find(name)
        return await self._in_process(
            name, memory, worker.run, path, dict(inputs), self._max_values
        )

    async def describe(self, name: str) -> Signature:
        """Return the inputs and outputs of a model.

        Raises:
            ToolFailure: As `run`.
        """
        path, memory = await self._find(name)
        return await self._in_process(name, memory, worker.describe, path)

    async def names(self) -> tuple[str, ...]:
        """Return the names of the files of the folder that may be models, in order."""
        return tuple(await run_in_tool_thread(self._names))

    async def catalogue(self) -> tuple[ModelInfo, ...]:
        """Return all models of the folder in order of name; also the files that are not models.

        Raises:
            UpstreamFailed: The extra is not installed.
        """
        return tuple([await self._info(name) for name in await run_in_tool_thread(self._names)])

    async def _info(self, name: str) -> ModelInfo:
        try:
            return ModelInfo(name, await self.describe(name), None)
        except (Forbidden, NotFound, InvalidArgument) as failure:
            return ModelInfo(name, None, failure.message)

    async def _in_process(
        self, name: str, memory: int, fn: Callable[[Unpack[_Args]], _T], *args: *_Args
    ) -> _T:
        if find_spec("onnxruntime") is None:
            raise UpstreamFailed(
                "models need onnxruntime, which is not installed: the operator runs "
                "pip install trio-tools[inference]",
                error_code="EXTRA_NOT_INSTALLED",
            )
        try:
            return await run_computation(
                fn,
                *args,
                limiter=self.limiter,
                max_memory_bytes=memory,
                max_cpu_seconds=_MAX_CPU_SECONDS,
            )
        except MemoryError as error:
            raise InvalidArgument(
                f"model {brief_repr(name)} needs more memory for these inputs than its worker may "
                f"have ({memory:,} bytes): send a smaller batch",
                error_code="TOO_LARGE",
            ) from error
        except WorkerCrashed as error:
            raise UpstreamFailed(
                f"model {brief_repr(name)} crashed its worker process", error_code="MODEL_CRASHED"
            ) from error

    async def _find(self, name: str) -> tuple[str, int]:
        """Return the path of a model, and the memory limit of a worker that runs it."""
        return await run_in_tool_thread(self._find_here, name)

    def _find_here(self, name: str) -> tuple[str, int]:
        if len(name) > _MAX_NAME_CHARS:  # each component would be looked up
            raise InvalidArgument(
                f"model is a name of at most {_MAX_NAME_CHARS:,} characters, got {len(name):,}"
            )
        try:
            path = (self._folder / f"{name.removesuffix(_SUFFIX)}{_SUFFIX}").resolve()
            found = path.is_file()
        except (ValueError, OSError) as error:
            raise InvalidArgument(
                f"model {brief_repr(name)} cannot be read as a name: {error}"
            ) from error
        if not path.is_relative_to(self._folder):
            raise Forbidden(
                f"model {brief_repr(name)} is outside the folder of the setting models_folder: "
                "use one of the names listed",
                error_code="OUTSIDE_MODEL_FOLDER",
            )
        if not found:
            names = self._names()
            raise NotFound(
                f"no model is named {brief_repr(name)}: {use_one_of(names)}",
                error_code="UNKNOWN_MODEL",
                data={"models": names},
            )
        # In whole gigabytes, so that models of similar size share their workers.
        return str(path), _MEMORY_STEP * (1 + 3 * path.stat().st_size // _MEMORY_STEP)

    def _names(self) -> list[str]:
        return sorted(
            path.relative_to(self._folder).with_suffix("").as_posix()
            for path in self._folder.rglob(f"*{_SUFFIX}")
            if path.is_file()
        )
