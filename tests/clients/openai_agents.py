"""What a model gets of an MCP server through the OpenAI Agents SDK.

Reads `{"command": [...], "calls": [[tool, arguments], ...]}` from standard input, and prints the
tools by name and what the model gets of each call, first as the SDK does by default and then with
`use_structured_content`.
"""

import asyncio
import json
import sys

from agents.mcp import MCPServerStdio, MCPUtil
from agents.run_context import RunContextWrapper


async def main() -> None:
    asked = json.load(sys.stdin)
    program, *arguments = asked["command"]
    told = {"text": [], "structured": []}
    async with MCPServerStdio(
        {"command": program, "args": arguments, "env": asked["environment"]},
        client_session_timeout_seconds=60,
    ) as server:
        tools = {tool.name: tool for tool in await server.list_tools()}
        for form, answers in told.items():
            server.use_structured_content = form == "structured"
            for name, values in asked["calls"]:
                answer = await MCPUtil.invoke_mcp_tool(
                    server, tools[name], RunContextWrapper(None), json.dumps(values)
                )
                answers.append(answer if isinstance(answer, str) else answer["text"])
    json.dump({"tools": list(tools), **told}, sys.stdout)


asyncio.run(main())
