"""Build a bundle (.mcpb) that a desktop host installs with one click.

    python docs/deploying/build_mcpb.py trio-tools.mcpb

The bundle holds the two packages and their metadata. The host creates the environment with uv, so
one bundle serves every platform. Check it with `npx @anthropic-ai/mcpb validate` and `info`.
"""

import argparse
import json
import re
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# A time of its own would make two builds of one commit differ.
EPOCH = (2020, 1, 1, 0, 0, 0)
MAIN = """\
import sys

from trio_tools.__main__ import main

sys.exit(main())
"""


def manifest() -> dict:
    """Return the manifest, with the version of this checkout."""
    version = re.search(
        r'__version__ = "(.+)"', (ROOT / "trio_tools" / "version.py").read_text("utf-8")
    )[1]
    return {
        "manifest_version": "0.4",
        "name": "trio-tools",
        "display_name": "trio-tools",
        "version": version,
        "description": "Bulk work for models: bounded, on time, and finished work is never lost.",
        "author": {"name": "The trio-tools authors"},
        "license": "MIT",
        "keywords": ["bulk", "fetch", "batch", "concurrency"],
        "server": {
            "type": "uv",
            "entry_point": "server/main.py",
            "mcp_config": {
                "command": "uv",
                "args": [
                    "run",
                    "--directory",
                    "${__dirname}",
                    "server/main.py",
                    "serve",
                    "--file-root",
                    "${user_config.file_root}",
                ],
            },
        },
        "user_config": {
            "file_root": {
                "type": "directory",
                "title": "Folder",
                "description": "The folder that tools may read.",
                "required": True,
                "default": "${DOCUMENTS}",
            }
        },
        "tools_generated": True,
        "compatibility": {
            "platforms": ["darwin", "linux"],
            "runtimes": {"python": ">=3.11"},
        },
    }


def files() -> dict[str, bytes]:
    """Return the content of the bundle by path."""
    content = {
        "manifest.json": json.dumps(manifest(), indent=2).encode(),
        "server/main.py": MAIN.encode(),
    }
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        content[name] = (ROOT / name).read_bytes()
    for package in ("nursery_patterns", "trio_tools"):
        for path in sorted((ROOT / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                content[path.relative_to(ROOT).as_posix()] = path.read_bytes()
    return content


def build(target: Path) -> None:
    """Write the bundle. Two builds of one commit are the same bytes."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, data in files().items():
            bundle.writestr(zipfile.ZipInfo(name, EPOCH), data, zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build the bundle for desktop hosts.")
    parser.add_argument("target", type=Path, help="file to write, such as trio-tools.mcpb")
    build(parser.parse_args().target)
