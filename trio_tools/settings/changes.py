"""The differences between two settings, and which of them a running server can apply."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple, cast

from pydantic import BaseModel

from trio_tools.settings.settings import Settings

LIVE: Final = frozenset({"log_level", "limits", "clients", "apis", "upstreams"})
"""Settings and tables at the top level that a running server applies."""

LIVE_HTTP: Final = frozenset(
    {"tokens", "token_file", "insecure", "allowed_hosts", "allowed_origins"}
    | {"metrics_token", "metrics_token_file"}
    | {"max_calls_per_client", "calls_per_second_per_client"}
)
"""Those of `http`."""

CERTIFICATE: Final = frozenset(
    {"tls_cert_file", "tls_key_file", "tls_key_password", "tls_key_password_file"}
)
"""Those of `http` that a server applies if it already serves HTTPS."""


class Changes(NamedTuple):
    """Names of changed settings; in a table such as `apis`, each entry has its own name.

    Attributes:
        taken: Those that a running server applies now.
        needs_restart: Those that take effect after the next start.
    """

    taken: tuple[str, ...]
    needs_restart: tuple[str, ...]


def changes_between(before: Settings, after: Settings) -> Changes:
    """Return the differences."""
    live = _live_http(before, after)
    taken: list[str] = []
    needs_restart: list[str] = []
    for name in _differences(before, after, ""):
        top, _, rest = name.partition(".")
        is_live = rest.partition(".")[0] in live if top == "http" else top in LIVE
        (taken if is_live else needs_restart).append(name)
    return Changes(tuple(taken), tuple(needs_restart))


def settings_taken(before: Settings, after: Settings) -> Settings:
    """Return the settings of `before`, with those of `after` that a running server applies."""
    http = {name: getattr(after.http, name) for name in _live_http(before, after)}
    top = {name: getattr(after, name) for name in LIVE}
    return before.model_copy(update={**top, "http": before.http.model_copy(update=http)})


def _live_http(before: Settings, after: Settings) -> frozenset[str]:
    secure = before.http.tls_cert_file is not None and after.http.tls_cert_file is not None
    return LIVE_HTTP | CERTIFICATE if secure else LIVE_HTTP


def _differences(before: BaseModel, after: BaseModel, prefix: str) -> Iterator[str]:
    for name in type(after).model_fields:
        old, new = getattr(before, name), getattr(after, name)
        if old == new:
            continue
        if isinstance(old, BaseModel) and isinstance(new, BaseModel):
            yield from _differences(old, new, f"{prefix}{name}.")
        elif entries := _entries_that_differ(old, new):
            yield from (f"{prefix}{name}.{entry}" for entry in entries)
        else:
            yield f"{prefix}{name}"


def _entries_that_differ(old: Any, new: Any) -> list[str]:
    """Return the entry names of a table of sections; empty for any other value."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return []
    before, after = cast("dict[str, Any]", old), cast("dict[str, Any]", new)
    if not all(isinstance(each, BaseModel) for each in (*before.values(), *after.values())):
        return []
    return [each for each in {**before, **after} if before.get(each) != after.get(each)]
