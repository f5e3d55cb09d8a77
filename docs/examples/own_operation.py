# Your own operation: an async function of one item, which batch_process runs over many.
import trio

from trio_tools.server import create_server
from trio_tools.settings import Settings
from trio_tools.transports.memory import connect_in_process


async def word_count(text: str) -> int:
    """Count the words of a text."""
    await trio.sleep(0.01)
    return len(text.split())


async def main() -> None:
    server = create_server(Settings(), operations=[word_count])
    async with connect_in_process(server) as client:
        arguments = {"operation": "word_count", "items": ["one", "one two", "one two three"]}
        answer = await client.call_tool("batch_process", arguments)
        print(answer.structured_content["data"]["summary"])
        print(answer.structured_content["data"]["results"])

        wrong = await client.call_tool("batch_process", {**arguments, "items": ["one", 2]})
        print(wrong.structured_content["error"])


if __name__ == "__main__":  # worker processes import this module, too
    trio.run(main)
