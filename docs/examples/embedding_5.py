# Embedding, step five: a tool that asks the server for a batch, and keeps its own deadline.
from functools import partial
from typing import Any

import trio
from embedding_1 import BEDS, read_sensor

from trio_tools import Answer, Operation, Settings, ToolContext, create_server, tool
from trio_tools.transports.memory import connect_in_process


async def survey(
    context: ToolContext, beds: list[str], timeout_seconds: float = 20, survey_id: str | None = None
) -> Answer:
    """Read the sensors of many beds; tell what was read in time. Give survey_id to go on."""
    answer = await context.run_batch(
        "read_sensor", beds, timeout_seconds=timeout_seconds, operation_id=survey_id
    )
    read = {each["item"]: each["value"] for each in answer.data["results"]}
    digest = await context.run("hash", repr(sorted(read.items())))
    return Answer(
        summary=f"{len(read)} of {len(beds)} beds were read.",
        data={"read": read, "fingerprint": digest["hexdigest"][:8]},
        warnings=answer.warnings,
    )


async def show(client: Any, **arguments: Any) -> None:
    told = (await client.call_tool("survey", arguments)).structured_content
    print(told["data"])


async def main() -> None:
    reading = Operation(name="read_sensor", fn=read_sensor)
    timed = partial(tool, timeout_seconds=20, max_timeout_seconds=120)
    own = [timed(survey, time_argument="timeout_seconds", read_only=True)]
    server = create_server(Settings(), operations=[reading], tools=own)
    async with connect_in_process(server) as client:
        await show(client, beds=BEDS)


if __name__ == "__main__":
    trio.run(main)
