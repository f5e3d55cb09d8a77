"""The map of the house is true: who may import whom, and what nobody writes.

The map itself stands where people read it: in the docstring of each package's `__init__`, lowest
layer first. These tests read it from there, so it cannot drift from what they enforce. A line that
opens with a label such as `L2` starts a layer, and the lines below it belong to that layer too;
where a package's map has no labels, each line is a layer of its own.
"""

import ast
import importlib
import re
import sys
from itertools import takewhile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("nursery_patterns", "trio_tools")

# Every package from outside, and the only modules (with all inside of them) that import it.
OUTSIDERS = {
    "trio": PACKAGES,
    "trio_util": ("nursery_patterns",),
    "trio_parallel": ("nursery_patterns._worker_pool",),
    "ray": ("nursery_patterns._ray",),
    "opentelemetry": (
        "nursery_patterns.telemetry",
        "nursery_patterns._cluster_job",
        "trio_tools.live.telemetry",
        "trio_tools.server.composition",  # names of types
    ),
    "outcome": ("nursery_patterns._scenario_run", "nursery_patterns._trio_internals"),
    "nursery_patterns": ("trio_tools",),
    "pydantic": (
        "trio_tools.settings",
        "trio_tools.http.fetching.types",
        "trio_tools.upstream",
        "trio_tools.operations",
        "trio_tools.tools",
        "trio_tools.server.extensions",
        "trio_tools.transports",
        "trio_tools.command_line.commands",
    ),
    "pydantic_core": (
        "trio_tools.settings.reference",
        "trio_tools.answers.json_values",
        "trio_tools.operations.item_types",
        "trio_tools.operations.result",
        "trio_tools.tools.declaring.declaration",
        "trio_tools.operations.durable.blobs",
        "trio_tools.transports.stdio.jsonrpc_lines",
    ),
    "pydantic_settings": ("trio_tools.settings",),
    "httpx": (
        "trio_tools.http.httpx_transport",
        "trio_tools.command_line.top",
        "trio_tools.command_line.reload",
    ),
    "httptools": ("trio_tools.http.wire.response_parser",),
    "certifi": ("trio_tools.http.wire.connector",),
    "sqlalchemy": (
        "trio_tools.operations.durable.tables",
        "trio_tools.operations.durable.counters",
        "trio_tools.operations.durable.engine",
        "trio_tools.operations.durable.database",
    ),
    "platformdirs": ("trio_tools.operations.durable.location",),
    "duckdb": ("trio_tools.database.duckdb_worker",),
    "psycopg": (
        "trio_tools.database.postgres.connections",
        "trio_tools.database.postgres.cancel",
        "trio_tools.database.postgres.session",
        "trio_tools.database.shared_store",
        "trio_tools.operations.durable.notices",
    ),
    "backports": ("trio_tools.files.compression", "trio_tools.files.text_layers"),
    "charset_normalizer": ("trio_tools.files.text_format",),
    "mcp": (
        "trio_tools.tools",
        "trio_tools.server",
        "trio_tools.transports",
        "trio_tools.upstream",  # its client side
    ),
    "mcp_types": ("trio_tools.transports", "trio_tools.upstream"),
    "httpx2": ("trio_tools.upstream.http",),
    "jsonschema": ("trio_tools.upstream.catalog",),
    "referencing": ("trio_tools.upstream.catalog",),
    "h11": ("trio_tools.transports.http.http11",),
    "jwt": ("trio_tools.transports.http.oauth",),
    "shtab": ("trio_tools.command_line.commands",),
    "starlette": ("trio_tools.transports",),
    "prometheus_client": ("trio_tools.transports",),
    "pytest": ("nursery_patterns.pytest_plugin",),
    "rich": (
        "nursery_patterns.progress",
        "trio_tools.command_line.answer_tables",
        "trio_tools.command_line.console",
        "trio_tools.command_line.upstreams",
        "trio_tools.command_line.demo",
        "trio_tools.command_line.operations",
        "trio_tools.command_line.commands",
        "trio_tools.command_line.doctor",
        "trio_tools.command_line.top",
    ),
}
# Whoever may start an event loop: the command line, and the test kit, whose runs are its subject.
RUNNERS = ("trio_tools.command_line.main", "nursery_patterns._scenario_run")


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in FILES.items()}
HOUSES = [name for name, path in FILES.items() if path.name == "__init__.py"]


def members_of(house):
    return {name.rpartition(".")[2] for name in FILES if name.rpartition(".")[0] == house}


def layers_of(house):
    """Return the layer of each member as the docstring of the package tells: a label and names,
    each two blanks apart, before the description."""
    layers, number, labelled = {}, 0, False
    for line in (ast.get_docstring(TREES[house]) or "").splitlines():
        columns = re.split(r" {2,}", line.strip())
        label = re.fullmatch(r"L\d+", columns[0])
        names = list(takewhile(str.isidentifier, columns[1 if label else 0 : -1]))
        labelled = labelled or label is not None
        number += label is not None or (not labelled and bool(names))
        layers |= dict.fromkeys(names, number)
    return layers


