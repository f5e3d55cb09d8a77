# Embedding, step one: the trio program before, which watches the beds of a greenhouse.
import trio

BEDS = ["tomatoes", "beans", "orchids"]


async def read_sensor(bed: str) -> float:
    await trio.sleep(0.02)  # represents the connection to the sensor
    if bed == "attic":
        raise OSError(f"the sensor of the {bed} does not answer")
    return 20.0 + len(bed) / 2


async def watch(bed: str, latest: dict[str, float]) -> None:
    while True:
        latest[bed] = await read_sensor(bed)
        await trio.sleep(60)


async def main() -> None:
    latest: dict[str, float] = {}
    with trio.move_on_after(0.5):  # so that the example ends
        async with trio.open_nursery() as nursery:
            for bed in BEDS:
                nursery.start_soon(watch, bed, latest)
    print(sorted(latest.items()))


if __name__ == "__main__":
    trio.run(main)
