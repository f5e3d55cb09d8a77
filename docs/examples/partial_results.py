# A deadline cancels the batch. The finished results stay, and the report names the missing items.
import trio

from nursery_patterns import run_batch


async def fetch(name: str) -> str:
    if name == "broken":
        raise ValueError("no such page")
    await trio.sleep(60 if name == "hanging" else 0.1)
    return name.upper()


async def main() -> None:
    names = ["a", "broken", "b", "hanging", "c"]
    report = await run_batch(fetch, names, limit=2, timeout=0.5)
    for outcome in report.outcomes:
        print(f"{outcome.item:8} {outcome.status:10} {outcome.value or outcome.error or ''}")
    print(f"complete: {report.complete}, missing: {report.unfinished()}")


trio.run(main)
