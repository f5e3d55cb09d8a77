"""The pages for people: HTML files without a build step, each with the same script and style.

A page runs only its own script: its policy has the hash of the script and forbids all others.

    dashboard.html   all activity, for the HTTP server and for `trio-tools dashboard`
    operation.html   one operation, in a frame of a host that shows MCP Apps
    view.js          draws an operation
    style.css        the style, light and dark
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Final, Literal, NamedTuple

_POLICY: Final = "{{ policy }}"


class Page(NamedTuple):
    """A complete page.

    Attributes:
        html: The whole page.
        policy: Its content security policy, without the directives that are valid only in
            headers.
    """

    html: str
    policy: str


@cache
def page(name: Literal["dashboard", "operation"]) -> Page:
    """Return a page with its script and its style included.

    Args:
        name: File name without its extension.
    """
    html = _read(f"{name}.html")
    for part in ("style.css", "view.js"):
        html = html.replace(f"/* {part} */", _read(part))
    policy = (
        f"default-src 'none'; script-src {_hash(html, 'script')}; "
        f"style-src {_hash(html, 'style')}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return Page(html.replace(_POLICY, policy), policy)


def _read(name: str) -> str:
    return files("trio_tools.live.pages").joinpath(name).read_text("utf-8")


def _hash(html: str, tag: str) -> str:
    inside = html.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    digest = hashlib.sha256(inside.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
