"""Timelines of runs on a virtual clock, drawn as SVG.

`python -m tests.support.timelines` draws docs/pictures again. A test compares the files with it.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio
from trio.testing import MockClock

from nursery_patterns import (
    Admission,
    Batch,
    Overloaded,
    TokenBucket,
    hedged,
    released_slot,
    run_batch,
    single_flight,
    stream_batch,
)

FOLDER = Path(__file__).parent.parent.parent / "docs" / "pictures"
LEFT, RIGHT, WIDTH, LANE = 112, 620, 640, 20

# What a bar means, in the order of the legend.
KINDS = {
    "running": "running",
    "waiting": "waiting",
    "paused": "paused",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
    "refused": "refused",
}

_STYLE = """
    .card { fill: #ffffff; stroke: #d0d7de }
    text { fill: #1f2328 }
    .note { fill: #59636e }
    .grid { stroke: #d0d7de }
    .mark { stroke: #b35900; stroke-width: 2; stroke-dasharray: 5 3 }
    .late { fill: #b35900; font-weight: 600 }
    .running { fill: #0969da }
    .waiting { fill: #ffffff; stroke: #8c959f; stroke-dasharray: 3 2 }
    .paused { fill: #eac54f }
    .succeeded { fill: #2da44e }
    .failed, .refused { fill: #cf222e }
    .cancelled { fill: #8c959f }
    @media (prefers-color-scheme: dark) {
      .card { fill: #0d1117; stroke: #3d444d }
      text { fill: #f0f6fc }
      .note { fill: #9198a1 }
      .grid { stroke: #2a313c }
      .mark { stroke: #f0a04b }
      .late { fill: #f0a04b }
      .running { fill: #4493f8 }
      .waiting { fill: #0d1117; stroke: #6e7681 }
      .paused { fill: #bb8009 }
      .cancelled { fill: #6e7681 }
    }
"""


@dataclass
class Panel:
    """One run: bars by lane, and vertical marks. Lanes are in the given order, else by start."""

    title: str
    lanes: tuple[str, ...] = ()
    bars: list[tuple[str, str, float, float]] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)

    @contextmanager
    def bar(self, lane: str, kind: str, ended: str = "cancelled") -> Iterator[None]:
        """Record the time of a block: of `kind` if it ends, of `ended` if an exception ends it."""
        start, done = trio.current_time(), False
        try:
            yield
            done = True
        finally:
            self.bars.append((lane, kind if done else ended, start, trio.current_time()))

    def mark(self, label: str) -> None:
        """Draw a vertical line at this instant."""
        self.marks.append((trio.current_time(), label))


async def nursery() -> list[Panel]:
    """A nursery in which one task fails."""
    panel = Panel("async with trio.open_nursery(): one task fails, and its siblings are cancelled")

    async def child(name: str, seconds: float, *, fails: bool = False) -> None:
        with panel.bar(name, "succeeded", "failed" if fails else "cancelled"):
            await trio.sleep(seconds)
            if fails:
                panel.mark("an exception")
                raise ConnectionError

    with suppress(ExceptionGroup), panel.bar("the block", "running", "running"):
        async with trio.open_nursery() as children:
            children.start_soon(child, "task 1", 2)
            children.start_soon(child, "task 2", 8)
            children.start_soon(partial(child, fails=True), "task 3", 4)
            children.start_soon(child, "task 4", 8)
    with panel.bar("after it", "running"):
        await trio.sleep(2)
    return [panel]


async def stream() -> list[Panel]:
    """A slow consumer slows the workers."""
    panel = Panel(
        "stream_batch(fetch, pages, limit=2): a slow consumer slows the workers", ("consumer",)
    )
    ended: dict[int, float] = {}

    async def fetch(page: int) -> int:
        with panel.bar(f"page {page}", "running"):
            await trio.sleep(1 + page % 2 / 2)
        ended[page] = trio.current_time()
        return page

    async with stream_batch(fetch, range(6), limit=2) as outcomes:
        async for outcome in outcomes:
            page = outcome.index
            panel.bars.append((f"page {page}", "waiting", ended[page], trio.current_time()))
            with panel.bar("consumer", "succeeded"):
                await trio.sleep(2)
    return [panel]


async def slots() -> list[Panel]:
    """A pause with and without a slot."""
    panels = [
        Panel("await trio.sleep(...) in the slot: the other items wait"),
        Panel("async with released_slot(): the other items run"),
    ]
    for panel, released in zip(panels, (False, True), strict=True):
        began = trio.current_time()

        async def fetch(item: str, panel: Panel = panel, *, released: bool = released) -> None:
            if item.startswith("busy"):
                if released:
                    async with released_slot():
                        with panel.bar(item, "paused"):
                            await trio.sleep(4)
                else:
                    with panel.bar(item, "paused"):
                        await trio.sleep(4)
            with panel.bar(item, "succeeded"):
                await trio.sleep(1)

        await run_batch(fetch, ["busy 1", "busy 2", "quick 1", "quick 2", "quick 3"], limit=2)
        _shift(panel, began)
    return panels


async def keys() -> list[Panel]:
    """A slow host with and without a limit for each host."""
    urls = ("slow 1", "slow 2", "slow 3", "slow 4", "fast 1", "fast 2", "fast 3")
    panels = [
        Panel("limit=3: the items of the slow host take all slots", urls),
        Panel("limit=3, key=host_of, limit_per_key=2: one slot stays for the fast host", urls),
    ]
    for panel, limited in zip(panels, (False, True), strict=True):
        began = trio.current_time()

        async def fetch(url: str, panel: Panel = panel) -> None:
            with panel.bar(url, "succeeded"):
                await trio.sleep(4 if url.startswith("slow") else 1)

        if limited:
            await run_batch(fetch, urls, limit=3, key=lambda url: url[:4], limit_per_key=2)
        else:
            await run_batch(fetch, urls, limit=3)
        _shift(panel, began)
    return panels


async def hedging() -> list[Panel]:
    """A second attempt when the first one is late."""
    panel = Panel("await hedged(fetch, url, delay=3): the first success wins", ("the caller",))
    seconds = iter([20, 2])

    async def fetch(attempt: Iterator[int]) -> None:
        number = next(attempt)
        with panel.bar(f"attempt {number}", "succeeded"):
            await trio.sleep(next(seconds))

    async def late() -> None:
        await trio.sleep(3)
        panel.mark("late")

    async with trio.open_nursery() as children:
        children.start_soon(late)
        with panel.bar("the caller", "waiting"):
            await hedged(fetch, iter([1, 2]), delay=3)
    return [panel]


async def flight() -> list[Panel]:
    """Callers that share one call."""
    panel = Panel("look_up = single_flight(resolve, nursery): three callers, one call")

    async def resolve(name: str) -> str:
        with panel.bar("resolve()", "succeeded"):
            await trio.sleep(5)
        return name

    async def call(number: int, start: float, deadline: float) -> None:
        await trio.sleep(start)
        with trio.move_on_after(deadline), panel.bar(f"caller {number}", "waiting"):
            await look_up("example.org")

    async with trio.open_nursery() as home:
        look_up = single_flight(resolve, home)
        home.start_soon(call, 1, 0, 2)
        home.start_soon(call, 2, 1, 20)
        home.start_soon(call, 3, 3, 20)
    return [panel]


async def bucket() -> list[Panel]:
    """Waiters of a token bucket."""
    panel = Panel("TokenBucket(rate=1, capacity=3): a burst of three, then one each second")
    tokens = TokenBucket(rate=1, capacity=3)

    async def call(number: int) -> None:
        await trio.sleep(number / 10)
        with panel.bar(f"call {number}", "waiting"):
            await tokens.acquire()
        with panel.bar(f"call {number}", "succeeded"):
            await trio.sleep(1)

    async with trio.open_nursery() as children:
        for number in range(1, 7):
            children.start_soon(call, number)
    return [panel]


async def admission() -> list[Panel]:
    """A bounded queue that is fair between clients."""
    panel = Panel("Admission(trio.CapacityLimiter(1), max_waiting=3), key=client")
    queue = Admission(trio.CapacityLimiter(1), max_waiting=3)

    async def call(client: str, number: int, start: float) -> None:
        lane = f"{client} {number}"
        await trio.sleep(start)
        arrived = trio.current_time()
        try:
            async with queue.slot(key=client):
                panel.bars.append((lane, "waiting", arrived, trio.current_time()))
                with panel.bar(lane, "succeeded"):
                    await trio.sleep(2)
        except Overloaded:
            now = trio.current_time()
            panel.bars += [(lane, "waiting", arrived, now), (lane, "refused", now, now + 0.2)]

    async with trio.open_nursery() as children:
        for number in range(1, 6):
            children.start_soon(call, "eager", number, number / 5)
        children.start_soon(call, "modest", 1, 1.4)
    return [panel]


async def deadline() -> list[Panel]:
    """A batch whose finished outcomes are outside the cancelled scope."""
    panel = Panel("with trio.move_on_after(5): await batch.run()")

    async def fetch(item: int) -> int:
        with panel.bar(f"item {item}", "succeeded"):
            await trio.sleep([2, 9, 1, 4][item])
        return item

    batch = Batch(fetch, range(4), limit=2)
    with trio.move_on_after(5):
        await batch.run()
    panel.mark("the deadline")
    panel.bars.append(("batch", "running", 0, trio.current_time() + 2))
    await trio.sleep(2)
    return [panel]


PICTURES: dict[str, Callable[[], Awaitable[list[Panel]]]] = {
    "nursery": nursery,
    "stream": stream,
    "released-slot": slots,
    "per-key": keys,
    "hedging": hedging,
    "single-flight": flight,
    "rate-limit": bucket,
    "admission": admission,
    "deadline": deadline,
}


def draw(name: str) -> str:
    """Return the SVG of a picture, drawn from a run."""
    make = PICTURES[name]
    panels = trio.run(make, clock=MockClock(autojump_threshold=0))
    parts: list[str] = []
    top = 0
    end = max(bar[3] for panel in panels for bar in panel.bars)
    for panel in panels:
        parts += _panel(panel, top, end)
        top += _height(panel)
    kinds = [kind for kind in KINDS if any(bar[1] == kind for p in panels for bar in p.bars)]
    high = top + 30
    size = f'viewBox="0 0 {WIDTH} {high}" width="{WIDTH}" height="{high}"'
    font = 'font-family="ui-sans-serif, system-ui, sans-serif" font-size="12"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" {font}>',
        f"  <title>{_text(make.__doc__ or name)}</title>",
        "  <!-- Drawn by `python -m tests.support.timelines` from a run on a virtual clock. -->",
        f"  <style>{_STYLE}  </style>",
        f'  <rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{high - 1}" rx="6"/>',
        *parts,
        *(
            f'  <rect class="{kind}" x="{LEFT + 96 * k}" y="{top}" width="12" height="12" rx="2"/>'
            f'<text class="note" x="{LEFT + 18 + 96 * k}" y="{top + 10}">{KINDS[kind]}</text>'
            for k, kind in enumerate(kinds)
        ),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _panel(panel: Panel, top: int, end: float) -> Iterator[str]:
    lanes = sorted({bar[0] for bar in panel.bars}, key=lambda lane: _order(panel, lane))
    scale = (RIGHT - LEFT) / end
    first, last = top + 34, top + 34 + LANE * len(lanes)
    yield f'  <text x="16" y="{top + 22}" font-weight="600">{_text(panel.title)}</text>'
    step = 1 if end <= 12 else 2
    ticks = [LEFT + scale * second for second in range(0, int(end) + 1, step)]
    grid = "".join(f"M{x:.5g} {first}V{last}" for x in ticks)
    yield f'  <path class="grid" d="{grid}"/>'
    for row, lane in enumerate(lanes):
        y = first + LANE * row
        yield f'  <text class="note" x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{lane}</text>'
        for _, kind, start, stop in sorted(bar for bar in panel.bars if bar[0] == lane):
            x, wide = LEFT + scale * start, scale * (stop - start)
            if wide > 0:
                box = f'x="{x:.5g}" y="{y + 3}" width="{wide:.5g}" height="{LANE - 6}"'
                yield f'  <rect class="{kind}" {box} rx="2"/>'
    for at, label in panel.marks:
        x = LEFT + scale * at
        yield f'  <path class="mark" d="M{x:.5g} {first - 4}V{last}"/>'
        yield f'  <text class="late" x="{x + 6:.5g}" y="{last + 14}">{_text(label)}</text>'
    for second, x in enumerate(ticks):
        at = second * step
        if all(not -20 < x - LEFT - scale * mark < 100 for mark, _ in panel.marks):
            yield (
                f'  <text class="note" x="{x:.5g}" y="{last + 14}" text-anchor="middle">'
                f"{at} s</text>"
            )


def _order(panel: Panel, lane: str) -> tuple[float, str]:
    if lane in panel.lanes:
        return panel.lanes.index(lane) - len(panel.lanes), lane
    return min(bar[2] for bar in panel.bars if bar[0] == lane), lane


def _height(panel: Panel) -> int:
    return 34 + LANE * len({bar[0] for bar in panel.bars}) + 34


def _shift(panel: Panel, began: float) -> None:
    panel.bars = [(lane, kind, a - began, b - began) for lane, kind, a, b in panel.bars]


def _text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


if __name__ == "__main__":
    for each in PICTURES:
        (FOLDER / f"{each}.svg").write_text(draw(each), "utf-8")
