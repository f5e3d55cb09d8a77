"""The progress bar: what stands on the terminal."""

import io
import re
import threading

import pytest
import trio

from nursery_patterns import Batch

progress = pytest.importorskip("nursery_patterns.progress", reason="rich is not installed")


def terminal(width=60):
    return progress.Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)


def last_line(console):
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    return [line for line in text.replace("\r", "\n").splitlines() if line.strip()][-1].rstrip()


async def work(item):
    await trio.sleep(0.01)
    if item % 4 == 3:
        raise ValueError(item)


@pytest.mark.parametrize("width", [60, 80])
async def test_the_bar_ends_with_all_that_ended_and_failed(width, autojump_clock):
    console = terminal(width)
    batch = Batch(work, range(1200), limit=50)
    with progress.progress_bar(batch, console=console):
        await batch.run()
    line = last_line(console)
    assert line.startswith("work ━")
    assert line.count("1,200/1,200") == 1
    assert "300 failed" in line
    assert len(line) <= width
    names = {thread.name for thread in threading.enumerate()}
    assert not any("progress" in name or "Refresh" in name for name in names)


async def test_a_cancelled_batch_leaves_its_counts_on_the_screen(autojump_clock):
    console = terminal()
    batch = Batch(trio.sleep, [1, 1, 60], limit=3)
    with (
        trio.move_on_after(2),
        progress.progress_bar(batch, description="naps", console=console),
    ):
        await batch.run()
    assert last_line(console).startswith("naps ━")
    assert "2/3" in last_line(console)


async def test_a_source_of_unknown_length_shows_what_ended(autojump_clock):
    console = terminal()
    batch = Batch(trio.sleep, iter([1, 1]), limit=1)
    with progress.progress_bar(batch, console=console):
        async with batch.stream() as outcomes:
            async for _ in outcomes:
                break
    assert "1/?" in last_line(console)


async def test_what_is_no_batch_is_refused():
    with pytest.raises(TypeError) as caught, progress.progress_bar(range(5)):
        pass
    assert str(caught.value) == (
        "batch must be a Batch, got range(0, 5): write with progress_bar(batch): await batch.run()"
    )
