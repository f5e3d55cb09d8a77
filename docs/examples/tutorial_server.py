# The tutorial, part two: the function becomes an operation of an MCP server.
import trio

from trio_tools import Operation, create_server
from trio_tools.answers.errors import NotFound
from trio_tools.transports.memory import connect_in_process


async def price_of(product: int) -> float:
    """Look up the price of a product by its number."""
    await trio.sleep(0.01)
    if product == 13:
        raise NotFound("product 13 is out of stock: ask for another one")
    return product * 1.5


async def main() -> None:
    server = create_server(operations=[Operation(name="price_of", fn=price_of)])
    async with connect_in_process(server) as client:
        arguments = {
            "operation": "price_of",
            "items": list(range(20)),
            "timeout_seconds": 5,
            "operation_id": "prices",
        }
        answer = await client.call_tool("batch_process", arguments)
        data = answer.structured_content["data"]
        print(data["summary"])
        print(data["errors"][0]["reason"])


if __name__ == "__main__":
    trio.run(main)
