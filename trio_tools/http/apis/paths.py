"""Checks whether a path may be called, in every form that a server may decode it to.

Servers, proxies and frameworks differ in how often they decode, and in the characters that they
treat as a slash. So a path is refused if any of its decoded forms could go up, begin a host, or
leave the prefixes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote, unquote

from trio_tools.http.wire.errors import Code, FetchRefused

_MAX_DECODINGS = 3
_WRONG = re.compile(r"[\x00-\x1f\x7f\\?#]")
_ENCODED_SLASH = re.compile(r"%(2f|5c)", re.IGNORECASE)
_KEEP = "!$&'()*+,;=:@/%-._~"


def check_path(path: str, prefixes: Sequence[str], *, api: str) -> str:
    """Return the path in the escaped form for a request line.

    Args:
        path: The caller's path; begins with "/" and has no query.
        prefixes: Allowed prefixes, compared segment by segment: "/v1" allows "/v1/x", not "/v10".
        api: Name of the API, for the message.

    Raises:
        FetchRefused: `BLOCKED_PATH`.
    """
    form = path
    for _ in range(_MAX_DECODINGS):
        _check_form(form, prefixes, api)
        decoded = unquote(form)
        if decoded == form:
            break
        form = decoded
    else:
        raise _refused(api, "it is escaped again and again", prefixes)
    try:
        return quote(path, safe=_KEEP)
    except UnicodeEncodeError as exc:
        raise _refused(api, "it contains a lone surrogate", prefixes) from exc


def _check_form(form: str, prefixes: Sequence[str], api: str) -> None:
    if not form.startswith("/"):
        raise _refused(api, 'it does not begin with "/"', prefixes)
    if "//" in form:
        raise _refused(api, "it contains an empty segment", prefixes)
    if _WRONG.search(form):
        raise _refused(
            api, "it contains a backslash, a control character or a query (use `query`)", prefixes
        )
    if _ENCODED_SLASH.search(form):
        raise _refused(api, "it contains an escaped slash", prefixes)
    # Servers that support path parameters treat "..;x" as "..".
    if any(segment.partition(";")[0].strip() in {".", ".."} for segment in form.split("/")):
        raise _refused(api, 'it contains "." or ".." as a segment', prefixes)
    if not any(_begins_with(form, prefix) for prefix in prefixes):
        raise _refused(api, "it is outside the allowed prefixes", prefixes)


def _begins_with(path: str, prefix: str) -> bool:
    whole = prefix.rstrip("/")
    return path == whole or path.startswith(whole + "/")


def _refused(api: str, reason: str, prefixes: Sequence[str]) -> FetchRefused:
    return FetchRefused(
        f"{api} may not be called with this path: {reason}.",
        code=Code.BLOCKED_PATH,
        remediation=f"Give a plain path that begins with {' or '.join(prefixes)}, or let the "
        "operator extend `allowed_path_prefixes`.",
    )
