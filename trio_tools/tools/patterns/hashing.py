"""The work of most patterns, which is to hash a text, and the form of a failed item."""

from __future__ import annotations

from dataclasses import asdict
from hashlib import sha256
from typing import Annotated, Any

import trio
from pydantic import Field

from nursery_patterns import Outcome
from trio_tools.answers.error_mapping import outcome_failure
from trio_tools.answers.errors import TimedOut
from trio_tools.files.hashing import Digest, encode_text
from trio_tools.tools.application.context import ToolContext

Texts = Annotated[list[str], Field(min_length=1, max_length=100, description="Texts to hash.")]
Seconds = Annotated[float, Field(ge=0, le=10, description="Wait before each one, in seconds.")]
Parallel = Annotated[int, Field(ge=1, le=20, description="Most of them at once.")]

# Hashing a short text takes less time than moving it to a thread and back.
_SHORT_CHARS = 2_000


async def hashed(context: ToolContext, text: str, *, after: float = 0.0) -> dict[str, Any]:
    """Return the digest of a text after a pause, which makes limits and deadlines visible."""
    await trio.sleep(after)
    if len(text) > _SHORT_CHARS:
        return await context.run("hash", text)
    content = encode_text(text)
    return asdict(Digest("sha256", sha256(content).hexdigest(), len(content), secure=True))


def failure_of(outcome: Outcome[Any, Any]) -> dict[str, Any]:
    """Return a failed item in the form of the guideline."""
    failure = outcome_failure(outcome)
    return {
        "status": "timeout" if isinstance(failure, TimedOut) else "error",
        "error_code": failure.error_code,
        "error": failure.user_message,
    }
