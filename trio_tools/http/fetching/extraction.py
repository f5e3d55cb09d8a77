"""The main text of a page as Markdown. Runs in a worker process, so it imports nothing of ours."""

from __future__ import annotations

import importlib
from typing import Any


def extract_markdown(html: str, url: str) -> str:
    """Return the main text of a page; all of its text if no part stands out as the main one.

    Args:
        html: The page.
        url: Where it was found; links are made absolute by it.

    Raises:
        ImportError: trafilatura is not installed.
    """
    trafilatura: Any = importlib.import_module("trafilatura")  # untyped, and half a second to load
    text: str | None = trafilatura.extract(
        html, url=url, output_format="markdown", include_links=True, include_tables=True
    )
    return text or str(trafilatura.html2txt(html))
