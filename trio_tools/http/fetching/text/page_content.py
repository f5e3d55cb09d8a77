"""The content of a page: text, JSON or Markdown, or the reason why it has none."""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

from nursery_patterns import run_in_thread
from trio_tools.http.fetching.text.content import (
    Decoded,
    MediaType,
    decode_any_text,
    decode_detected,
    decode_text,
    is_binary,
    is_pdf,
    media_of,
    media_type,
    parse_json,
    to_markdown,
    to_pdf_text,
)
from trio_tools.http.fetching.types import FetchRequest
from trio_tools.http.wire.client import Answer, Fields
from trio_tools.http.wire.errors import Code, FetchError

_GZIP_MARK = b"\x1f\x8b"
_SHELL = (
    "The page has next to no text of its own: scripts build it in a browser, and no script is run "
    "here."
)
_GZIP = 31  # zlib's number for the format of gzip files


class Content(NamedTuple):
    """The fields of a page that come from the body; the attributes are those of `FetchedPage`."""

    text: str | None = None
    charset: str | None = None
    charset_declared: bool | None = None
    json: Any = None
    title: str | None = None
    canonical_url: str | None = None
    language: str | None = None
    pages: int | None = None
    note: str | None = None
    warnings: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


_NOTHING = Content()


async def content_of(  # noqa: PLR0911 - one for each kind of body
    request: FetchRequest, answer: Answer, url: str
) -> Content:
    """Return the requested form of the body of a reply.

    Args:
        request: The request.
        answer: The reply with its body.
        url: Its URL, after redirects.

    Raises:
        FetchError: `TOO_LARGE`, `INVALID_JSON`, `EXTRACTION_FAILED`, `PDF_*`.
    """
    if request.body_as == "none" or (request.body_as == "json" and request.method == "HEAD"):
        return _NOTHING
    media = media_of(answer.fields)
    if request.body_as == "json":
        return await _json_content(answer, media, url)
    unpacked = answer
    if request.gunzip and answer.body.startswith(_GZIP_MARK):
        most = request.max_bytes or request.usual_bytes or len(answer.body)
        unpacked = await run_in_thread(_gunzipped, answer, most)
        media = media_type(b"application/xml")
    body, final = unpacked.body, not unpacked.truncated
    if is_pdf(body, media) and body:
        return await _pdf_content(answer, url)
    if is_binary(body, media) or not (body or final or media.is_text):
        return Content(note=_not_text(answer.fields, media))
    if not (body or media.is_text):
        return _NOTHING
    text = decode_text(body, media, final=final) or await decode_detected(body, final=final)
    if body and request.body_as == "markdown":
        return await _markdown_content(text, media, answer, url, with_links=request.with_links)
    return Content(text.text, text.charset, text.declared)


async def _json_content(answer: Answer, media: MediaType, url: str) -> Content:
    if not answer.body:
        return _NOTHING
    if answer.truncated:
        raise _json_too_large(url, len(answer.body))
    try:
        return Content(json=parse_json(answer.body))
    except FetchError:
        if answer.reply.status < 400:  # noqa: PLR2004 - an error page may be anything
            raise
    text = await decode_any_text(answer.body, media, final=True)
    return Content(text.text, text.charset, text.declared)


async def _markdown_content(
    text: Decoded, media: MediaType, answer: Answer, url: str, *, with_links: bool
) -> Content:
    found = await to_markdown(text.text, media, url, with_links=with_links)
    warnings: tuple[str, ...] = ()
    if found.is_shell:
        warnings = (_SHELL,)
    elif answer.truncated:
        length = len(answer.body)
        warnings = (f"Only the first {length} bytes of the page were downloaded (max_bytes).",)
    return Content(
        text=found.text,
        charset=text.charset,
        charset_declared=text.declared,
        title=found.title,
        canonical_url=found.canonical_url,
        language=found.language,
        warnings=warnings,
        links=found.links,
    )


async def _pdf_content(answer: Answer, url: str) -> Content:
    if answer.truncated:
        raise FetchError(
            f"The PDF at {url} is longer than {len(answer.body)} bytes, and cannot be read in "
            "part.",
            code=Code.TOO_LARGE,
            remediation="Raise max_bytes, or let the operator raise `max_body_bytes`.",
        )
    found = await to_pdf_text(answer.body, url)
    warnings: tuple[str, ...] = ()
    if found.read < found.pages:
        warnings = (f"The PDF has {found.pages} pages, of which {found.read} were read.",)
    return Content(text=found.text, pages=found.pages, title=found.title, warnings=warnings)


def _gunzipped(answer: Answer, most: int) -> Answer:
    """Return a reply with the content of its gzip file, as far as it can be unpacked."""
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
