"""What the documentation takes from the code: maps of the packages, tables of the settings.

`python -m tests.support.maps` writes them anew after a docstring or a setting changed.
"""

import ast
import re
from pathlib import Path

from trio_tools.settings.reference import reference_markdown

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "architecture.md"
SETTINGS = ROOT / "docs" / "configuration.md"
PACKAGES = ("nursery_patterns", "trio_tools")
_PLACE = "<!-- map of {0} -->\n```\n{1}```\n"


def map_of(package):
    """Return the lines of the package's docstring that draw its layers, with the room names."""
    text = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text("utf-8")))
    lines = text.splitlines()
    drawn = [number for number, line in enumerate(lines) if re.match(r" {4}L\d+ ", line)]
    end = next(n for n in range(drawn[-1], len(lines) + 1) if n == len(lines) or not lines[n])
    return "".join(f"{line[4:]}\n" for line in lines[drawn[0] : end])


def with_maps(page):
    """Return the text of the page with the maps that the docstrings draw now."""
    for package in PACKAGES:
        block = _PLACE.format(package, map_of(package))
        pattern = (
            re.escape(_PLACE).replace(r"\{0\}", package).replace(r"\{1\}", r"(?:(?!```).*\n)*")
        )
        page, found = re.subn(pattern, lambda _, block=block: block, page)
        assert found == 1, f"docs/architecture.md has no place for the map of {package}"
    return page


def with_settings(page):
    """Return the text of docs/configuration.md with the tables of the settings as they are now."""
    head, mark, _ = page.partition("<!-- made from the settings -->\n")
    assert mark, "docs/configuration.md has no place for the settings"
    return f"{head}{mark}\n{reference_markdown()}"


if __name__ == "__main__":
    PAGE.write_text(with_maps(PAGE.read_text("utf-8")), "utf-8")
    SETTINGS.write_text(with_settings(SETTINGS.read_text("utf-8")), "utf-8")
