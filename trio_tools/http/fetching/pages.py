"""What a page shows of a reply: its text, JSON or Markdown, or the reason why not."""

from __future__ import annotations

import zlib

from nursery_patterns import run_in_thread
from trio_tools.http.fetching.content import (
    MediaType,
    decode_any_text,
    is_binary,
    is_pdf,
    media_of,
    media_type,
    parse_json,
    to_markdown,
    to_pdf_text,
)
from trio_tools.http.fetching.types import FetchedPage, FetchRequest
from trio_tools.http.wire.client import Answer, Fields
from trio_tools.http.wire.errors import Code, FetchError

_GZIP_MARK = b"\x1f\x8b"
_GZIP = 31  # zlib's number for the format of gzip files


async def filled(page: FetchedPage, request: FetchRequest, answer: Answer) -> FetchedPage:
    """Return a page with what the request wants of the body of its reply.

    Raises:
        FetchError: `TOO_LARGE`, `INVALID_JSON`, `EXTRACTION_FAILED`, `PDF_*`.
    """
    media, body = media_of(answer.fields), answer.body
    if request.body_as == "none" or (request.body_as == "json" and request.method == "HEAD"):
        return page
    if request.body_as == "json":
        return await _with_json(page, answer, media)
    if request.gunzip and body.startswith(_GZIP_MARK):
        most = request.max_bytes or request.usual_bytes or len(body)
        answer = await run_in_thread(_gunzipped, answer, most)
        media, body = media_type(b"application/xml"), answer.body
    if is_pdf(body, media) and body:
        return await _with_pdf(page, body)
    if is_binary(body, media) or (answer.truncated and not body and not media.is_text):
        return page._replace(note=_not_text(answer.fields, media))
    if not (body or media.is_text):
        return page
    page = await _with_text(page, answer, media)
    if body and request.body_as == "markdown":
        page = await _with_markdown(page, media, with_links=request.with_links)
    return page


async def _with_json(page: FetchedPage, answer: Answer, media: MediaType) -> FetchedPage:
    if not answer.body:
        return page
    if answer.truncated:
        raise _json_too_large(page.final_url, len(answer.body))
    try:
        return page._replace(json=parse_json(answer.body))
    except FetchError:
        if page.status < 400:  # noqa: PLR2004 - an error page may be anything
            raise
    return await _with_text(page, answer, media)


async def _with_text(page: FetchedPage, answer: Answer, media: MediaType) -> FetchedPage:
    found = await decode_any_text(answer.body, media, final=not answer.truncated)
    return page._replace(text=found.text, charset=found.charset, charset_declared=found.declared)


async def _with_markdown(page: FetchedPage, media: MediaType, *, with_links: bool) -> FetchedPage:
    found = await to_markdown(page.text or "", media, page.final_url, with_links=with_links)
    warnings: list[str] = []
    if found.is_shell:
        warnings.append(
            "The page has next to no text of its own: scripts build it in a browser, and no script "
            "is run here."
        )
    elif page.truncated:
        warnings.append(
            f"Only the first {page.length} bytes of the page were downloaded (max_bytes)."
        )
    return page._replace(
        text=found.text,
        title=found.title,
        canonical_url=found.canonical_url,
        language=found.language,
        warnings=tuple(warnings),
        links=found.links,
    )


async def _with_pdf(page: FetchedPage, body: bytes) -> FetchedPage:
    if page.truncated:
        raise FetchError(
            f"The PDF at {page.final_url} is longer than {len(body)} bytes, and cannot be read in "
            "part.",
            code=Code.TOO_LARGE,
            remediation="Raise max_bytes, or let the operator raise `max_body_bytes`.",
        )
    found = await to_pdf_text(body, page.final_url)
    warnings: list[str] = []
    if found.read < found.pages:
        warnings.append(f"The PDF has {found.pages} pages, of which {found.read} were read.")
    return page._replace(
        text=found.text, pages=found.pages, title=found.title, warnings=tuple(warnings)
    )


def _gunzipped(answer: Answer, most: int) -> Answer:
    """Return a reply with what its gzip file holds, as far as it can be read."""
    inflater = zlib.decompressobj(wbits=_GZIP)
    try:
        body = inflater.decompress(answer.body, most)
    except zlib.error:
        return answer._replace(body=b"", truncated=True)
    return answer._replace(body=body, truncated=not inflater.eof)


def _not_text(fields: Fields, media: MediaType) -> str:
    """Describe a body that is not text."""
    length = fields.get(b"content-length", b"").decode("latin-1")
    size = f"{length} bytes" if length.isdigit() else "of unknown length"
    return f"Not text: {media.name or 'bytes without a type'}, {size}."


def _json_too_large(url: str, length: int) -> FetchError:
    return FetchError(
        f"The JSON at {url} is longer than {length} bytes, and half of it has no meaning.",
        code=Code.TOO_LARGE,
        remediation='Raise max_bytes, ask the API for less, or fetch it with body_as="text".',
    )
