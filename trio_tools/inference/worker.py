"""The code that runs in a worker process: load a model once, then run it repeatedly.

It does not import trio, and imports onnxruntime only to load a model.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from trio_tools.answers.errors import InvalidArgument

_MAX_RANK = 32
_MAX_SESSIONS = 4  # per process; a session holds the weights of its model

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
}
# Which kinds may be converted to a dtype without loss of meaning.
_WELCOME: dict[str, tuple[type, ...]] = {
    "f": (float, int, bool),
    "i": (int, bool),
    "u": (int, bool),
    "b": (bool,),
    "O": (str,),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output of a model."""

    name: str
    type: str
    """ONNX's name of the type, such as `tensor(float)`."""
    shape: tuple[int | str | None, ...]
    """A size, the name of a free size, or None for any size."""

    def __str__(self) -> str:
        sizes = ", ".join("any" if size is None else str(size) for size in self.shape)
        return f"{self.name}: {self.type} [{sizes}]"


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and outputs of a model, in its order."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


# By path, the most recently used last. An entry is replaced if the time or size of its file
# changed.
_sessions: dict[str, tuple[tuple[int, int], Any]] = {}


def describe(path: str) -> Signature:
    """Return the signature of the model in the file `path`.

    Raises:
        InvalidArgument: The file is not a model.
    """
    session = _load(path)
    return Signature(
        inputs=tuple(Tensor(it.name, it.type, tuple(it.shape)) for it in session.get_inputs()),
        outputs=tuple(Tensor(it.name, it.type, tuple(it.shape)) for it in session.get_outputs()),
    )


def run(path: str, inputs: dict[str, Any], max_values: int) -> dict[str, Any]:
    """Run the model in the file `path` and return its outputs by name, as JSON has them.

    Args:
        path: The model.
        inputs: By name: numbers, texts or nested lists of them.
        max_values: Limit of numbers and texts in all outputs together.

    Raises:
        InvalidArgument: The file is not a model, inputs do not fit it, or outputs are too large.
    """
    session = _load(path)
    signature = describe(path)
    names = {tensor.name for tensor in signature.inputs}
    if names != inputs.keys():
        raise InvalidArgument(
            f"inputs must be named {', '.join(sorted(names))}; got "
            f"{', '.join(sorted(inputs)) or 'none'}. The model takes "
            f"{'; '.join(map(str, signature.inputs))}.",
            error_code="BAD_INPUTS",
            remediation=f"Give inputs with exactly these names: {', '.join(sorted(names))}.",
        )
    arrays = {tensor.name: _array(tensor, inputs[tensor.name]) for tensor in signature.inputs}
    try:
        outputs: list[Any] = session.run(None, arrays)
    except _onnx_errors() as error:
        raise InvalidArgument(
            f"the model does not run on these inputs: {error}", error_code="BAD_INPUTS"
        ) from error
    total = sum(int(getattr(output, "size", 1)) for output in outputs)
    if total > max_values:
        raise InvalidArgument(
            f"the outputs have {total:,} values; at most {max_values:,} are allowed: "
            "send a smaller batch",
            error_code="TOO_LARGE",
        )
    return {
        tensor.name: _as_json(output)
        for tensor, output in zip(signature.outputs, outputs, strict=True)
    }


def _load(path: str) -> Any:
    status = os.stat(path)  # noqa: PTH116 - pathlib is one more import for a worker
    version = (status.st_mtime_ns, status.st_size)
    known = _sessions.pop(path, None)
    if known is None or known[0] != version:
        known = (version, _open_session(path))
    _sessions[path] = known
    while len(_sessions) > _MAX_SESSIONS:
        del _sessions[next(iter(_sessions))]
    return known[1]


def _open_session(path: str) -> Any:
    runtime: Any = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1  # the limiter counts processes, so a process is one core
    options.log_severity_level = 4  # errors arrive as exceptions
    try:
        return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except _onnx_errors() as error:
        name = os.path.basename(path)  # noqa: PTH119
        reason = str(error).replace(path, name)
        raise InvalidArgument(
            f"{name} is not a usable ONNX model: {reason.rstrip('.')}; name another model, or let "
            "the operator replace the file",
            error_code="NOT_A_MODEL",
        ) from error


def _onnx_errors() -> tuple[type[Exception], ...]:
    """Return the errors of onnxruntime, which have no common base class."""
    state: Any = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    members = cast("dict[str, object]", vars(state))
    return tuple(
        member
        for member in members.values()
        if isinstance(member, type) and issubclass(member, Exception)
    )


def _array(tensor: Tensor, value: Any) -> Any:
    numpy: Any = import_module("numpy")
    name = _DTYPES.get(tensor.type)
    if name is None:
        raise InvalidArgument(f"input {tensor} has a type that JSON cannot express here")
    dtype = numpy.dtype(name)
    # numpy gets values of one kind: it would make each text as long as the longest of all.
    shape, leaves = _shape_and_leaves(tensor, value)
    wrong = set(map(type, leaves)).difference(_WELCOME[dtype.kind])
    if wrong:
        names = ", ".join(sorted(_JSON_NAMES.get(each, each.__name__) for each in wrong))
        raise _bad_input(tensor, f"does not take {names}")
    _check_shape(tensor, shape)
    try:
        with numpy.errstate(over="raise"):  # else 1e40 becomes an infinite float32
            return numpy.array(leaves, dtype=dtype).reshape(shape)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise _bad_input(tensor, f"does not take what was given: {error}") from error


_JSON_NAMES = {str: "texts", float: "fractions", int: "whole numbers", bool: "true or false"} | {
    dict: "objects",
    type(None): "null",
}


def _shape_and_leaves(tensor: Tensor, value: Any) -> tuple[tuple[int, ...], list[Any]]:
    """Return the sizes of nested lists, and their values in order."""
    shape: list[int] = []
    level: list[Any] = [value]
    while level and isinstance(level[0], list):
        sizes = {len(cast("list[Any]", each)) if isinstance(each, list) else -1 for each in level}
        if len(sizes) > 1:
            raise _bad_input(tensor, "needs lists of one length on each level")
        shape += sizes
        level = [inner for each in level for inner in each]
        if len(shape) > _MAX_RANK:
            raise _bad_input(tensor, f"has at most {_MAX_RANK} levels of lists")
    if any(isinstance(each, list) for each in level):
        raise _bad_input(tensor, "needs lists of one length on each level")
    return tuple(shape), level


def _check_shape(tensor: Tensor, shape: tuple[int, ...]) -> None:
    fits = not tensor.shape or (
        len(shape) == len(tensor.shape)
        and all(
            wanted == size or not isinstance(wanted, int)
            for size, wanted in zip(shape, tensor.shape, strict=True)
        )
    )
    if not fits:
        raise _bad_input(tensor, f"does not take the shape {list(shape)}")


def _bad_input(tensor: Tensor, what: str) -> InvalidArgument:
    shape = ", ".join(map(str, tensor.shape)) or "any"
    return InvalidArgument(
        f"input {tensor} {what}.",
        error_code="BAD_INPUTS",
        remediation=f"Give {tensor.name} as nested lists of the type {tensor.type} and the shape "
        f"[{shape}].",
    )


def _as_json(value: Any) -> Any:
    """Return an output as JSON values; NaN and the infinities become texts."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, list):
        return [_as_json(each) for each in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {str(key): _as_json(each) for key, each in cast("dict[Any, Any]", value).items()}
    return value
