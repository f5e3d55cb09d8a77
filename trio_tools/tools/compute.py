"""`compute_hash` and `compress_data`: CPU-bound work in threads, outside of the event loop."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, Literal

from mcp.types import ToolAnnotations
from pydantic import Field

from trio_tools.answers.errors import InvalidArgument
from trio_tools.answers.texts import Told, counted
from trio_tools.files.hashing import ALGORITHMS, Digest, hash_file, hash_text
from trio_tools.operations.builtin.content import compression_text
from trio_tools.settings.computing import run_at
from trio_tools.settings.threads import run_in_tool_thread
from trio_tools.tools.call import Answer, Call
from trio_tools.tools.declaring.arguments import TimeoutSeconds
from trio_tools.tools.declaring.declaration import Tool

# The former name of `data`.
OldName = Annotated[str | None, Field(description="Old name of data.")]


async def compute_hash(
    call: Call,
    *,
    data: Annotated[str | None, Field(description="Text to hash, as UTF-8.")] = None,
    path: Annotated[str | None, Field(description="File to hash, under the roots.")] = None,
    text: OldName = None,
    algorithm: Annotated[str, Field(description="Name of the hash.")] = "sha256",
    timeout_seconds: TimeoutSeconds = None,
) -> Answer:
    """Hash a text or a file. Give one of data and path."""
    with call.time_limit(timeout_seconds):
        digest = await _digest(call, _either("compute_hash", data, text), path, algorithm)
    what = "the text" if path is None else f"file {path!r}"
    found = asdict(digest) if path is None else {**asdict(digest), "path": path}
    size = counted(digest.size_bytes, "byte")
    return Answer(
        summary=f"{digest.algorithm} of {what} ({size}): {digest.hexdigest}",
        data=found,
        told=(),
        warnings=[]
        if digest.secure
        else [f"{digest.algorithm} is fit for checksums only: collisions can be made at will."],
    )


async def compress_data(
    call: Call,
    *,
    data: Annotated[str | None, Field(description="Text to compress, as UTF-8.")] = None,
    path: Annotated[str | None, Field(description="File to compress, under the roots.")] = None,
    content_base64: Annotated[
        str | None, Field(description="Compressed text to undo instead, in base64.")
    ] = None,
    algorithm: Annotated[
        Literal["zlib", "gzip", "lzma", "zstd"], Field(description="How to compress.")
    ] = "zstd",
    level: Annotated[int | None, Field(description="From fast to small; not for undoing.")] = None,
    max_output_bytes: Annotated[
        int, Field(ge=0, le=1_000_000, description="Return the result too if it is no larger.")
    ] = 0,
    text: OldName = None,
    timeout_seconds: TimeoutSeconds = None,
) -> Answer:
    """Compress a text or a file; with content_base64, undo it. Give one of the three."""
    from trio_tools.files.compression import compress_file, compress_text  # noqa: PLC0415 - costs

    # Base64 makes four characters of three bytes, and all of them must fit into the answer.
    most = min(max_output_bytes, call.state.settings.max_output_chars // 4 * 3)
    options: dict[str, Any] = {"algorithm": algorithm, "level": level, "max_output_bytes": most}
    files = call.state.services.files
    with call.time_limit(timeout_seconds):
        match _either("compress_data", data, text), path, content_base64:
            case str() as plain, None, None:
                job = partial(compress_text, plain, **options)
            case None, str(), None:
                job = partial(compress_file, files, path, **options)
            case None, None, str():
                return await _decompressed(call, content_base64, algorithm)
            case _:
                raise _one_of("compress_data", "data", "path", "content_base64")
        found = await run_at(call.place_of("compress"), job, limiter=call.limits.limiter)
    told_as = asdict(found) if path is None else {"path": path, **asdict(found)}
    told, _, content = compression_text(told_as).partition("\n")
    return Answer(
        summary=told if path is None else f"{path!r} with {told}",
        data=told_as,
        told=[Told("", content)] if content else (),
        warnings=[_left_out(most, max_output_bytes)] if found.content_left_out else [],
    )


def _left_out(most: int, asked: int) -> str:
    if most == asked:
        return f"The result has more than max_output_bytes ({most}) and is not shown."
    return (
        f"The result has more than the {most} bytes that fit into an answer and is not shown: use "
        "batch_process with the operation compress, whose results are read in parts."
    )


async def _decompressed(call: Call, content: str, algorithm: str) -> Answer:
    from trio_tools.files.compression import decompress_text  # noqa: PLC0415 - costs

    undo = partial(
        decompress_text,
        content,
        algorithm=algorithm,
        max_output_bytes=call.state.settings.max_output_chars,
    )
    text = await run_in_tool_thread(undo, limiter=call.limits.limiter)
    return Answer(
        summary=f"{algorithm}: the text has {len(text)} characters.",
        data={"algorithm": algorithm, "text": text},
        told=[Told("", text)],
    )


async def _digest(call: Call, text: str | None, path: str | None, algorithm: str) -> Digest:
    files = call.state.services.files
    match text, path:
        case str(), None:
            job = partial(hash_text, text, algorithm=algorithm)
        case None, str():
            job = partial(hash_file, files, path, algorithm=algorithm)
        case _:
            raise _one_of("compute_hash", "data", "path")
    return await run_at(call.place_of("hash"), job, limiter=call.limits.limiter)


def _either(tool: str, data: str | None, text: str | None) -> str | None:
    if data is not None and text is not None:
        raise _one_of(tool, "data", "text")
    return text if data is None else data


def _one_of(tool: str, *arguments: str) -> InvalidArgument:
    return InvalidArgument(
        f"give exactly one of {', '.join(arguments)}, as in {tool}({arguments[0]}='…'); text is "
        "another name of data",
        data={"arguments": list(arguments)},
    )


COMPUTE_HASH = Tool(
    fn=compute_hash,
    title="Compute a hash",
    names={"algorithm": lambda _: ALGORITHMS},
    execution="sync, run in a thread (CPU-bound)",
    operation="hash",
    annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
)

COMPRESS_DATA = Tool(
    fn=compress_data,
    title="Compress data",
    execution="sync, run in a thread (CPU-bound)",
    operation="compress",
    annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
)
