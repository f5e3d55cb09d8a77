"""The text of a PDF, page by page. Runs in a worker process, so it imports nothing of ours."""

from __future__ import annotations

import importlib
from typing import Any, Literal, NamedTuple

MAX_PAGES = 500
_MAX_CHARS = 5_000_000
_PASSWORD_ERROR = 4  # FPDF_ERR_PASSWORD


class PdfText(NamedTuple):
    """The content of a PDF.

    Attributes:
        outcome: "text", "encrypted" or "broken".
        text: Its pages, each below a heading with its number.
        pages: Number of its pages.
        read: Number of the pages in `text`.
        title: As declared by the document; None without a declaration.
    """

    outcome: Literal["text", "encrypted", "broken"]
    text: str = ""
    pages: int = 0
    read: int = 0
    title: str | None = None


def extract_pdf(data: bytes) -> PdfText:
    """Return the text of a PDF, at most 500 pages of it.

    Raises:
        ImportError: pypdfium2 is not installed.
    """
    pdfium: Any = importlib.import_module("pypdfium2")
    try:
        document = pdfium.PdfDocument(data)
        pages = len(document)
    except pdfium.PdfiumError as exc:
        encrypted = getattr(exc, "err_code", None) == _PASSWORD_ERROR or "password" in str(exc)
        return PdfText("encrypted" if encrypted else "broken")
    parts: list[str] = []
    size = read = 0
    for number in range(min(pages, MAX_PAGES)):
        text = _page(pdfium, document, number)
        parts.append(f"## Page {number + 1}\n\n{text}".rstrip())
        read += 1
        size += len(text)
        if size > _MAX_CHARS:
            break
    title = str(document.get_metadata_value("Title") or "").strip()
    return PdfText("text", "\n\n".join(parts), pages, read, title[:500] or None)


def _page(pdfium: Any, document: Any, number: int) -> str:
    try:
        page = document[number]
        text = str(page.get_textpage().get_text_bounded())
        page.close()
    except pdfium.PdfiumError as exc:
        return f"(this page cannot be read: {exc})"
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()
