"""Checks whether a client may connect to an address. It checks addresses, never names.

A name can resolve to a public host now and to the metadata service of a cloud a second later. So
the guard checks each address of a name, and the connection is made to exactly the address that it
allowed. For addresses that contain another one (IPv4-mapped, 6to4, Teredo, NAT64, ISATAP) both
are checked.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from trio_tools.http.wire.errors import Code, FetchRefused, Phase
from trio_tools.http.wire.urls import Origin

_log = logging.getLogger(__name__)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# No web site has an address of the IANA special-purpose registries, also where they say "globally
# reachable": such a service (AS112, AMT, PCP, TURN) is whatever host of the network answers first,
# and that may be an internal one. `ipaddress` has some rows only in later releases of Python.
_NEVER_GLOBAL: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        "168.63.129.16/32",  # Azure's own services, reachable from each machine there
        "192.0.0.0/24",  # IETF protocol assignments
        "192.31.196.0/24",  # AS112: answers for names of private addresses
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relay anycast, deprecated
        "192.175.48.0/24",  # AS112
        "64:ff9b:1::/48",  # NAT64 with a local meaning
        "100::/64",  # discard
        "100:0:0:1::/64",  # dummy prefix
        "2001::/23",  # IETF protocol assignments; Teredo is unwrapped before
        "2001:db8::/32",  # documentation
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
        "fec0::/10",  # site-local, deprecated
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
_TEREDO = IPv6Network("2001::/32")
_IPV4_COMPATIBLE = IPv6Network("::/96")
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)
_LOW_32 = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Guard:
    """The allowed destinations. The fields alone determine every answer.

    Attributes:
        schemes: Allowed schemes.
        ports: Ports that may be connected to; None allows any.
        allow_private: Allow every address, also loopback, private and link-local ones.
        allow_hosts: Host names (lower case) and literal addresses that are trusted with any
            address. Meant for names that the operator controls.
        allow_networks: Networks allowed in addition to the globally routable addresses.
        section: Prefix of these names in the operator's settings, such as "fetch.".
    """

    schemes: frozenset[str] = frozenset({"http", "https"})
    ports: frozenset[int] | None = frozenset({80, 443, 8080, 8443})
    allow_private: bool = False
    allow_hosts: frozenset[str] = frozenset()
    allow_networks: tuple[Network, ...] = field(default=())
    section: str = ""

    def check_origin(self, origin: Origin) -> None:
        """Refuse a scheme or a port that is not allowed.

        Raises:
            FetchRefused: With the setting that would allow it.
        """
        if origin.scheme not in self.schemes:
            raise FetchRefused(
                f"The scheme {origin.scheme!r} is not allowed; allowed are "
                f"{', '.join(sorted(self.schemes))}.",
                code=Code.BLOCKED_SCHEME,
                remediation="Use an allowed scheme, or let the operator extend "
                f"`{self.section}schemes`.",
                phase=Phase.CONNECT,
            )
        if self.ports is not None and origin.port not in self.ports:
            raise FetchRefused(
                f"Port {origin.port} of {origin.host} is not allowed; allowed are "
                f"{', '.join(map(str, sorted(self.ports)))}.",
                code=Code.BLOCKED_PORT,
                remediation="Use an allowed port, or let the operator extend "
                f"`{self.section}ports`.",
                phase=Phase.CONNECT,
            )

    def check_address(self, host: str, address: str) -> None:
        """Refuse an address of `host` that must not be connected to.

        Raises:
            FetchRefused: With the settings that would allow it.
        """
        if self.allow_private or host in self.allow_hosts:
            return
        found = ip_address(address)
        if any(found in network for network in self.allow_networks):
            return
        for inner in _unwrapped(found):
            if not _is_global(inner) and not any(inner in net for net in self.allow_networks):
                # Only the operator sees the address, so that callers cannot map the names of an
                # intranet.
                _log.info("refused %s, which resolved to %s", host, address)
                raise FetchRefused(
                    f"{host} leads to an address that is not of the public internet.",
                    code=Code.BLOCKED_ADDRESS,
                    remediation="If this host is meant to be reached, let the operator add it to "
                    f"`{self.section}allow_hosts` or its network to "
                    f"`{self.section}allow_networks`.",
                    phase=Phase.CONNECT,
                )


def _is_global(address: Address) -> bool:
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(address in network for network in _NEVER_GLOBAL)
    )


def _unwrapped(address: Address) -> Iterator[Address]:
    """Yield the addresses that packets to `address` may finally reach, including itself.

    For an address that is only a wrapper (IPv4-mapped, NAT64), only the wrapped one is checked.
    """
    if isinstance(address, IPv4Address):
        yield address
        return
    low = IPv4Address(int(address) & _LOW_32)
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    elif address in _NAT64:
        yield low
    elif address in _TEREDO:
        server_and_client = address.teredo
        if server_and_client is not None:
            yield from server_and_client
    elif address.sixtofour is not None:
        yield address.sixtofour
    else:
        yield address
        if address in _IPV4_COMPATIBLE or (int(address) >> 32) & _LOW_32 in _ISATAP:
            yield low
