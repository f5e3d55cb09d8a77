"""The client of a proxied request: X-Forwarded-For and RFC 7239, from trusted proxies only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

from starlette.types import Scope

_FOR: Final = re.compile(r"""for=("?)([^;,"]+)\1""", re.IGNORECASE)
_PROTO: Final = re.compile(r"proto=\"?(https?)\"?", re.IGNORECASE)


class TrustedProxies:
    """The proxies whose forwarding headers are trusted.

    Args:
        networks: Their addresses, or networks of them.
    """

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks: list[IPv4Network | IPv6Network] = [
            ip_network(network, strict=False) for network in networks
        ]

    def trusts(self, host: str) -> bool:
        """Whether an address is that of a trusted proxy."""
        try:
            address = ip_address(host)
        except ValueError:
            return host == "unix" and bool(self._networks)
        return any(address in network for network in self._networks)

    def resolve(self, scope: Scope, headers: dict[bytes, bytes]) -> Scope:
        """Return the scope with the client and its scheme, as reported by a proxy.

        The client is the last address that is not a trusted proxy. It may have written the
        addresses before that one itself.
        """
        if not self._networks or not self.trusts(scope["client"][0]):
            return scope
        if b"forwarded" in headers:
            told = headers[b"forwarded"].decode("latin-1")
            hops = [_bare(match[2]) for match in _FOR.finditer(told)]
            proto = _PROTO.search(told)
            scheme = proto[1] if proto else None
        else:
            told = headers.get(b"x-forwarded-for", b"").decode("latin-1")
            hops = [_bare(each) for each in told.split(",") if each.strip()]
            scheme = headers.get(b"x-forwarded-proto", b"").decode("latin-1").strip() or None
        client = next((hop for hop in reversed(hops) if not self.trusts(hop)), None)
        found = {**scope}
        if client is not None:
            found["client"] = (client, 0)
        if scheme is not None and scheme.lower() in {"http", "https"}:
            found["scheme"] = scheme.lower()
        return found


def _bare(hop: str) -> str:
    """Return an address without its port and brackets."""
    hop = hop.strip().strip('"')
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
