"""What the two algorithms of `AdaptiveLimiter` make of a step in capacity, drawn from a run.

`python -m tests.support.adaptive_plot` draws docs/adaptive.svg anew; a test compares the two.
"""

from pathlib import Path

import trio
from trio.testing import MockClock

from nursery_patterns import AdaptiveLimiter
from tests.support.simulated_server import SimulatedServer, load

PICTURE = Path(__file__).parent.parent.parent / "docs" / "adaptive.svg"

KNEES = (20, 8, 30)
SECONDS = 8  # at each knee
SAMPLES = 4  # a second
MOST = 50  # of the limit, as drawn
LEFT, WIDE, HIGH = 44, 576, 120
TOPS = {"gradient2": 44, "aimd": 214}
NOTES = {
    "gradient2": "gradient2: the server slows down above its knee",
    "aimd": "aimd: the server refuses a tenth above its knee",
}

_STYLE = """
    .card { fill: #ffffff; stroke: #d0d7de }
    text { fill: #1f2328 }
    .note text { fill: #59636e }
    .grid { stroke: #d0d7de }
    .knee { stroke: #b35900; stroke-width: 2; stroke-dasharray: 5 3; fill: none }
    .late { fill: #b35900; font-weight: 600 }
    .limit { stroke: #0969da; stroke-width: 1.5; fill: none }
    .ours { fill: #0969da; font-weight: 600 }
    @media (prefers-color-scheme: dark) {
      .card { fill: #0d1117; stroke: #3d444d }
      text { fill: #f0f6fc }
      .note text { fill: #9198a1 }
      .grid { stroke: #2a313c }
      .knee { stroke: #f0a04b }
      .late { fill: #f0a04b }
      .limit { stroke: #4493f8 }
      .ours { fill: #4493f8 }
    }
"""


async def record(algorithm: str) -> list[int]:
    """Return the limit at each sample, while the capacity of a server falls and rises."""
    limiter = AdaptiveLimiter(10, 1, 200, algorithm=algorithm)
    server = SimulatedServer(power=1.0)
    limits: list[int] = []

    async def sample() -> None:
        for tick in range(len(KNEES) * SECONDS * SAMPLES):
            await trio.sleep_until((tick + 0.5) / SAMPLES)
            limits.append(int(limiter.total_tokens))

    async def change() -> None:
        for turn, knee in enumerate(KNEES):
            await trio.sleep_until(turn * SECONDS)
            server.knee = knee
            server.refuses = int(knee * 1.1) if algorithm == "aimd" else None

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sample)
        nursery.start_soon(change)
        await load(server, limiter, seconds=len(KNEES) * SECONDS)
    return limits


def records() -> dict[str, list[int]]:
    """Return what `record` gives for each algorithm, on a virtual clock."""
    return {name: trio.run(record, name, clock=MockClock(autojump_threshold=0)) for name in TOPS}


def points(limits: list[int], top: int) -> list[tuple[float, float]]:
    """Return where a curve is drawn."""
    step = WIDE / len(limits)
    return [
        (round(LEFT + (k + 0.5) * step, 1), round(_height(limit, top), 1))
        for k, limit in enumerate(limits)
    ]


def _height(limit: float, top: int) -> float:
    return top + HIGH * (1 - limit / MOST)


def _panel(name: str, limits: list[int]) -> list[str]:
    top, turn = TOPS[name], WIDE / len(KNEES)
    marks = range(0, MOST + 1, 10)
    knees = " ".join(
        f"{'M' if k == 0 else 'V'}{LEFT if k == 0 else f'{_height(knee, top):g}'}"
        + (f" {_height(knee, top):g}" if k == 0 else "")
        + f"H{LEFT + (k + 1) * turn:g}"
        for k, knee in enumerate(KNEES)
    )
    curve = " ".join(f"{x:g},{y:g}" for x, y in points(limits, top))
    grid = "".join(f"M{LEFT} {_height(mark, top):g}H{LEFT + WIDE}" for mark in marks)
    return [
        f'  <text x="{LEFT}" y="{top - 12}" font-weight="600">{NOTES[name]}</text>',
        f'  <g class="grid"><path d="{grid}"/></g>',
        '  <g class="note" text-anchor="end">',
        *(
            f'    <text x="{LEFT - 8}" y="{_height(mark, top) + 4:g}">{mark}</text>'
            for mark in marks
        ),
        "  </g>",
        f'  <path class="knee" d="{knees}"/>',
        f'  <polyline class="limit" id="{name}" points="{curve}"/>',
    ]


def picture(recorded: dict[str, list[int]]) -> str:
    """Return the SVG."""
    bottom = max(TOPS.values()) + HIGH
    total = len(KNEES) * SECONDS
    seconds = range(0, total + 1, SECONDS)
    high = bottom + 52
    size = f'viewBox="0 0 640 {high}" width="640" height="{high}"'
    font = 'font-family="ui-sans-serif, system-ui, sans-serif" font-size="12"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" {font}>',
        "  <title>An adaptive limit follows a server whose capacity falls and rises</title>",
        "  <!-- Drawn by `python -m tests.support.adaptive_plot` from a run on a virtual clock -->",
        f"  <style>{_STYLE}  </style>",
        f'  <rect class="card" x="0.5" y="0.5" width="639" height="{high - 1}" rx="6"/>',
        *(line for name, limits in recorded.items() for line in _panel(name, limits)),
        '  <g class="note" text-anchor="middle">',
        *(
            f'    <text x="{LEFT + WIDE * second / total:g}" y="{bottom + 18}">{second} s</text>'
            for second in seconds
        ),
        "  </g>",
        f'  <text class="ours" x="{LEFT}" y="{bottom + 40}">limiter.total_tokens</text>',
        f'  <text class="late" x="{LEFT + 150}" y="{bottom + 40}">the knee of the server</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(picture(records()), "utf-8")
