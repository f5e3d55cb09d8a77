"""The bytes of a body as text, JSON, or the main text of a page as Markdown.

Decoding and parsing are single steps of C code and happen in the calling task: a few milliseconds
for a megabyte of text, some fifty for one of JSON, so callers should request less. Operations
that take longer, or that a hostile body can make slow, run in a worker process, which a cancel
kills: finding the main text of a page, reading a PDF, detecting a charset.
"""

from __future__ import annotations

import codecs
import functools
import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import trio

from nursery_patterns import WorkerCrashed
from trio_tools.http.fetching.text.charsets import (
    Charset,
    charset_of_label,
    declared_charset,
    detected_charset,
    undeclared_utf8,
)
from trio_tools.http.fetching.text.extraction import Extracted, extract_markdown
from trio_tools.http.fetching.text.pdf import PdfText, extract_pdf
from trio_tools.http.wire.errors import Code, FetchError
from trio_tools.settings.computing import run_computation

_TEXT_TYPES = re.compile(
    r"(text/.*|text|html|plain|[^/]*|.*[/+](json|xml|javascript|ecmascript|yaml|x-yaml|toml|csv|"
    r"x-ndjson|jsonl|x-www-form-urlencoded|sql|graphql|x-sh|rtf|x-tex|x-javascript|typescript|"
    r"xml-dtd|json-seq|jsonlines|x-jsonlines|x-httpd-php|x-perl|x-python|x-csv|markdown))\Z"
)
_UNSAID_TYPES = frozenset(
    {"", "application/octet-stream", "binary/octet-stream", "application/unknown", "unknown"}
    | {"unknown/unknown", "*/*", "application/binary", "application/force-download"}
)
_PDF_TYPES = frozenset({"application/pdf", "application/x-pdf"})
# How markup begins that has no media type (mimesniff.spec.whatwg.org, 7.1).
_MARKUP = re.compile(
    r"\s*<(!doctype|!--|\?xml|html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p|"
    r"rss|feed|urlset|sitemapindex|rdf:rdf)[\s>/]",
    re.IGNORECASE,
)
_XML = re.compile(
    r"\s*(<\?xml(?!.{0,2000}<html)|<rss|<feed|<urlset|<sitemapindex|<rdf:rdf)",
    re.IGNORECASE | re.DOTALL,
)
_HTML = re.compile(r".{0,2000}<(html|!doctype html)", re.IGNORECASE | re.DOTALL)
_SNIFFED_BYTES = 1024
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\f\r\x1b"))

_DETECTED_BYTES = 65_536
_WORKER_MEMORY = 1_000_000_000
_WORKER_SECONDS = 60.0


class MediaType(NamedTuple):
    """A parsed Content-Type."""

    name: str
    """Lower case, without parameters; empty if missing."""
    charset: str | None
    """The Python name of the declared encoding; None without a known one."""

    is_text: bool
    """Whether it is readable as text."""
    is_unsaid: bool
    """Whether it is unspecific, so that the bytes must decide."""
    is_markup: bool
    """Whether it is HTML or XML, which can declare their charset."""
    is_pdf: bool
    """Whether it is a PDF."""


class Decoded(NamedTuple):
    """A text, and the charset that it was decoded with."""

    text: str
    charset: str
    declared: bool
    """Whether the server or the page declared it; otherwise it is UTF-8 or was detected."""


def media_type(value: bytes) -> MediaType:
    """Parse a Content-Type; bytes beyond 200 are ignored."""
    return _media_type(value[:200])


def media_of(fields: Mapping[bytes, bytes]) -> MediaType:
    """Return the media type in the fields of a reply."""
    return _media_type(fields.get(b"content-type", b"")[:200])


@functools.lru_cache(maxsize=256)
def _media_type(value: bytes) -> MediaType:
    text, _, parameters = value.decode("latin-1").partition(";")
    name = text.strip().lower()
    found = re.search(r"""charset\s*=\s*["']?\s*([^\s;"']+)""", parameters, re.IGNORECASE)
    unsaid = name in _UNSAID_TYPES
    return MediaType(
        name=name,
        charset=charset_of_label(found[1]) if found else None,
        is_text=unsaid or _TEXT_TYPES.match(name) is not None,
        is_unsaid=unsaid,
        is_markup=unsaid or "html" in name or "xml" in name,
        is_pdf=name in _PDF_TYPES,
    )


def is_pdf(body: bytes, media: MediaType) -> bool:
    """Whether a body is a PDF, by its type or, if that is unspecific, by its beginning."""
    return media.is_pdf or (media.is_unsaid and b"%PDF-" in body[:_SNIFFED_BYTES])


def is_binary(body: bytes, media: MediaType) -> bool:
    """Whether a body of an unspecific type is binary: it has control bytes."""
    if not media.is_unsaid or media.charset is not None:
        return False
    start = body[:_SNIFFED_BYTES]
    if declared_charset(start, None, markup=False) is not None:  # a byte order mark
        return False
    return len(start.translate(None, _CONTROLS)) != len(start)


def decode_text(body: bytes, media: MediaType, *, final: bool) -> Decoded | None:
    """Return the text of a body; None if its charset is not declared and it is not UTF-8.

    The charset is that of a byte order mark, else of the header, else of a `<meta>` or XML
    declaration in the first 4096 bytes, else UTF-8. Invalid bytes become U+FFFD.

    Args:
        body: All of it, or its beginning.
        media: The media type in the header.
        final: Whether `body` is the whole body; otherwise an incomplete character at its end is
            dropped.
    """
    charset = declared_charset(body, media.charset, markup=media.is_markup)
    if charset is None or charset.name == "utf-8":
        # Most bodies are valid UTF-8. Decoding as UTF-8 is the cheapest test, and returns the
        # text.
        mark = 0 if charset is None else charset.mark
        try:
            text = (body[mark:] if mark else body).decode("utf-8").removeprefix("\ufeff")
        except UnicodeDecodeError:
            pass
        else:
            return Decoded(text, "utf-8", charset is not None)
    if charset is None:
        if not undeclared_utf8(body, final=final):
            return None
        charset = Charset("utf-8", declared=False)
    return _decoded(body, charset, final=final)


