"""The charset of a body: chosen as browsers do, and detected where nothing is declared.

Labels have the meaning in https://encoding.spec.whatwg.org, including supersets: "gb2312" is
gb18030 and "iso-8859-1" is windows-1252. Other codecs of Python cannot be selected by a label:
some take quadratic time (punycode, idna) or are not encodings of text.
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
# Labels that Python does not know, or whose codec in Python has fewer characters.
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
_SHARE_OF_LATIN = 0.3  # of all letters; no language in Latin script has more accents
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
    """A chosen charset.

    Attributes:
        name: A codec of Python.
        declared: Whether the server or the page declares it; otherwise it was detected.
        mark: Bytes of a byte order mark at the beginning, which are not part of the text.
    """

    name: str
    declared: bool
    mark: int = 0


@functools.lru_cache(maxsize=256)
def charset_of_label(label: str) -> str | None:
    """Return the codec of a label, as in browsers; None if the label is unknown."""
    labels: dict[str, str] = importlib.import_module("webencodings").LABELS
    name = labels.get(label.strip("\t\n\f\r ").lower())
    if name is None or name in _UNDECIDED:
        return None
    return codecs.lookup(_CODECS.get(name, name)).name


def declared_charset(body: bytes, header: str | None, *, markup: bool) -> Charset | None:
    """Return the declared charset: of a byte order mark, the header, a meta element or XML.

    Args:
        body: Its beginning.
        header: The charset of the Content-Type, from `charset_of_label`.
        markup: Whether it is HTML or XML, which can declare their charset.
    """
    if body.startswith(_ALL_MARKS):
        mark, name = next(known for known in _MARKS if body.startswith(known[0]))
        return Charset(name, declared=True, mark=len(mark))
    name = header or (_charset_in_markup(body[:_PRESCAN_BYTES]) if markup else None)
    return Charset(name, declared=True) if name else None


def undeclared_utf8(body: bytes, *, final: bool) -> bool:
    """Whether a body without a declaration is UTF-8, possibly with a few errors.

    Args:
        body: All of it, or its beginning.
        final: Whether it is the whole body; otherwise its last character may be incomplete.
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
    """Return the most likely charset of a body that is not UTF-8. Meant for a worker process.

    Args:
        body: Its beginning; at most 64 KiB are used.
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
    # A page that could be read as ASCII up to here is not in UTF-16, whatever it declares.
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
