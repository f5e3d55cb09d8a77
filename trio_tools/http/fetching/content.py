"""A body's bytes as what they mean: text, JSON, or the main text of a page as Markdown.

Decoding and parsing are single steps of C code and happen where they are called: a few milliseconds
for a megabyte of text, some fifty for one of JSON, of which whoever asks should thus ask for less.
Finding the main text of a page takes far longer and depends on how hostile the page is, so it runs
in a worker process, which a cancel kills.
"""

from __future__ import annotations

import codecs
import functools
import json
import math
import re
from typing import Any, NamedTuple

import trio

from nursery_patterns import WorkerCrashed, run_in_process
from trio_tools.http.fetching.extraction import extract_markdown
from trio_tools.http.wire.errors import Code, FetchError

_META_WITHIN_BYTES = 4096
_META_CHARSET = re.compile(
    rb"""<meta[^>]+?charset\s*=\s*["']?\s*([a-z0-9_.:-]{1,40})|<\?xml[^>]+?encoding\s*=\s*"""
    rb"""["']([a-z0-9_.:-]{1,40})""",
    re.IGNORECASE,
)
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Only the encodings that browsers know (https://encoding.spec.whatwg.org): Python has others that
# take quadratic time (punycode, idna) or are no encodings of text at all.
_CHARSETS = frozenset(
    {"utf-8", "utf-16", "utf-16-le", "utf-16-be", "iso8859-2", "iso8859-3", "iso8859-4"}
    | {"iso8859-5", "iso8859-6", "iso8859-7", "iso8859-8", "iso8859-10", "iso8859-13"}
    | {"iso8859-14", "iso8859-15", "iso8859-16", "cp866", "cp874", "cp1250", "cp1251"}
    | {"cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "koi8-r"}
    | {"koi8-u", "mac-roman", "mac-cyrillic", "gb2312", "gbk", "gb18030", "big5"}
    | {"big5hkscs", "euc_jp", "iso2022_jp", "shift_jis", "cp932", "euc_kr", "cp949"}
    | {"tis-620"}
)
# The web means Windows' superset where it says one of these.
_SUPERSETS = {"ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254"}
_TEXT_TYPES = re.compile(
    r"(text/.*|.*[/+](json|xml|javascript|ecmascript|yaml|x-yaml|toml|csv|x-ndjson|jsonl|"
    r"x-www-form-urlencoded|sql|graphql|x-sh|rtf|x-tex))\Z"
)


class MediaType(NamedTuple):
    """What a Content-Type says."""

    name: str
    """Lower case, without parameters; empty if there was none."""
    charset: str | None
    """One of the encodings known here, by its Python name; None if none was named."""

    is_text: bool
    """Whether it makes sense as text; what does not say what it is may."""
    is_markup: bool
    """Whether it is HTML or XML, which can name their charset themselves."""


def media_type(value: bytes) -> MediaType:
    """Take a Content-Type apart; what is beyond 200 bytes is no part of an honest one."""
    return _media_type(value[:200])


@functools.lru_cache(maxsize=256)
def _media_type(value: bytes) -> MediaType:
    text, _, parameters = value.decode("latin-1").partition(";")
    name = text.strip().lower()
    found = re.search(r"""charset\s*=\s*["']?\s*([^\s;"']+)""", parameters, re.IGNORECASE)
    return MediaType(
        name=name,
        charset=_known_charset(found[1]) if found else None,
        is_text=not name or _TEXT_TYPES.match(name) is not None,
        is_markup=not name or "html" in name or "xml" in name,
    )


def decode_text(body: bytes, media: MediaType, *, final: bool) -> tuple[str, str]:
    """Return the text and the name of the charset it was decoded with.

    The charset is that of the header, else of a byte order mark, else of a `<meta>` or XML
    declaration in the first 4096 bytes, else UTF-8. What it cannot mean becomes U+FFFD.

    Args:
        body: All of it, or its beginning.
        media: What the header says.
        final: Whether `body` is all; a character cut in two at the end is left out otherwise.
    """
    charset = media.charset
    if charset is None:
        for mark, name in _BYTE_ORDER_MARKS:
            if body.startswith(mark):
                body, charset = body[len(mark) :], name
                break
        else:
            charset = (media.is_markup and _declared_charset(body)) or "utf-8"
    if final:
        text = body.decode(charset, "replace")
    else:
        text = codecs.getincrementaldecoder(charset)("replace").decode(body)
    return text.removeprefix("\ufeff"), charset


def parse_json(body: bytes) -> Any:
    """Return the value of a JSON text, of which every part can be written as JSON again.

    Raises:
        FetchError: `INVALID_JSON`, with the place.
    """
    try:
        text = body.decode(json.detect_encoding(body)).removeprefix("\ufeff")
        value = _STRICT_JSON.decode(text)
        if "\\u" in text:  # an escape can stand for half of a character, which is no text
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as exc:
        raise _invalid_json("it is nested too deeply") from exc
    except ValueError as exc:
        raise _invalid_json(str(exc)) from exc
    return value


async def to_markdown(
    text: str, media: MediaType, url: str, limiter: trio.CapacityLimiter | None = None
) -> str:
    """Return the main text of a page as Markdown, or the text itself if it is not markup.

    Args:
        text: The page.
        media: What it is.
        url: Where it was found; links are made absolute by it.
        limiter: Bounds the worker processes; None for the default of `run_in_process`.

    Raises:
        FetchError: `EXTRACTION_FAILED`.
    """
    if not media.is_markup or "<" not in text:
        return text
    try:
        return await run_in_process(extract_markdown, text, url, limiter=limiter)
    except (ValueError, RuntimeError, ImportError, WorkerCrashed) as exc:
        raise FetchError(
            f"The main text of {url} could not be found: {exc}.",
            code=Code.EXTRACTION_FAILED,
            remediation='Fetch it with body_as="text" instead.',
        ) from exc


def _known_charset(name: str) -> str | None:
    try:
        found = codecs.lookup(name).name
    except (LookupError, ValueError):
        return None
    found = _SUPERSETS.get(found, found)
    return found if found in _CHARSETS else None


def _declared_charset(body: bytes) -> str | None:
    found = _META_CHARSET.search(body, 0, _META_WITHIN_BYTES)
    if found is None:
        return None
    name = _known_charset((found[1] or found[2]).decode("ascii"))
    # A page that could be read as ASCII this far is not in UTF-16, whatever it says.
    return "utf-8" if name is not None and name.startswith("utf-16") else name


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
