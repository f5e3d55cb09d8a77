"""`output_file`: all outcomes of a batch in a file, for a model that need not read them.

JSON Lines have one outcome per line, in the form of an answer and never truncated:

    {"index": 0, "item": "a", "value": {"length": 1}}
    {"index": 1, "item": "b", "status": "failed", "error_code": "NOT_FOUND", "reason": "…"}

CSV has the columns index, item, status, error_code, reason, value; an item or value that is not
text is written as JSON.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import trio

from trio_tools.answers.error_mapping import outcome_failure
from trio_tools.answers.errors import ToolFailure
from trio_tools.answers.json_values import json_bytes
from trio_tools.live.state import ServerState
from trio_tools.operations.result import value_of
from trio_tools.operations.stored_operation import CHUNK_BYTES, StoredOperation
from trio_tools.settings.threads import run_in_tool_thread
from trio_tools.tools.batches.outcomes import AnyOutcome, groups_of
from trio_tools.tools.call import Answer

_ADVICE = "read them with get_operation, or repeat the call with operation_id and output_file"
_COLUMNS = ("index", "item", "status", "error_code", "reason", "value")


async def check_output(state: ServerState, name: str) -> Path:
    """Return the path of a file, or refuse one that cannot be written, before work is done.

    Raises:
        ToolFailure: As `OutputFolder.check` does.
    """
    return await run_in_tool_thread(state.services.output.check, name)


async def write_output(state: ServerState, kept: StoredOperation) -> None:
    """Write the current outcomes, and store the result in `kept.output`.

    After a cancel the earlier file and `kept.output` are unchanged.
    """
    output = kept.output
    assert output is not None
    outcomes = kept.batch.report().outcomes
    lines = partial(_lines, kept, outcomes, as_csv=output.name.lower().endswith(".csv"))
    try:
        written = await run_in_tool_thread(
            lambda: state.services.output.write(output.name, lines())
        )
    except ToolFailure as failure:
        kept.note_output(output.failed(failure.message))
    else:
        kept.note_output(output.written(str(written.path)))


def with_output(answer: Answer, kept: StoredOperation) -> Answer:
    """Name the file of an operation in an answer, or the reason why it is not written."""
    output = kept.output
    if output is None:
        return answer
    path, told, warnings = output.path, "", answer.warnings
    if kept.goes_on:
        told = f"All outcomes will be in output_file {path} when it has ended."
    elif output.trouble:
        warnings = [*warnings, f"{output.trouble}. The outcomes are kept: {_ADVICE}."]
    else:
        told = f"All outcomes are in output_file {path}."
    return replace(
        answer,
        data={**answer.data, "output_file": path if told else None},
        text="\n".join(filter(None, (told, answer.text))),
        warnings=warnings,
        lean_data=None,
    )


def _lines(
    kept: StoredOperation, outcomes: tuple[AnyOutcome, ...], *, as_csv: bool
) -> Iterator[bytes]:
    if as_csv:
        yield _csv_line(_COLUMNS)
    for group in groups_of(outcomes, most_bytes=CHUNK_BYTES):
        trio.from_thread.check_cancelled()
        results = trio.from_thread.run(kept.whole_results, group)
        for outcome, result in zip(group, results, strict=True):
            label = kept.work.label_of(outcome.item)
            if result is not None:
                head = {"index": outcome.index, "item": label}
                yield _success(head, result, as_csv=as_csv)
            else:
                yield _failure(kept, outcome, label, as_csv=as_csv)


def _success(head: dict[str, Any], result: bytes, *, as_csv: bool) -> bytes:
    if not as_csv:  # in its stored form, which may be megabytes, without parsing
        return json_bytes(head)[:-1] + b',"value":' + result + b"}\n"
    text = value_of(result) if result.startswith(b'"') else result.decode()
    return _csv_line((head["index"], _cell(head["item"]), "succeeded", "", "", text))


def _failure(kept: StoredOperation, outcome: AnyOutcome, label: Any, *, as_csv: bool) -> bytes:
    failure = outcome_failure(outcome, running=kept.running)
    told = (str(outcome.status), str(failure.error_code), failure.user_message)
    if as_csv:
        return _csv_line((outcome.index, _cell(label), *told, ""))
    names = ("status", "error_code", "reason")
    data = {"index": outcome.index, "item": label, **dict(zip(names, told, strict=True))}
    return json_bytes(data) + b"\n"


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json_bytes(value).decode()


def _csv_line(cells: tuple[Any, ...]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue().encode()
