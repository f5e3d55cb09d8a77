"""What a model gets of an MCP server through langchain-mcp-adapters.

Reads the same as `openai_agents.py`, and prints the tools by name, and for each call the content of
the message that the model gets and the structured content that the adapter keeps beside it.
"""

import asyncio
import json
import sys

from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools


def text_of(content) -> str:
    if isinstance(content, str):
        return content
    return "".join(block if isinstance(block, str) else block["text"] for block in content)


async def main() -> None:
    asked = json.load(sys.stdin)
    program, *arguments = asked["command"]
    client = MultiServerMCPClient(
        {
            "ours": {
                "transport": "stdio",
                "command": program,
                "args": arguments,
                "env": asked["environment"],
            }
        }
    )
    told = {"text": [], "structured": []}
    async with client.session("ours") as session:
        tools = {tool.name: tool for tool in await load_mcp_tools(session)}
        for number, (name, values) in enumerate(asked["calls"]):
            call = {"type": "tool_call", "id": str(number), "name": name, "args": values}
            message = await tools[name].ainvoke(call)
            told["text"].append(text_of(message.content))
            told["structured"].append(json.dumps(message.artifact["structured_content"]))
    json.dump({"tools": list(tools), **told}, sys.stdout)


asyncio.run(main())
