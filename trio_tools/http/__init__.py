"""HTTP for many URLs at once: bounded, guarded, and cheap per request.

The public names below load their modules when they are first used, because httpx, which only
`transport` needs, costs start-up time. Each module imports only from those above it:

    failures     what can go wrong with one URL
    urls         a URL, taken apart once                                  no I/O
    guard        may this client talk to that address?                    no I/O
    parser       replies from bytes, as a table of states                 no I/O
    framing      the head of a request, and how its body ends             no I/O
    decoding     gzip, deflate, br and zstd undone under a cap            no I/O
    headers      the header lines of a request                            no I/O
    pages        what a fetch may do, is asked for, and gives             no I/O
    connection   one connection: bytes out, bytes in
    connect      resolve, check every address, connect, TLS
    pool         which connection does a request get?
    exchange     one request and its reply
    replies      a reply's fields by name, its body up to a cap
    client       a pool for as long as a block lasts
    transport    `TrioTransport`: the engine behind httpx's interface
    extraction   the main text of a page, in a worker process             no I/O
    content      bytes into text, JSON or Markdown
    hosts        per-host limits that adapt to 429, 503 and slowness
    fetcher      `Fetcher`: what `fetch_urls` uses
    secrets      a secret that does not show itself                       no I/O
    apis         what an API may be called with, and gives                no I/O
    api_paths    may this path be called?                                 no I/O
    api          `ApiClient`: what `call_external_api` uses
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trio_tools.http.api import ApiClient
    from trio_tools.http.apis import ApiConfig, ApiReply
    from trio_tools.http.failures import (
        Code,
        FetchError,
        FetchRefused,
        FetchTimedOut,
        HostCoolingDown,
        InvalidRequest,
    )
    from trio_tools.http.fetcher import Fetcher
    from trio_tools.http.guard import Guard
    from trio_tools.http.pages import FetchConfig, FetchedPage, FetchRequest
    from trio_tools.http.pool import PoolLimits
    from trio_tools.http.transport import Caps, TrioTransport

__all__ = [
    "ApiClient",
    "ApiConfig",
    "ApiReply",
    "Caps",
    "Code",
    "FetchConfig",
    "FetchError",
    "FetchRefused",
    "FetchRequest",
    "FetchTimedOut",
    "FetchedPage",
    "Fetcher",
    "Guard",
    "HostCoolingDown",
    "InvalidRequest",
    "PoolLimits",
    "TrioTransport",
]

_HOMES = {
    "api": ("ApiClient",),
    "apis": ("ApiConfig", "ApiReply"),
    "failures": (
        "Code",
        "FetchError",
        "FetchRefused",
        "FetchTimedOut",
        "HostCoolingDown",
        "InvalidRequest",
    ),
    "fetcher": ("Fetcher",),
    "guard": ("Guard",),
    "pages": ("FetchConfig", "FetchRequest", "FetchedPage"),
    "pool": ("PoolLimits",),
    "transport": ("Caps", "TrioTransport"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
