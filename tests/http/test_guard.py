from ipaddress import ip_address, ip_network

import pytest

from trio_tools.http.fetching.types import FetchConfig
from trio_tools.http.wire.address_policy import Guard
from trio_tools.http.wire.errors import Code, FetchRefused
from trio_tools.http.wire.urls import Origin

BLOCKED = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",  # Azure's own services
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "203.0.113.5",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",  # Teredo, client 127.0.0.1
    "2001:0:7f00:1:8000:63bf:3fff:fdd2",  # Teredo, server 127.0.0.1
    "2001:db8::1",
    "2002:7f00:1::",  # 6to4 of 127.0.0.1
    "2002:a9fe:a9fe::1",
    "2a00:1450::5efe:7f00:1",  # ISATAP of 127.0.0.1
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]
ALLOWED = [
    "1.1.1.1",
    "93.184.216.34",
    "2606:4700:4700::1111",
    "::ffff:1.1.1.1",
    "64:ff9b::101:101",
    "2002:101:101::1",
]


# The IANA special-purpose address registries, row by row (IPv4, then IPv6).
ROWS = """
0.0.0.0/8 0.0.0.0/32 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12
192.0.0.0/24 192.0.0.0/29 192.0.0.8/32 192.0.0.9/32 192.0.0.10/32 192.0.0.170/32 192.0.0.171/32
192.0.2.0/24 192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.88.99.2/32 192.168.0.0/16
192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4 255.255.255.255/32
::1/128 ::/128 64:ff9b:1::/48 100::/64 100:0:0:1::/64 2001::/23 2001::/32 2001:1::1/128
2001:1::2/128 2001:1::3/128 2001:2::/48 2001:3::/32 2001:4:112::/48 2001:10::/28 2001:20::/28
2001:30::/28 2001:db8::/32 2620:4f:8000::/48 3fff::/20 5f00::/16 fc00::/7 fe80::/10
"""
SPECIAL_PURPOSE = ROWS.split()
# Those that wrap an IPv4 address are decided by it.
WRAPPERS = ["::ffff:0:0/96", "64:ff9b::/96", "2002::/16"]


@pytest.mark.parametrize("row", SPECIAL_PURPOSE)
def test_no_address_of_a_special_purpose_registry_is_reached(row):
    network = ip_network(row)
    for address in (network[0], network[network.num_addresses // 2], network[-1]):
        with pytest.raises(FetchRefused):
            Guard().check_address("e.org", str(address))


@pytest.mark.parametrize("row", WRAPPERS)
def test_an_address_that_wraps_another_one_is_decided_by_it(row):
    network = ip_network(row)
    shift = 128 - network.prefixlen - 32
    for inner in [ip_network(special)[-1] for special in SPECIAL_PURPOSE if "." in special]:
        with pytest.raises(FetchRefused):
            Guard().check_address("e.org", str(network[int(inner) << shift]))
    Guard().check_address("e.org", str(network[int(ip_address("1.1.1.1")) << shift]))


@pytest.mark.parametrize("address", BLOCKED)
def test_an_address_that_is_not_of_the_public_internet_is_refused(address, caplog):
    caplog.set_level("INFO")
    with pytest.raises(FetchRefused) as caught:
        Guard().check_address("e.org", address)
    assert caught.value.error_code == Code.BLOCKED_ADDRESS
    assert caught.value.message == "e.org leads to an address that is not of the public internet."
    assert caplog.messages == [f"refused e.org, which resolved to {address}"]
    assert "`allow_hosts`" in caught.value.remediation
    assert "`allow_networks`" in caught.value.remediation
    with pytest.raises(FetchRefused, match="not of the public") as caught:
        FetchConfig().guard().check_address("e.org", address)
    assert "`fetch.allow_hosts`" in caught.value.remediation
    assert "`fetch.allow_networks`" in caught.value.remediation


@pytest.mark.parametrize("address", ALLOWED)
def test_a_public_address_is_allowed(address):
    Guard().check_address("e.org", address)


def test_networks_hosts_and_everything_can_be_allowed():
    Guard(allow_networks=(ip_network("10.0.0.0/8"),)).check_address("e.org", "10.1.2.3")
    Guard(allow_networks=(ip_network("10.0.0.0/8"),)).check_address("e.org", "::ffff:10.1.2.3")
    Guard(allow_hosts=frozenset({"intra"})).check_address("intra", "10.1.2.3")
    Guard(allow_private=True).check_address("e.org", "127.0.0.1")
    with pytest.raises(FetchRefused):
        Guard(allow_networks=(ip_network("10.0.0.0/8"),)).check_address("e.org", "127.0.0.1")
    with pytest.raises(FetchRefused):
        Guard(allow_hosts=frozenset({"intra"})).check_address("intra.evil.org", "10.1.2.3")


def test_schemes_and_ports_are_refused_by_name():
    guard = Guard(schemes=frozenset({"https"}))
    guard.check_origin(Origin("https", "e.org", 443))
    with pytest.raises(FetchRefused) as caught:
        guard.check_origin(Origin("http", "e.org", 80))
    assert caught.value.error_code == Code.BLOCKED_SCHEME
    with pytest.raises(FetchRefused) as caught:
        guard.check_origin(Origin("https", "e.org", 22))
    assert caught.value.error_code == Code.BLOCKED_PORT
    assert caught.value.message == (
        "Port 22 of e.org is not allowed; allowed are 80, 443, 8080, 8443."
    )
    Guard(ports=None).check_origin(Origin("http", "e.org", 22))
