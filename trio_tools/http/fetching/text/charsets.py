"""Which charset is a body in? As browsers decide it, and by detection where nothing is declared.

Labels mean what https://encoding.spec.whatwg.org says, superset included: "gb2312" is gb18030 and
"iso-8859-1" is windows-1252. Other codecs of Python are not reachable by a label: some take
quadratic time (punycode, idna) or are no encodings of text at all.
"""

from __future__ import annotations

import codecs
import functools
import importlib
import re
from typing import Any, NamedTuple

_PRESCAN_BYTES = 4096
_COMMENT = re.compile(rb"<!--.*?(?:-->|\Z)", re.DOTALL)
_META = re.compile(rb"""<meta[\s/]((?:[^<>"']|"[^"]*"|'[^']*')*+)>""", re.IGNORECASE)
_ATTRIBUTE = re.compile(
    rb"""([^\s=/>"']+)(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+)))?""", re.DOTALL
)
_XML_ENCODING = re.compile(
    rb"""\s*<\?xml\s[^>]*?encoding\s*=\s*["']([A-Za-z0-9_.:-]{1,40})["']""", re.IGNORECASE
)
_IN_CONTENT = re.compile(rb"""charset\s*=\s*["']?\s*([^\s;"']+)""", re.IGNORECASE)
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_ALL_MARKS = tuple(mark for mark, _ in _MARKS)
# Labels that Python does not know, or whose codec in Python knows fewer characters.
_CODECS = {
    "gbk": "gb18030",
    "big5": "big5hkscs",
    "shift_jis": "cp932",
    "euc-kr": "cp949",
    "windows-874": "cp874",
    "iso-8859-8-i": "iso8859-8",
    "macintosh": "mac-roman",
    "x-mac-cyrillic": "mac-cyrillic",
    "ibm866": "cp866",
    "x-user-defined": "cp1252",
}
_UNDECIDED = frozenset({"replacement"})  # labels of charsets that browsers refuse to decode

_SAMPLE_BYTES = 65_536
_SHARE_OF_LATIN = 0.3  # of all letters; more accents than that have no language in Latin script
_HIGH, _LETTERS = re.compile(rb"[\x80-\xff]"), re.compile(rb"[A-Za-z]")
_ADJACENT = re.compile(rb"[\x80-\xff]{2}")
_GOOD_PER_BAD = 4
# The letters and signs of windows-1252 that western European texts use.
_WESTERN = frozenset(
    "àáâãäåæçèéêëìíîïñòóôõöøœùúûüÿßÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØŒÙÚÛÜŸ“”„—…•€£§©®°«»¡¿·™ºª½¼"
    "\u2013\u2018\u2019\u201a\xa0\xb4"
)
_OTHER_SCRIPTS = (
    *("cp1251", "koi8_r", "cp932", "euc_jp", "gb18030", "big5hkscs", "cp949"),
    *("cp1253", "cp1255", "cp1256", "tis_620"),
)
_LATIN_SCRIPTS = ("cp1250", "cp1254", "cp1257", "iso8859_2")


class Charset(NamedTuple):
    """A charset that was decided on.

    Attributes:
        name: A codec of Python.
        declared: Whether the server or the page says so; otherwise it was found by its bytes.
        mark: Bytes of a byte order mark at the beginning, no part of the text.
    """

    name: str
    declared: bool
    mark: int = 0


@functools.lru_cache(maxsize=256)
def charset_of_label(label: str) -> str | None:
    """Return the codec that a label stands for in a browser, None if it stands for none."""
    labels: dict[str, str] = importlib.import_module("webencodings").LABELS
    name = labels.get(label.strip("\t\n\f\r ").lower())
    if name is None or name in _UNDECIDED:
        return None
    return codecs.lookup(_CODECS.get(name, name)).name


def declared_charset(body: bytes, header: str | None, *, markup: bool) -> Charset | None:
    """Return what is declared: a byte order mark, else the header, else a meta element or XML.

    Args:
        body: Its beginning.
        header: What the Content-Type says, by `charset_of_label`.
        markup: Whether it is HTML or XML, which can name their charset themselves.
    """
    if body.startswith(_ALL_MARKS):
        mark, name = next(known for known in _MARKS if body.startswith(known[0]))
        return Charset(name, declared=True, mark=len(mark))
    name = header or (_charset_in_markup(body[:_PRESCAN_BYTES]) if markup else None)
    return Charset(name, declared=True) if name else None


def undeclared_utf8(body: bytes, *, final: bool) -> bool:
    """Whether a body without a declaration is UTF-8, maybe with a fault here and there.

    Args:
        body: All of it, or its beginning.
        final: Whether it is all; otherwise its last character may be cut.
    """
    decoder = codecs.getincrementaldecoder("utf-8")
    try:
        decoder().decode(body, final)
    except UnicodeDecodeError:
        text = decoder("replace").decode(body[:_SAMPLE_BYTES])
        bad = text.count("\ufffd")
        good = sum(1 for char in text if char >= "\x80") - bad
        return good > _GOOD_PER_BAD * bad
    return True


def detected_charset(body: bytes) -> str:
    """Return the charset that a body, not UTF-8, is most likely in. Meant for a worker process.

    Args:
        body: Its beginning; no more than 64 KiB are looked at.
    """
    sample = body[:_SAMPLE_BYTES]
    high = len(_HIGH.findall(sample))
    letters = high + len(_LETTERS.findall(sample))
    mostly_latin = high <= _SHARE_OF_LATIN * letters
    if mostly_latin or not _ADJACENT.search(sample):
        text = sample.decode("cp1252", "replace")
        if _WESTERN.issuperset(char for char in text if char >= "\x80"):
            return "cp1252"
    normalizer: Any = importlib.import_module("charset_normalizer")
    candidates = [*(_LATIN_SCRIPTS if mostly_latin else ()), *_OTHER_SCRIPTS]
    best = normalizer.from_bytes(sample, cp_isolation=candidates).best()
    return "cp1252" if best is None else codecs.lookup(best.encoding).name


def _charset_in_markup(start: bytes) -> str | None:
    found = _XML_ENCODING.match(start)
    label = found[1] if found else _label_of_meta(_COMMENT.sub(b"", start))
    name = charset_of_label(label.decode("latin-1")) if label else None
    # A page that could be read as ASCII this far is not in UTF-16, whatever it says.
    return "utf-8" if name is not None and name.startswith("utf-16") else name


def _label_of_meta(start: bytes) -> bytes | None:
    for meta in _META.finditer(start):
        attributes: dict[bytes, bytes] = {}
        for name, double, single, bare in _ATTRIBUTE.findall(meta[1]):
            attributes.setdefault(name.lower(), double or single or bare)
        if attributes.get(b"charset"):
            return attributes[b"charset"]
        if attributes.get(b"http-equiv", b"").strip().lower() == b"content-type":
            found = _IN_CONTENT.search(attributes.get(b"content", b""))
            if found:
                return found[1]
    return None
