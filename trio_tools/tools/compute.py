"""`compute_hash`: work for the processor, in threads, so that the event loop stays free."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from mcp.types import ToolAnnotations
from pydantic import Field

from nursery_patterns import run_in_thread
from trio_tools.errors import InvalidArgument
from trio_tools.files.hashing import ALGORITHMS, Digest, hash_file, hash_text
from trio_tools.tools.call import Answer, Call
from trio_tools.tools.declaration import Tool


async def compute_hash(
    call: Call,
    *,
    text: Annotated[str | None, Field(description="Text to hash, as UTF-8.")] = None,
    path: Annotated[str | None, Field(description="File to hash, under the file roots.")] = None,
    algorithm: Annotated[str, Field(description=f"One of {', '.join(ALGORITHMS)}.")] = "sha256",
    timeout_seconds: Annotated[float | None, Field(gt=0, description="Time for this call.")] = None,
) -> Answer:
    """Hash a text, or a file under the allowed folders. Give exactly one of text and path."""
    with call.time_limit(timeout_seconds):
        digest = await _digest(call, text, path, algorithm)
    what = f"file {path!r}" if text is None else "the text"
    data = {**asdict(digest), "path": path} if text is None else asdict(digest)
    return Answer(
        summary=f"{digest.algorithm} of {what} ({digest.size_bytes} bytes): {digest.hexdigest}",
        data=data,
        warnings=[]
        if digest.secure
        else [f"{digest.algorithm} is fit for checksums only: collisions can be made at will."],
    )


async def _digest(call: Call, text: str | None, path: str | None, algorithm: str) -> Digest:
    limiter = call.limits.limiter
    if text is not None and path is None:
        return await run_in_thread(lambda: hash_text(text, algorithm=algorithm), limiter=limiter)
    if path is not None and text is None:
        files = call.state.services.files
        return await run_in_thread(
            lambda: hash_file(files, path, algorithm=algorithm), limiter=limiter
        )
    raise InvalidArgument(
        "give exactly one of text and path: compute_hash(text='…') or compute_hash(path='…')",
        data={"arguments": ["text", "path"]},
    )


COMPUTE_HASH = Tool(
    fn=compute_hash,
    title="Compute a hash",
    execution="sync, run in a thread (CPU-bound)",
    annotations=ToolAnnotations(
        read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
    ),
)
