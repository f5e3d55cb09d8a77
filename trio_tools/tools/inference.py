"""`run_inference`: a model in a worker process, which a cancel kills."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

from mcp.types import ToolAnnotations
from pydantic import Field

from trio_tools.answers.errors import InvalidArgument, NotFound
from trio_tools.answers.json_values import json_bytes
from trio_tools.operations.builtin.data import InferItem
from trio_tools.tools.call import Answer, Call
from trio_tools.tools.declaring.arguments import TimeoutSeconds
from trio_tools.tools.declaring.declaration import Tool
from trio_tools.tools.declaring.naming import has_models, model_names


async def run_inference(
    call: Call,
    *,
    model: Annotated[
        str | None, Field(description="Name of a model; leave out to list the models.")
    ] = None,
    inputs: Annotated[
        dict[str, Any] | None,
        Field(description="Numbers, texts or nested lists by input name; none to describe it."),
    ] = None,
    timeout_seconds: TimeoutSeconds = None,
) -> Answer:
    """Run an ONNX model. Without inputs, tell what it takes; without model, list what there is."""
    with call.time_limit(timeout_seconds):
        async with call.slot():
            models = call.state.services.models
            if model is None:
                found = [asdict(info) for info in await models.catalogue()]
                return Answer(summary=f"{len(found)} models.", data={"models": found})
            if inputs is None:
                signature = await models.describe(model)
                takes = "; ".join(map(str, signature.inputs))
                return Answer(
                    summary=f"{model} takes {takes}.", data={"model": model, **asdict(signature)}
                )
            outputs = await call.state.operations["infer"].run(
                InferItem(model=model, inputs=inputs)
            )
    _check_size(outputs, call.state.settings.max_output_chars)
    return Answer(
        summary=f"{model} returned {', '.join(outputs)}.", data={"model": model, "outputs": outputs}
    )


def _check_size(outputs: dict[str, Any], most: int) -> None:
    size = len(json_bytes(outputs))
    if size > most:
        raise InvalidArgument(
            f"the outputs take {size:,} characters, at most {most:,} fit into an answer: send a "
            "smaller batch, or use batch_process with the operation infer, which pages results",
            error_code="TOO_LARGE",
            data={"max_output_chars": most},
        )


RUN_INFERENCE = Tool(
    fn=run_inference,
    title="Run a model",
    execution="in a worker process (CPU-bound), which a cancel kills",
    operation="infer",
    annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
    names={"model": model_names},
    listed=has_models,
    needs="models_folder",
    refusal=partial(NotFound, error_code="NO_MODELS"),
)
