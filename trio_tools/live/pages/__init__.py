"""The pages for people: HTML files without a build step, each with the script and style of all.

A page lets nothing run but its own script: its policy names the hash of it, and forbids the rest.

    dashboard.html   all that goes on, for the HTTP server and for `trio-tools dashboard`
    operation.html   one operation, in a frame of a host that shows MCP Apps
    view.js          how an operation is drawn
    style.css        how both look, light and dark
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Final, Literal, NamedTuple

_POLICY: Final = "{{ policy }}"


class Page(NamedTuple):
    """A page as it is sent.

    Attributes:
        html: All of it.
        policy: The content security policy that it needs, without directives for headers alone.
    """

    html: str
    policy: str


@cache
def page(name: Literal["dashboard", "operation"]) -> Page:
    """Return a page with its script and its style inside.

    Args:
        name: Of the file, without its ending.
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
