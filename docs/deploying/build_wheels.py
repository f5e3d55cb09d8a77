"""Build the two wheels of a release: `python docs/deploying/build_wheels.py dist`.

`nursery-patterns` is the library on its own. `trio-tools` is then the server without it, which
depends on the same version of it. In a checkout `pip install -e .` has both, as ever.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "docs" / "deploying" / "nursery-patterns"
# Dependencies of the library, which the server gets with it.
OF_THE_LIBRARY = ("outcome", "trio-util", "trio-parallel")


def server_project(text: str, version: str) -> str:
    """Return the server's pyproject.toml for a tree without the library."""
    text = text.replace('["nursery_patterns", "trio_tools"]', '["trio_tools"]', 1)
    text = re.sub(r"\[project\.entry-points\.pytest11\]\n(?:.+\n)+\n", "", text)
    for name in OF_THE_LIBRARY:
        text = re.sub(rf'  "{name}>=[^"]*",\n', "", text)
    return text.replace('  "trio>=', f'  "nursery-patterns=={version}",\n  "trio>=', 1)


def version() -> str:
    """Return the version that both have."""
    text = (ROOT / "trio_tools" / "version.py").read_text("utf-8")
    return re.findall(r'__version__.*= "(.+)"', text)[0]


def main(out: Path) -> None:
    """Build both into a folder."""
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(out.resolve())]
    subprocess.run([*build, str(LIBRARY)], check=True)  # noqa: S603 - our own tree
    with tempfile.TemporaryDirectory() as work:
        tree = Path(work)
        shutil.copytree(ROOT / "trio_tools", tree / "trio_tools")
        for name in ("README.md", "LICENSE"):
            shutil.copy(ROOT / name, tree)
        project = (ROOT / "pyproject.toml").read_text("utf-8")
        (tree / "pyproject.toml").write_text(server_project(project, version()), "utf-8")
        subprocess.run([*build, str(tree)], check=True)  # noqa: S603 - our own tree
    sys.stdout.writelines(sorted(f"{path.name}\n" for path in out.glob("*.whl")))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "dist"))