async def decode_any_text(
    body: bytes, media: MediaType, *, final: bool, limiter: trio.CapacityLimiter | None = None
) -> Decoded:
    """Return the text of a body as `decode_text` does, with a detected charset if necessary."""
    found = decode_text(body, media, final=final)
    return found or await decode_detected(body, final=final, limiter=limiter)


async def decode_detected(
    body: bytes, *, final: bool, limiter: trio.CapacityLimiter | None = None
) -> Decoded:
    """Return the text of a body whose charset `decode_text` could not determine."""
    try:
        name = await run_computation(
            detected_charset,
            body[:_DETECTED_BYTES],
            limiter=limiter,
            max_memory_bytes=_WORKER_MEMORY,
            max_cpu_seconds=_WORKER_SECONDS,
        )
    except (WorkerCrashed, MemoryError, OSError, RuntimeError):
        name = "cp1252"
    return _decoded(body, Charset(name, declared=False), final=final)


def _decoded(body: bytes, charset: Charset, *, final: bool) -> Decoded:
    decoder = codecs.getincrementaldecoder(charset.name)("replace")
    text = decoder.decode(body[charset.mark :] if charset.mark else body, final)
    return Decoded(text.removeprefix("\ufeff"), charset.name, charset.declared)


def parse_json(body: bytes) -> Any:
    """Return the value of a JSON text. Every part of it can be serialised as JSON again.

    Raises:
        FetchError: `INVALID_JSON`, with the place.
    """
    try:
        text = body.decode(json.detect_encoding(body)).removeprefix("\ufeff")
        value = _STRICT_JSON.decode(text)
        if "\\u" in text:  # an escape can be a lone surrogate, which is not text
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as exc:
        raise _invalid_json("it is nested too deeply") from exc
    except ValueError as exc:
        raise _invalid_json(str(exc)) from exc
    return value


async def to_markdown(
    text: str,
    media: MediaType,
    url: str,
    limiter: trio.CapacityLimiter | None = None,
    *,
    with_links: bool = False,
) -> Extracted:
    """Return a page as Markdown, or the text itself if it is not markup.

    Args:
        text: The page.
        media: Its media type.
        url: Its URL; links are resolved against it.
        limiter: Bounds the worker processes; None for the default of `run_in_process`.
        with_links: Whether its links are requested.

    Raises:
        FetchError: `EXTRACTION_FAILED`.
    """
    if not media.is_markup or "<" not in text or (media.is_unsaid and not _MARKUP.match(text)):
        return Extracted(text)
    is_xml = _XML.match(text) is not None or (
        "html" not in media.name and "xml" in media.name and not _HTML.match(text)
    )
    try:
        return await run_computation(
            functools.partial(extract_markdown, text, url, is_xml=is_xml, with_links=with_links),
            limiter=limiter,
            max_memory_bytes=_WORKER_MEMORY,
            max_cpu_seconds=_WORKER_SECONDS,
        )
    except (ValueError, RuntimeError, ImportError, MemoryError, WorkerCrashed) as exc:
        raise _not_extracted(f"The main text of {url}", exc, 'Use body_as="text" instead.') from exc


async def to_pdf_text(
    body: bytes, url: str, limiter: trio.CapacityLimiter | None = None
) -> PdfText:
    """Return the text of a PDF, page by page.

    Args:
        body: The whole body.
        url: Its URL.
        limiter: Bounds the worker processes; None for the default of `run_in_process`.

    Raises:
        FetchError: `PDF_ENCRYPTED`, `PDF_BROKEN`; or `EXTRACTION_FAILED` if it needs too much
            memory or the library is missing.
    """
    try:
        found = await run_computation(
            extract_pdf,
            body,
            limiter=limiter,
            max_memory_bytes=_WORKER_MEMORY,
            max_cpu_seconds=_WORKER_SECONDS,
        )
    except ImportError as exc:
        raise _not_extracted(
            f"The text of the PDF at {url}", exc, "Let the operator install trio-tools[pdf]."
        ) from exc
    except (ValueError, RuntimeError, MemoryError, WorkerCrashed) as exc:
        raise _not_extracted(
            f"The text of the PDF at {url}", exc, 'Use body_as="none" to see its size.'
        ) from exc
    if found.outcome == "encrypted":
        raise FetchError(
            f"The PDF at {url} is encrypted and needs a password.",
            code=Code.PDF_ENCRYPTED,
            remediation="Ask for a copy without a password.",
        )
    if found.outcome == "broken":
        raise FetchError(
            f"The PDF at {url} is broken: it cannot be opened.",
            code=Code.PDF_BROKEN,
            remediation='Try again later, or look at how it begins with body_as="none".',
        )
    return found


def _not_extracted(what: str, exc: Exception, remediation: str) -> FetchError:
    reason = "it needs too much memory" if isinstance(exc, MemoryError) else str(exc)
    return FetchError(
        f"{what} could not be found: {reason}.",
        code=Code.EXTRACTION_FAILED,
        remediation=remediation,
    )


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits:.20} is larger than any number here")
    return number


_STRICT_JSON = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def _invalid_json(reason: str) -> FetchError:
    return FetchError(
        f"The body is not valid JSON: {reason}.",
        code=Code.INVALID_JSON,
        remediation='Fetch it with body_as="text" to see what it is.',
    )
