"""Check a release: `python -m tests.release`, with the extra `release` installed.

It builds the sdist, and the wheel from the sdist, as an installer would. It checks the metadata
with twine. Then it installs the wheel into an empty environment, outside of the checkout, and runs
the commands, the examples of the README and the tests of the public API there. The library is
installed by itself into another environment, where it has four dependencies and no server.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Tests that need nothing but the installed packages and pytest.
TESTS = ("tests/__init__.py", "tests/test_public_api.py")
WITHOUT = ("__pycache__", ".venv")
LIBRARY_DEPENDENCIES = {"outcome", "trio", "trio-parallel", "trio-util"}
# Prints what an installed distribution requires without extras, and whether the server is there.
ASK_LIBRARY = """
import importlib.metadata, importlib.util, re
needs = importlib.metadata.requires("nursery-patterns")
print(*(re.match("[a-z-]+", need)[0] for need in needs if "extra ==" not in need))
import nursery_patterns
for name in nursery_patterns.__all__: getattr(nursery_patterns, name)
assert importlib.util.find_spec("trio_tools") is None
"""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command and return what it printed. Its failure ends the check."""
    print("$", *(Path(command[0]).name, *command[1:]))
    # The packages must come from the environment, so the checkout is not on the path.
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{done.stdout}\nexit status {done.returncode}")
    return done.stdout


def build(out: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from it."""
    run(sys.executable, "-m", "build", "--outdir", out, ROOT)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    return sdist, wheel


def check_contents(sdist: Path, wheel: Path) -> None:
    """Compare what was packed with the checkout."""
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    for package in ("nursery_patterns", "trio_tools"):
        files = {
            str(path.relative_to(ROOT))
            for path in (ROOT / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        missing = files - packed
        assert not missing, f"missing in the wheel: {sorted(missing)}"
        assert f"{package}/py.typed" in packed, f"{package} has no py.typed"
    foreign = {name.split("/")[0] for name in packed} - {"nursery_patterns", "trio_tools"}
    assert all(name.endswith(".dist-info") for name in foreign), f"also packed: {foreign}"
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("README.md", "LICENSE", "CHANGELOG.md", "constraints.txt", "tests/conftest.py"):
        assert name in names, f"missing in the sdist: {name}"


def check_installed(wheel: Path, work: Path) -> None:
    """Install the wheel into an empty environment and use it there."""
    venv.create(work / "venv", with_pip=True)
    python = work / "venv" / "bin" / "python"
    constraints = ROOT / "constraints.txt"
    run(python, "-m", "pip", "install", "-q", wheel, "-c", constraints)
    run(python, "-m", "pip", "check")
    command = work / "venv" / "bin" / "trio-tools"
    shown = run(command, "--version", cwd=work)
    assert re.search(r"\d+\.\d+\.\d+", shown), shown
    assert "fetch_urls" in run(command, "tools", cwd=work)
    run(command, "serve", "--check", "--state", "memory", cwd=work)
    run(command, "demo", cwd=work)
    shutil.copy(ROOT / "docs" / "examples" / "one_idea.py", work)
    assert "succeeded=30" in run(python, "one_idea.py", cwd=work)
    tested = work / "tested"
    for name in TESTS:
        source, target = ROOT / name, tested / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(*WITHOUT))
        else:
            shutil.copy(source, target)
    run(python, "-m", "pip", "install", "-q", "pytest", "pytest-trio", "-c", constraints)
    shown = run(python, "-m", "pytest", "-q", "--import-mode=importlib", "tests", cwd=tested)
    print(shown.strip().splitlines()[-1])


def check_library(work: Path) -> None:
    """Install the library's own wheel into an empty environment and use it there."""
    out = work / "both"
    run(sys.executable, ROOT / "docs" / "deploying" / "build_wheels.py", out)
    (wheel,) = out.glob("nursery_patterns-*.whl")
    venv.create(work / "library", with_pip=True)
    python = work / "library" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", wheel, "-c", ROOT / "constraints.txt")
    run(python, "-m", "pip", "check")
    needs = set(run(python, "-c", ASK_LIBRARY, cwd=work).split())
    assert needs == LIBRARY_DEPENDENCIES, f"the library depends on {sorted(needs)}"
    shutil.copy(ROOT / "docs" / "examples" / "one_idea.py", work)
    assert "succeeded=30" in run(python, "one_idea.py", cwd=work)


def main() -> None:
    """Check the checkout as a release."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        sdist, wheel = build(work / "dist")
        check_contents(sdist, wheel)
        check_installed(wheel, work)
        check_library(work)
        print("ready:", sdist.name, wheel.name)


if __name__ == "__main__":
    main()
