# Twelve calls to an API that allows ten a second and a burst of three.
import trio

from nursery_patterns import TokenBucket


async def call_api(number: int, bucket: TokenBucket, start: float) -> None:
    waited = await bucket.acquire()
    print(f"call {number:2} after {trio.current_time() - start:.1f} s, waited {waited:.1f} s")


async def main() -> None:
    bucket = TokenBucket(rate=10, capacity=3)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(call_api, number, bucket, start)
        await trio.sleep(0.45)
        print("the API says: slow down")
        bucket.rate = 5


if __name__ == "__main__":
    trio.run(main)
