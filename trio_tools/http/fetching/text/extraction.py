"""A page as Markdown. Runs in a worker process, so it imports no module of this package.

Articles go through trafilatura, which finds the main text and drops its surroundings. Other pages
(lists of links, tables, definitions, forms) are converted as a whole by html-to-markdown, since
their surroundings are the content. Feeds and other XML are converted to text, element by element.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

# A page is an article if it has this much text in sentences: as a share of its text, or in total.
_ARTICLE_SHARE = 0.25
_ARTICLE_CHARS = 3_000
_SENTENCE_CHARS = 25
_SHELL_CHARS = 60
_MAX_CHARS = 5_000_000
_MAX_XML_LINES = 50_000
_MAX_INDENT = 10
_MAX_LINKS = 2_000
_MAX_LINK_CHARS = 2_000
_LINK = re.compile("https?://", re.IGNORECASE)
_NO_TEXT = ("script", "style", "noscript", "template", "svg", "head")
_DECLARATION = re.compile(r"\s*<\?xml[^>]*\?>")
_UNSEEN = re.compile(
    r"<(script|style|noscript|template|svg|head|title)\b.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)",
    re.IGNORECASE | re.DOTALL,
)
_TAG = re.compile(r"<[^<>]*>")
_SPACES = re.compile(r"\s+")
_LANGUAGE = re.compile(r"[A-Za-z]{1,8}(?:-[A-Za-z0-9]{1,8}){0,4}\Z")
_ITEMS = frozenset({"item", "entry"})
_DATES = ("pubDate", "published", "updated", "date")
_TEXTS = ("encoded", "content", "description", "summary")


class Extracted(NamedTuple):
    """The text of a page.

    Attributes:
        text: Markdown.
        title: As declared by the page; None without a declaration.
        canonical_url: Absolute, as declared by the page.
        language: As declared by the page.
        is_shell: Whether it has almost no text, and scripts that would create it.
        links: The targets of its first 2,000 links, absolute, without fragments, each once.
    """

    text: str
    title: str | None = None
    canonical_url: str | None = None
    language: str | None = None
    is_shell: bool = False
    links: tuple[str, ...] = ()


def extract_markdown(
    markup: str, url: str, *, is_xml: bool = False, with_links: bool = False
) -> Extracted:
    """Return a page as Markdown: its main text, or the whole page if it is not an article.

    Args:
        markup: HTML or XML.
        url: Its URL; links are resolved against it.
        is_xml: Whether it is XML other than HTML.
        with_links: Whether the links of HTML are requested.

    Raises:
        ImportError: A library is not installed.
    """
    markup = _DECLARATION.sub("", markup, count=1).replace("\0", "")
    if is_xml:
        found = _of_xml(markup, url)
        if found.text:
            return found
    found = _of_html(markup, url, with_links=with_links)
    return found._replace(text=found.text[:_MAX_CHARS])


def _of_html(markup: str, url: str, *, with_links: bool) -> Extracted:
    # It has no types, and takes half a second to load.
    etree: Any = importlib.import_module("lxml.etree")
    html: Any = importlib.import_module("lxml.html")
    try:
        root = html.document_fromstring(markup)
    except etree.ParserError:  # it is empty
        return Extracted("")
    title = _squeezed(root.findtext(".//title") or "")
    canonical = next(iter(root.xpath("//link[@rel='canonical']/@href")), "")
    language = (root.get("lang") or "").strip()
    links = _links_of(root, url) if with_links else ()
    has_scripts = root.find(".//script") is not None
    etree.strip_elements(root, etree.Comment, *_NO_TEXT, with_tail=False)
    total, sentences = _amounts(root)
    text = ""
    if sentences >= min(_ARTICLE_SHARE * total, _ARTICLE_CHARS):
        text = _article(markup, url)
    if len(text) < sentences / 10 or not text:
        text = _whole(markup, url)
    if not any(char.isalnum() for char in text):
        # Very deeply nested elements are beyond the libraries.
        text = _stripped(markup) or text
    return Extracted(
        text,
        title=title or None,
        canonical_url=_joined(url, canonical) if canonical else None,
        language=language if _LANGUAGE.match(language) else None,
        is_shell=total < _SHELL_CHARS and has_scripts,
        links=links,
    )


def _links_of(root: Any, url: str) -> tuple[str, ...]:
    base = next(iter(root.xpath("//base/@href")), "")
    base = _joined(url, base) if base else url
    links: dict[str, None] = {}
    for element in root.iter("a", "area"):
        link = _joined(base, element.get("href") or "").partition("#")[0]
        if _LINK.match(link) and len(link) <= _MAX_LINK_CHARS:
            links[link] = None
            if len(links) == _MAX_LINKS:
                break
    return tuple(links)


def _article(markup: str, url: str) -> str:
    trafilatura: Any = importlib.import_module("trafilatura")
    text: str | None = trafilatura.extract(
        markup, url=url, output_format="markdown", include_links=True, include_tables=True
    )
    return text or ""


def _whole(markup: str, url: str | None) -> str:
    library: Any = importlib.import_module("html_to_markdown")
    options = library.ConversionOptions(
        base_url=url,
        extract_metadata=False,
        compact_tables=True,
        preprocessing=library.PreprocessingOptions(remove_forms=False, remove_navigation=False),
    )
    return str(library.convert(markup, options).content or "").strip()


def _stripped(markup: str) -> str:
    """Return the text of a page that no library could convert: everything outside of tags."""
    return _squeezed(_TAG.sub(" ", _UNSEEN.sub(" ", markup)))


def _amounts(root: Any) -> tuple[int, int]:
    """Return the number of characters of text, and of those in sentences outside of links."""
    total = sentences = 0
    for element in root.iter():
        in_link = element.tag == "a"
        for piece, counts in ((element.text, not in_link), (element.tail, True)):
            size = len(piece.strip()) if piece else 0
            total += size
            if counts and size >= _SENTENCE_CHARS:
                sentences += size
    return total, sentences


def _of_xml(markup: str, url: str) -> Extracted:
    etree: Any = importlib.import_module("lxml.etree")
    parser = etree.XMLParser(
        recover=True, resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False
    )
    root = etree.fromstring(markup.encode("utf-8", "replace"), parser)
    if root is None:
        return Extracted("")
    language = root.get("{http://www.w3.org/XML/1998/namespace}lang") or ""
    items = [element for element in root.iter() if _name(element) in _ITEMS]
    if items:
        channel = next((child for child in root if _name(child) == "channel"), root)
        title = _child(channel, "title")
        language = language or _child(channel, "language")
        head = [f"# {title}"] * bool(title), [_child(channel, "description", "subtitle")]
        blocks = [block for part in head for block in part if block]
        blocks += [_item(item, url) for item in items]
        text = "\n\n".join(blocks)
    else:
        title, text = "", "\n".join(_outline(etree, root))
    return Extracted(
        text[:_MAX_CHARS],
        title=title or None,
        language=language if _LANGUAGE.match(language) else None,
    )


def _item(item: Any, url: str) -> str:
    """Return an entry of a feed: its title with its link, its date, its text."""
    link = _child(item, "link")
    if not link:
        links = [child for child in item if _name(child) == "link" and child.get("href")]
        links.sort(key=lambda child: child.get("rel", "alternate") != "alternate")
        link = links[0].get("href") if links else ""
    title = _child(item, "title") or link or "(without a title)"
    texts = (_child(item, name) for name in _TEXTS)
    text = max(texts, key=len)
    if "<" in text:
        text = _whole(text, url) or text
    heading = f"## [{title}]({_joined(url, link)})" if link else f"## {title}"
    return "\n\n".join(part for part in (heading, _child(item, *_DATES), text) if part)


def _outline(etree: Any, root: Any) -> Iterator[str]:
    """Yield a line for each element that has text or attributes, indented by its depth."""
    depth = count = 0
    for event, element in etree.iterwalk(root, events=("start", "end")):
        if event == "end":
            depth -= 1
            text = _squeezed(element.tail or "")
            line = f"{'  ' * min(depth, _MAX_INDENT)}{text}" if text else ""
        else:
            text = _squeezed(element.text or "")
            fields = ", ".join(f"{_local(key)}={value}" for key, value in element.attrib.items())
            label = f"{_name(element)} ({fields})" if fields else _name(element)
            line = f"{'  ' * min(depth, _MAX_INDENT)}- {label}{': ' if text else ''}{text}"
            depth += 1
        if line:
            yield line
            count += 1
            if count >= _MAX_XML_LINES:
                return


def _child(element: Any, *names: str) -> str:
    """Return the text of the first child that has one of `names`, and text."""
    for name in names:
        for child in element:
            if _name(child) == name and (text := _squeezed("".join(child.itertext()))):
                return text
    return ""


def _name(element: Any) -> str:
    return _local(element.tag) if isinstance(element.tag, str) else ""


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _squeezed(text: str) -> str:
    return _SPACES.sub(" ", text).strip()


def _joined(base: str, url: str) -> str:
    from urllib.parse import urljoin  # noqa: PLC0415 - where it is needed

    try:
        return urljoin(base, url.strip())
    except ValueError:
        return url