def imports_of(module):
    """Yield (line, name) for each module or object that is imported, wherever in the module."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: say where from, not how many dots"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def inside(name, *places):
    return any(f"{name}.".startswith(f"{place}.") for place in places)


def target_of(name):
    """Return the module that an imported name lives in."""
    return name if name in FILES else name.rpartition(".")[0]


def test_the_map_of_each_package_names_exactly_its_modules():
    wrong = {house: set(layers_of(house)) ^ members_of(house) for house in HOUSES}
    assert {house: names for house, names in wrong.items() if names} == {}


def test_a_module_imports_only_from_layers_below_its_own():
    ours = [
        (module, line, target)
        for module in FILES
        for line, name in imports_of(module)
        if module.partition(".")[0] == (target := target_of(name)).partition(".")[0]
    ]
    assert len(ours) > len(FILES)
    wrong = [
        f"{module}:{line} imports {target}, {reason}"
        for module, line, target in ours
        if (reason := reason_against(module, target))
    ]
    assert wrong == []


def reason_against(module, target):
    """Return why a module may not import another one of its own distribution package, or None."""
    if inside(target, module):
        return None if module in HOUSES and target != module else "which is itself"
    if inside(module, target):
        # The packages around a module are there before it is; unless they wait for what is inside.
        waits = any(inside(name, target) for _, name in imports_of(target))
        return "the package around it, which imports from its inside" if waits else None
    here, there = module.split("."), target.split(".")
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(here, there)))  # noqa: B905
    house = ".".join(here[:common])
    layers = layers_of(house)
    if layers[here[common]] > layers[there[common]]:
        return None
    return f"but the map in the docstring of {house} does not have it in a lower layer"


def test_a_package_from_outside_is_imported_only_where_it_belongs():
    wrong = [
        f"{module}:{line} imports {name}"
        for module in FILES
        for line, name in imports_of(module)
        if (root := name.partition(".")[0]) not in sys.stdlib_module_names
        and root != module.partition(".")[0]
        and not inside(module, *OUTSIDERS.get(root, ()))
    ]
    assert wrong == [], "a new package has to earn its place in the table of outsiders"


def test_the_server_uses_only_what_the_library_exports():
    library = importlib.import_module("nursery_patterns")
    used = [
        (f"{module}:{line}", name.partition(".")[2])
        for module in FILES
        if inside(module, "trio_tools")
        for line, name in imports_of(module)
        if inside(name, "nursery_patterns")
    ]
    assert len(used) > 50
    # `telemetry` is an optional module with names of its own.
    assert [
        (place, name)
        for place, name in used
        if name not in library.__all__ and not name.startswith("telemetry.")
    ] == []


def uses(tree):
    """Yield (line, what) for each thing in a module that this project does without."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names) if {n.name.partition(".")[0] for n in names} & LOOPS:
                yield node.lineno, "another event loop"
            case ast.ImportFrom(module=str(name)) if name.partition(".")[0] in LOOPS:
                yield node.lineno, "another event loop"
            case ast.ExceptHandler(type=None):
                yield node.lineno, "a bare except"
            case ast.ExceptHandler(type=caught) if swallows(caught):
                yield node.lineno, f"except {ast.unparse(caught)}"
            case ast.Call(func=func, args=args) if ast.unparse(func).endswith("suppress"):
                if any(map(swallows, args)):
                    yield node.lineno, ast.unparse(node)
            case ast.Call(func=func, args=[ast.expr() as size, *_]):
                if "open_memory_channel" in ast.unparse(func) and "inf" in ast.unparse(size):
                    yield node.lineno, "an unbounded buffer"
            case _:
                pass


LOOPS = {"asyncio", "anyio"}
# Examples whose subject is the other loop.
HOSTED = {"island_in_asyncio"}


def swallows(caught):
    names = {
        n.attr if isinstance(n, ast.Attribute) else n.id
        for n in ast.walk(caught)
        if isinstance(n, ast.Attribute | ast.Name)
    }
    return bool(names & {"Cancelled", "BaseException", "BaseExceptionGroup"})


EXAMPLES = {path.stem: path for path in (ROOT / "docs" / "examples").glob("*.py")}


def test_no_module_catches_a_cancel_buffers_without_bound_or_uses_another_loop():
    examples = {name: ast.parse(path.read_text("utf-8")) for name, path in EXAMPLES.items()}
    found = [
        f"{name}:{line}: {what}"
        for name, tree in {**TREES, **examples}.items()
        for line, what in uses(tree)
        if not (name in HOSTED and what == "another event loop")
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import asyncio",
        "from anyio.abc import TaskGroup",
        "try: ...\nexcept: ...",
        "try: ...\nexcept trio.Cancelled: ...",
        "try: ...\nexcept (ValueError, BaseException): ...",
        "try: ...\nexcept* Cancelled: ...",
        "with contextlib.suppress(trio.Cancelled): ...",
        "trio.open_memory_channel(math.inf)",
        "trio.open_memory_channel[int](float('inf'))",
    ],
)
def test_the_search_for_what_nobody_writes_finds_it(source):
    assert len(list(uses(ast.parse(source)))) == 1


def test_an_event_loop_is_started_only_by_the_command_line_and_the_test_kit():
    starters = {
        module
        for module in FILES
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"trio.run", "trio.lowlevel.start_guest_run"}
    }
    assert starters <= set(RUNNERS)
    assert starters


def test_the_table_of_outsiders_names_only_places_that_use_them():
    used = {(name.partition(".")[0], module) for module in FILES for _, name in imports_of(module)}
    for root, places in OUTSIDERS.items():
        for place in places:
            assert any(root == r and inside(m, place) for r, m in used), f"{place} without {root}"


MOST_ENTRIES, MOST_FILES = 18, 16


def test_a_room_is_small_enough_to_be_seen_at_a_glance():
    top = [path for path in (ROOT / "trio_tools").iterdir() if path.name != "__pycache__"]
    assert len(top) <= MOST_ENTRIES
    rooms = {name: members_of(name) for name in HOUSES if inside(name, "trio_tools")}
    files = {
        room: [m for m in names if f"{room}.{m}" not in HOUSES] for room, names in rooms.items()
    }
    crowded = {room: len(names) for room, names in files.items() if len(names) > MOST_FILES}
    assert crowded == {}
