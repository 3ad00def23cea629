"""Which addresses of the network may be fetched from: those of the public internet, and no others."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = (
    ipaddress.IPv6Network("64:ff9b::/96"),
    ipaddress.IPv6Network("64:ff9b:1::/48"),
)  # RFC 6052, RFC 8215
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")  # IPv4-compatible (RFC 4291, 2.5.5.1), long out of use
# Public by their number, and yet doors to the inside: metadata services and platform endpoints of clouds.
_CLOUD_INSIDES = tuple(
    ipaddress.ip_network(network)
    for network in ("168.63.129.16/32", "100.100.100.200/32", "fd00:ec2::254/128", "192.0.0.192/32")
)


def embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for (mapped, 6to4, Teredo, NAT64, compatible), else itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    inside = address.ipv4_mapped or address.sixtofour
    if inside is None and address.teredo is not None:
        inside = address.teredo[1]
    if inside is None and any(address in network for network in _NAT64):
        inside = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if inside is None and address in _COMPATIBLE and int(address) > 1:
        inside = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return inside or address


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet (IANA's special-purpose registries say so).

    Of IPv6 addresses that stand for IPv4 ones, mapped ones and those of the well-known NAT64 prefix count as what
    they stand for; the other ways (6to4, Teredo, compatible, local NAT64) lead through machines that nobody knows.
    """
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        return False
    inner = embedded(address)
    if inner is not address and not (address in _MAPPED or address in _NAT64[0]):
        return False
    if any(inner in network for network in _CLOUD_INSIDES if network.version == inner.version):
        return False
    if (
        inner.is_multicast
        or inner.is_unspecified
        or inner.is_loopback
        or inner.is_link_local
        or inner.is_reserved
    ):
        return False
    return inner.is_global


def may_reach(address: Address, allowed: Iterable[Network]) -> bool:
    """Whether to connect to an address: a public one, or one of the networks that the operator has named."""
    inner = embedded(address)
    if any(inner in network for network in allowed if network.version == inner.version):
        return True
    return is_public(address)
