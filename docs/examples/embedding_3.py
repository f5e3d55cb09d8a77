# Embedding, step three: functions of the program become tools, called as a model would call them.
from typing import Annotated, Any

import trio
from embedding_1 import BEDS, read_sensor
from embedding_2 import look_round
from pydantic import Field

from trio_tools import Settings, ToolContext, ToolServer, create_server, tool
from trio_tools.answers.errors import NotFound
from trio_tools.transports.memory import connect_in_process


def as_lines(temperatures: dict[str, float]) -> str:
    return "; ".join(f"{bed} {celsius:g} °C" for bed, celsius in sorted(temperatures.items()))


def make_server(latest: dict[str, float], settings: Settings) -> ToolServer:
    async def temperatures(
        beds: Annotated[list[str], Field(min_length=1, description="Beds to tell of.")],
    ) -> dict[str, float]:
        """Tell the latest temperatures of beds, in degrees Celsius."""
        await trio.lowlevel.checkpoint()
        if unknown := set(beds) - latest.keys():
            known = ", ".join(sorted(latest))
            raise NotFound(f"no bed is named {min(unknown)!r}: there are {known}")
        return {bed: latest[bed] for bed in beds}

    async def measure_again(context: ToolContext) -> dict[str, float]:
        """Read all sensors now, which takes some seconds."""
        for done, bed in enumerate(BEDS, start=1):
            latest[bed] = await read_sensor(bed)
            context.progress(done, len(BEDS), f"{bed} was read")
        return latest

    own = [
        tool(temperatures, read_only=True, render=as_lines),
        tool(measure_again, limit=1, max_waiting=5, timeout_seconds=20, render=as_lines),
    ]
    return create_server(settings, tools=own)


async def show(client: Any) -> None:
    told = await client.call_tool("temperatures", {"beds": ["beans", "orchids"]})
    print(told.structured_content["data"])
    print(told.content[0].text.splitlines()[-2])
    wrong = await client.call_tool("temperatures", {"beds": ["roses"]})
    print(wrong.structured_content["error"])


async def main() -> None:
    latest: dict[str, float] = {}
    await look_round(latest, BEDS)
    async with connect_in_process(make_server(latest, Settings())) as client:
        await show(client)


if __name__ == "__main__":
    trio.run(main)
