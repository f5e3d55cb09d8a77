# Two slots, a queue of three, eight calls: further calls are refused with a time to retry.
import trio

from nursery_patterns import Admission, Overloaded


async def call(client: str, admission: Admission) -> None:
    try:
        async with admission.slot(key=client):
            print(f"{client}: working")
            await trio.sleep(0.1)
    except Overloaded as overloaded:
        print(f"{client}: {overloaded}")


async def main() -> None:
    admission = Admission(trio.CapacityLimiter(2), max_waiting=3)
    async with trio.open_nursery() as nursery:
        for _ in range(7):
            nursery.start_soon(call, "eager client", admission)
            await trio.sleep(0.001)
        # The queue is full of the eager client's calls. A call of another client displaces one.
        nursery.start_soon(call, "modest client", admission)
    print(admission.statistics())


if __name__ == "__main__":
    trio.run(main)
