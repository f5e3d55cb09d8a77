"""Check the files beside this one with `mypy --strict`; pyright is configured to read them too.

A line that must be an error carries an ignore for pyright. mypy has to report an error on each of
these lines, and on no other one. Run by the linters: `python -m tests.typing.check_mypy`.
"""

import re
import sys
from pathlib import Path

from mypy import api  # in the `lint` extra

FOLDER = Path(__file__).parent
FILES = sorted(path for path in FOLDER.glob("*.py") if path != Path(__file__))


def expected_errors():
    return {
        (path.name, number)
        for path in FILES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if "# pyright: ignore[" in line
    }


def main():
    report, trouble, _ = api.run(["--strict", "--no-error-summary", *map(str, FILES)])
    found = {
        (Path(match[1]).name, int(match[2]))
        for match in re.finditer(r"^(.+?):(\d+): error:", report, re.MULTILINE)
    }
    if trouble or found != expected_errors():
        missing = sorted(expected_errors() - found)
        sys.exit(f"{report}{trouble}\nlines that should be errors for mypy: {missing or 'none'}")


if __name__ == "__main__":
    main()
