"""HTTP for many URLs at once: bounded, guarded, and cheap per request.

Outgoing HTTP belongs here. The public names below load their modules at first use, because httpx,
which only `httpx_transport` needs, costs start-up time.

    wire              one request over one connection; the engine
    fetching          `Fetcher`: many URLs, many hosts, pages as text
    apis              `ApiClient`: configured APIs, by name
    httpx_transport   `TrioTransport`: the engine behind httpx's interface
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trio_tools.http.apis.client import ApiClient
    from trio_tools.http.apis.types import ApiConfig, ApiReply
    from trio_tools.http.fetching.fetcher import Fetcher
    from trio_tools.http.fetching.types import FetchConfig, FetchedPage, FetchRequest
    from trio_tools.http.httpx_transport import Caps, TrioTransport
    from trio_tools.http.wire.address_policy import Guard
    from trio_tools.http.wire.errors import (
        Code,
        FetchError,
        FetchRefused,
        FetchTimedOut,
        HostCoolingDown,
        InvalidRequest,
    )
    from trio_tools.http.wire.pool import PoolLimits

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
    "apis.client": ("ApiClient",),
    "apis.types": ("ApiConfig", "ApiReply"),
    "wire.errors": (
        "Code",
        "FetchError",
        "FetchRefused",
        "FetchTimedOut",
        "HostCoolingDown",
        "InvalidRequest",
    ),
    "fetching.fetcher": ("Fetcher",),
    "wire.address_policy": ("Guard",),
    "fetching.types": ("FetchConfig", "FetchRequest", "FetchedPage"),
    "wire.pool": ("PoolLimits",),
    "httpx_transport": ("Caps", "TrioTransport"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
