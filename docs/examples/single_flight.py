# Three tasks need the same address at the same time. It is resolved once.
import trio

from nursery_patterns import SingleFlight, single_flight


async def resolve(name: str) -> str:
    print(f"looking up {name}")
    await trio.sleep(0.1)
    return "192.0.2.7"


async def visit(visitor: int, name: str, look_up: SingleFlight[[str], str]) -> None:
    print(f"visitor {visitor}: {name} is at {await look_up(name)}")


async def main() -> None:
    async with trio.open_nursery() as home:
        look_up = single_flight(resolve, home)
        async with trio.open_nursery() as nursery:
            for visitor in range(3):
                nursery.start_soon(visit, visitor, "example.org", look_up)


if __name__ == "__main__":
    trio.run(main)
