"""What the terminal shows fits its width, and what is cut is what repeats."""

import io

import pytest
from rich.console import Console

from trio_tools.command_line.answer_tables import cut_alike, cut_middle
from trio_tools.command_line.console import progress_bar, show_answer

PAGE = "https://www.example.com/articles/2026/a-rather-long-path/page-{:06}.html"
WIDTHS = [40, 60, 80, 120]


def terminal(width):
    return Console(width=width, force_terminal=True, color_system=None, file=io.StringIO())


def lines_of(console):
    text = console.file.getvalue()
    for control in ("\x1b[?25l", "\x1b[?25h", "\x1b[2K", "\x1b[1A"):
        text = text.replace(control, "")
    return [line for line in text.replace("\r", "\n").split("\n") if line.strip()]


@pytest.mark.parametrize("width", WIDTHS)
async def test_progress_is_one_line_with_a_bar_and_the_count_once(width):
    console = terminal(width)
    with progress_bar(console, "fetch_urls") as bar:
        page = PAGE.format(36)
        text = f'op-1: 37 of 200 done, 2 failed, last: {page}\n{{"index": 36}}'
        await bar.update(37, 200, text)
    line = lines_of(console)[-1]
    assert len(line) <= width
    assert line.startswith("fetch_urls ━")
    assert line.count("37") == 1
    assert "37/200 0:00:00" in line
    assert '"index"' not in line
    assert "failed" in line or width == 40


@pytest.mark.parametrize("width", WIDTHS)
async def test_progress_of_millions_without_a_total_fits_too(width):
    console = terminal(width)
    with progress_bar(console, "process_large_dataset") as bar:
        await bar.update(1_234_567, None, "op-1: 1234567 of ? done, last: line 1234567")
    line = lines_of(console)[-1]
    assert len(line) <= width
    assert "━" in line
    assert "1234567/?" in line.replace(" ", "") or width == 40


def answer(size):
    pages = [PAGE.format(number) for number in range(2 * size)]
    value = {"status": 200, "content_type": "text/html", "text": "the same words " * 9}
    results = [
        {"index": index, "item": page, "value": {"url": page, **value}}
        for index, page in enumerate(pages[:size])
    ]
    errors = [
        {"index": index, "item": page, "error_code": "TIMEOUT", "reason": "no answer"}
        for index, page in enumerate(pages[size:], size)
    ]
    counts = dict.fromkeys(("cancelled", "timed_out", "not_started"), 0)
    counts |= {"succeeded": size, "failed": size}
    data = {"summary": "done", "counts": counts, "results": results, "errors": errors}
    return {"success": True, "data": data, "meta": {"warnings": []}}


@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_fits_and_tells_its_rows_apart(width):
    console = terminal(width)
    show_answer(console, "", answer(3))
    lines = lines_of(console)
    assert max(map(len, lines)) <= width
    for number in range(6):
        [line] = [line for line in lines if f"page-{number:06}.html" in line]
        assert line.count(".html") == 1  # not once more in a column of its own
    assert ("text/html" in "".join(lines)) == (width >= 60)


def test_what_texts_begin_with_is_cut_first_and_else_their_middle():
    assert cut_alike(["a/b/one", "a/b/two"], 7) == ["a/b/one", "a/b/two"]
    assert cut_alike(["abc/def/one", "abc/def/three"], 9) == ["abc…one", "abc…three"]
    assert cut_alike(["abc/def/one"], 7) == ["abc…one"]
    assert cut_alike(["same text", "same text"], 5) == ["sa…xt", "sa…xt"]
    assert cut_alike(["x" * 20, "y" * 3], 5) == ["xx…xx", "yyy"]
    assert cut_middle("abcdef", 0) == ""
    assert cut_middle("abcdef", 1) == "…"
