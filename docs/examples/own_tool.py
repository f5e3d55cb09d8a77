# Your own tool: a function with annotated arguments, with the same policy as the built-in ones.
import trio

from trio_tools import Settings, ToolContext, create_server, tool
from trio_tools.transports.memory import connect_in_process


async def count_words(text: str, context: ToolContext, pause: float = 0.0) -> dict[str, int]:
    """Count how often each word of a text occurs."""
    words = text.split()
    counts: dict[str, int] = {}
    for done, word in enumerate(words, start=1):
        counts[word] = counts.get(word, 0) + 1
        await trio.sleep(pause)
        context.progress(done, len(words), f"{done} words")
    return counts


async def main() -> None:
    own = tool(count_words, limit=5, timeout_seconds=2, max_timeout_seconds=60)
    async with connect_in_process(create_server(Settings(), tools=[own])) as client:
        answer = await client.call_tool("count_words", {"text": "a rose is a rose"})
        print(answer.structured_content["data"])

        slow = {"text": "a rose is a rose", "pause": 0.1, "timeout_seconds": 0.25}
        late = await client.call_tool("count_words", slow)
        print(late.structured_content["error"])


if __name__ == "__main__":  # worker processes import this module, too
    trio.run(main)
