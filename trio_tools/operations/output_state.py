"""The output file of an operation, and whether it was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

_KEY = "output"
_NOT_YET = "The work was stopped before output_file was written"


@dataclass(frozen=True)
class OutputState:
    """The state of the output file of one operation.

    Attributes:
        name: Its name as the caller gave it.
        path: Its path with all links resolved.
        trouble: Why it is not written; empty if it is.
    """

    name: str
    path: str
    trouble: str = _NOT_YET

    @classmethod
    def stored_in(cls, options: Mapping[str, Any]) -> OutputState | None:
        """Return the stored state of an operation; None if it has no file."""
        return cls(**options[_KEY]) if _KEY in options else None

    @staticmethod
    def store_in(options: Mapping[str, Any], output: OutputState | None) -> dict[str, Any]:
        """Return the stored options of an operation, with this state replaced."""
        others = {name: value for name, value in options.items() if name != _KEY}
        return others if output is None else {**others, _KEY: asdict(output)}

    def failed(self, trouble: str) -> OutputState:
        """Return the state after a failure to write the file."""
        return OutputState(self.name, self.path, trouble)

    def written(self, path: str) -> OutputState:
        """Return the state after the file was written."""
        return OutputState(self.name, path, "")
