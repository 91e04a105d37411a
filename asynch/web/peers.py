"""Where a request comes from: addresses and the networks they are in; a name is never looked up."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network


@lru_cache(64)
def _parsed(networks: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(text, strict=False) for text in networks)


def _address(text: str) -> IPv4Address | IPv6Address:
    """An address; one of IPv4 that came in by a socket of IPv6 is of IPv4. ValueError."""
    ip = ip_address(text)
    return getattr(ip, "ipv4_mapped", None) or ip


def within(address: str, networks: Sequence[str]) -> bool:
    """Whether an address is in one of these networks; what is no address is in none."""
    try:
        ip = _address(address)
    except ValueError:
        return False
    return any(ip in network for network in _parsed(tuple(networks)))


def client_of(peer: str, forwarded: str, trusted: Sequence[str]) -> str:
    """The nearest address that is not trusted, of the peer and those in front of it (X-Forwarded-For)."""
    hops = [hop.strip() for hop in forwarded.split(",") if hop.strip()]
    nearest = peer
    try:
        while hops and within(nearest, trusted):
            nearest = str(_address(hops.pop()))
    except ValueError:  # a hop that is no address says nothing about where the request comes from
        pass
    return nearest
