"""What the documentation says is so: examples run, code compiles, links lead somewhere."""

import ast
import importlib.util
import re
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ET
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.support import maps, timelines
from tests.support.examples import load_example
from tests.test_public_api import PUBLIC, TESTING
from trio_tools.command_line.main import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
# What an example may need beyond the dependencies of the project.
EXTRAS = {"aiohttp", "aiometer", "hypercorn", "numpy", "onnxruntime", "sqlalchemy", "stamina"}

EXCERPT = re.compile(r"^```python (\w+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OUTPUT = re.compile(r"^```text (\w+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)")


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda p: str(p.relative_to(ROOT)))


def without_code(text):
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


def anchors_of(text):
    """Return the anchors that GitHub gives to the headings of a page."""
    slugs = Counter()
    for heading in re.findall(r"^#+ +(.+?)\s*$", FENCE.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slugs[re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")] += 1
    repeated = {f"{slug}-{n}" for slug, times in slugs.items() for n in range(1, times)}
    return repeated.union(slugs)


@each(EXAMPLES)
def test_an_example_runs_to_its_end_without_a_warning(path, tmp_path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        for root in EXTRAS.intersection(name.partition(".")[0] for name in names):
            if importlib.util.find_spec(root) is None:
                pytest.skip(f"{path.name} shows something with {root}, which is not installed")
    ended = subprocess.run(
        [sys.executable, "-W", "error", path],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout, "an example prints what happens"
    for page in PAGES:
        for example, output in OUTPUT.findall(page.read_text("utf-8")):
            assert example != path.name or output == ended.stdout


def test_each_example_opens_with_a_line_that_says_what_it_shows():
    mute = [p for p in EXAMPLES if not re.match(r'(# |""")[A-Z]', p.read_text("utf-8"))]
    assert mute == []


def test_each_example_is_shown_on_a_page():
    links = {(page.parent / link).resolve() for page in PAGES for link in links_of(page)}
    assert set(EXAMPLES) - links == set()


def test_each_excerpt_is_a_part_of_its_example():
    excerpts = [
        (page, example, code)
        for page in PAGES
        for example, code in EXCERPT.findall(page.read_text("utf-8"))
    ]
    assert len(excerpts) > 20
    assert [
        (page.name, example, code)
        for page, example, code in excerpts
        if code not in (ROOT / "docs" / "examples" / example).read_text("utf-8")
    ] == []


def test_every_page_can_be_reached_from_the_readme():
    reached, new = set(), {ROOT / "README.md"}
    while new:
        page = new.pop()
        reached.add(page)
        links = {(page.parent / link.partition("#")[0]).resolve() for link in links_of(page)}
        for target in links - reached:
            new |= {target} if target.suffix == ".md" else set(target.glob("*.md"))
    assert set(PAGES) - reached == set()


def test_the_index_gives_every_public_name_a_page_that_tells_of_it():
    table = (ROOT / "docs" / "patterns" / "index.md").read_text("utf-8")
    pages = {}
    for link, names in re.findall(r"\]\(([^)]+)\) \| ([^|]*) \|$", table, re.MULTILINE):
        pages |= dict.fromkeys(re.findall(r"`(\w+)`", names), ROOT / "docs" / "patterns" / link)
    assert pages.keys() == PUBLIC | TESTING
    untold = {
        name
        for name, page in pages.items()
        if not re.search(rf"\b{name}\b", page.read_text("utf-8"))
    }
    assert untold == set()


def test_the_maps_of_the_architecture_are_those_of_the_packages():
    page = maps.PAGE.read_text("utf-8")
    assert page == maps.with_maps(page), "run `python -m tests.support.maps`"


def test_the_picture_of_a_batch_is_what_its_example_does():
    bars, (cut, whole) = trio.run(
        load_example("timeline").record, clock=MockClock(autojump_threshold=0)
    )
    svg = ET.parse(ROOT / "docs" / "batch.svg").getroot()
    space = {"svg": "http://www.w3.org/2000/svg"}
    drawn = {
        (rect.get("class"), *(float(rect.get(side)) for side in ("x", "y", "width")))
        for rect in svg.iterfind("svg:rect", space)
        if rect.get("class") != "card"
    }
    assert drawn == {
        (str(bar.status), 70 + 72 * bar.start, 34 + 19 * bar.page, 72 * (bar.end - bar.start))
        for bar in bars
    }
    told = " ".join(text.text for text in svg.iterfind("svg:text", space))
    assert f"{cut.succeeded} succeeded, {cut.failed} failed, {cut.cancelled} cancelled" in told
    assert f"{cut.not_started} not started" in told
    assert f"{whole.succeeded} succeeded, {whole.failed} failed: complete" in told


@pytest.mark.parametrize("name", timelines.PICTURES)
def test_a_timeline_is_what_its_run_draws(name):
    drawn = (timelines.FOLDER / f"{name}.svg").read_text("utf-8")
    assert timelines.draw(name) == drawn, "run `python -m tests.support.timelines`"


def test_every_timeline_is_on_a_page():
    shown = {Path(link).stem for page in PAGES for link in links_of(page) if "pictures/" in link}
    assert shown == timelines.PICTURES.keys()


def test_the_python_on_each_page_compiles():
    compiled = 0
    for path in PAGES:
        for _, language, code in FENCE.findall(path.read_text("utf-8")):
            if language in {"python", "py"}:
                source = textwrap.dedent(code)
                compile(source, str(path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                compiled += 1
    assert compiled > 50


def test_each_api_has_one_row_of_guarantees():
    page = (ROOT / "docs" / "guarantees.md").read_text("utf-8")
    rows = Counter(re.findall(r"^\| ([^|\s][^|]*) \|", page, re.MULTILINE))
    assert len(rows) > 50
    assert [name for name, times in rows.items() if times > 1 and name.strip("-")] == []


def test_every_fence_is_closed():
    assert [p.name for p in PAGES if "```" in FENCE.sub("", p.read_text("utf-8"))] == []


def test_each_relative_link_leads_to_a_file_and_a_heading():
    links = [(page, link) for page in PAGES for link in links_of(page)]
    assert len(links) > 200
    assert {
        (page.name, link): trouble for page, link in links if (trouble := trouble_with(link, page))
    } == {}


@cache
def links_of(path):
    return LINK.findall(without_code(path.read_text("utf-8")))


def trouble_with(link, path):
    name, _, anchor = link.partition("#")
    target = (path.parent / name).resolve() if name else path
    if re.match(r"\w+:", link):
        return None
    if not target.is_relative_to(ROOT):
        return "leads out of the project"
    if not target.exists():
        return "leads nowhere"
    if anchor and anchor not in anchors_of(target.read_text("utf-8")):
        return "leads to no heading"
    return None


def test_each_command_on_a_page_exists(capsys):
    commands = {
        command
        for page in PAGES
        for _, language, code in FENCE.findall(page.read_text("utf-8"))
        if language in {"console", "sh"}
        for command in re.findall(r"trio-tools +(\w+)", code)
    }
    assert "serve" in commands
    for command in commands:
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0, capsys.readouterr().err


def test_each_decision_has_a_number_a_title_and_the_four_parts():
    for path in DECISIONS:
        text = path.read_text("utf-8")
        number = int(re.fullmatch(r"(\d{4})-[a-z0-9-]+\.md", path.name)[1])
        assert re.match(rf"# {number}\. \S", text), path.name
        parts = re.findall(r"^\*\*(\w+)\.\*\*", text, re.MULTILINE)
        assert parts == ["Context", "Decision", "Consequences", "Refused"], path.name


def test_no_two_decisions_have_the_same_number():
    numbers = [path.name[:4] for path in DECISIONS]
    assert len(set(numbers)) == len(numbers)


# Changes whose first file a stranger has to find in one step.
CHANGES = (
    "add a hash algorithm",
    "change what a 429 does",
    "add a column to the status",
    "accept another source of tokens",
    "change how an operation's outcome reads",
    "change the default of a limit",
    "read another kind of dataset",
    "log one more field",
    "add a command",
    "refuse one more kind of address",
)


def defined_in(path):
    """Return the names that a module defines at its top level."""
    names = set()
    for node in ast.parse((ROOT / path).read_text("utf-8")).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
    return names


def test_the_architecture_leads_to_the_one_file_of_each_change_in_one_step():
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = re.findall(r"^\| (.+?) \| \[(.+?)\]\((.+?)\) \| `(\w+)` \|", text, re.MULTILINE)
    assert set(CHANGES) <= {change for change, *_ in rows}
    for change, path, link, name in rows:
        assert link == f"../{path}", change
        assert name in defined_in(path), f"{change}: {path} does not define {name}"
    further = re.findall(r"^\| .*\) \| `\w+` \| (.*) \|$", text, re.MULTILINE)
    named = [path for cell in further for path in re.findall(r"`([\w/]+/[\w/]+)(?:\.py)?`", cell)]
    assert named
    for path in named:
        place = ROOT / "trio_tools" / path
        assert place.is_dir() or place.with_suffix(".py").is_file(), path


def test_the_path_of_a_call_names_modules_and_where_to_begin_in_them():
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    steps = re.findall(r"^\| \d+ \| (.*?) \| `(\w+)` \|", text, re.MULTILINE)
    assert len(steps) > 10
    for cell, name in steps:
        paths = [
            path if path.startswith("nursery_patterns/") else f"trio_tools/{path}"
            for path in re.findall(r"`([\w/]+\.py)`", cell)
        ]
        assert paths
        assert any(name in defined_in(path) for path in paths), name
