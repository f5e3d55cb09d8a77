"""Two distributions from one tree: the library on its own, and the server that depends on it.

`python docs/deploying/build_wheels.py dist` builds them; a release installs both into new
environments. Here is what can be seen without building.
"""

import importlib.util
import sys
import tomllib
from pathlib import Path

from tests.test_architecture import FILES, OUTSIDERS, imports_of, inside

ROOT = Path(__file__).parents[1]
DEPLOYING = ROOT / "docs" / "deploying"
LIBRARY = tomllib.loads((DEPLOYING / "nursery-patterns" / "pyproject.toml").read_text("utf-8"))
BOTH = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
OPTIONAL = {"opentelemetry", "pytest", "ray", "rich"}


def names(requirements):
    return {requirement.partition(">")[0].partition("=")[0] for requirement in requirements}


def server_project():
    spec = importlib.util.spec_from_file_location("build_wheels", DEPLOYING / "build_wheels.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    return tomllib.loads(recipe.server_project(text, recipe.version())), recipe.version()


def test_the_library_depends_on_what_it_imports_and_on_nothing_else():
    imported = {
        name.partition(".")[0]
        for module in FILES
        if inside(module, "nursery_patterns")
        for _, name in imports_of(module)
    }
    others = imported - sys.stdlib_module_names - {"nursery_patterns"} - OPTIONAL
    dependencies = LIBRARY["project"]["dependencies"]
    assert {name.replace("-", "_") for name in names(dependencies)} == others
    assert others <= OUTSIDERS.keys()
    assert set(dependencies) <= set(BOTH["project"]["dependencies"])
    for extra, needs in LIBRARY["project"]["optional-dependencies"].items():
        assert set(needs) <= {
            *BOTH["project"]["dependencies"],
            *BOTH["project"]["optional-dependencies"].get(extra, ()),
        }


def test_both_have_one_version_one_python_and_one_plugin():
    here, there = LIBRARY["project"], BOTH["project"]
    for field in ("requires-python", "license", "dynamic"):
        assert here[field] == there[field]
    assert here["entry-points"]["pytest11"] == there["entry-points"]["pytest11"]
    path = DEPLOYING / "nursery-patterns" / LIBRARY["tool"]["hatch"]["version"]["path"]
    assert path.resolve() == ROOT / BOTH["tool"]["hatch"]["version"]["path"]


def test_the_server_of_a_release_depends_on_the_library_instead_of_having_it():
    project, version = server_project()
    dependencies = project["project"]["dependencies"]
    assert f"nursery-patterns=={version}" in dependencies
    mine = names(BOTH["project"]["dependencies"]) | {"nursery-patterns"}
    assert names(dependencies) == mine - {"outcome", "trio-util", "trio-parallel"}
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["trio_tools"]
    assert "pytest11" not in project["project"].get("entry-points", {})
    assert project["project"]["scripts"] == BOTH["project"]["scripts"]
