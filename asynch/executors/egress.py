"""Which addresses asynch may call; refuses everything but public ones and what an operator allowed."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from asynch.errors import ErrorCode, ExecutorError

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network
AddrInfo: TypeAlias = tuple[int, int, int, str, Any]


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in texts)


#: link-local and the clouds' metadata services, unspecified, multicast, broadcast: no setting allows them
_NEVER = _networks(
    *("0.0.0.0/32", "100.100.100.200/32", "168.63.129.16/32", "169.254.0.0/16", "224.0.0.0/4"),
    *("255.255.255.255/32", "::/128", "fe80::/10", "ff00::/8", "fd00:ec2::/32", "fd20:ce::254/128"),
)
#: what some versions of `ipaddress` take for global: IETF protocols, 6to4 relays, documentation
_NOT_PUBLIC = _networks("192.0.0.0/24", "192.88.99.0/24", "3fff::/20")
_GLOBAL_UNICAST = IPv6Network("2000::/3")  # all that IANA has given out
_IPV4_IN_LOW_BITS = _networks("::/96", "::ffff:0:0/96", "64:ff9b::/96")
_6TO4 = IPv6Network("2002::/16")
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")


@dataclass(frozen=True, slots=True)
class Policy:
    """Public addresses, and what an operator allowed besides; some are refused whatever was allowed."""

    allow: tuple[Network | str, ...] = ()
    deny: tuple[Network | str, ...] = ()
    allow_loopback: bool = False

    @classmethod
    def parse(cls, allow: Iterable[str], deny: Iterable[str] = (), *, allow_loopback: bool = False) -> Policy:
        """Build a policy from settings: each entry a CIDR, an address or a host name. Raises ValueError."""
        return cls(tuple(map(_entry, allow)), tuple(map(_entry, deny)), allow_loopback)

    def check(self, host: str, ip: Address) -> None:
        """Raise ExecutorError(EGRESS_BLOCKED) unless `ip`, an answer for `host`, may be called.

        The text tells no address: whoever registered the name need not learn what it is inside this network.
        """
        refusal = self._refusal(host.rstrip(".").lower(), ip)
        if refusal is not None:
            raise ExecutorError(ErrorCode.EGRESS_BLOCKED, f"{host} {refusal}", transient=False)

    def early_check(self, url: str) -> None:
        """As `check`, for a URL whose host is an address in any notation; names are judged when called."""
        host = urlsplit(url).hostname or ""
        for ip in addresses(literal(host, None)):
            self.check(host, ip)

    def _refusal(self, host: str, ip: Address) -> str | None:
        inner = _embedded(ip)
        reached = (ip, *inner)
        if any(_within(address, _NEVER) for address in reached):
            return "is an address that is never called"
        if host in self.deny or any(_within(address, self.deny) for address in reached):
            return "is denied by egress.deny"
        if host in self.allow or _within(ip, self.allow):
            return None
        if all(self._may_call(address) for address in inner or (ip,)):
            return None
        return "is not a public address and is not on the egress allow list"

    def _may_call(self, ip: Address) -> bool:
        return _is_public(ip) or (self.allow_loopback and ip.is_loopback) or _within(ip, self.allow)


def _entry(text: str) -> Network | str:
    text = text.strip()
    if "/" in text:
        return ip_network(text)
    with suppress(ValueError):
        return ip_network(text)
    if not text or any(char in ":@*" or char.isspace() for char in text):
        raise ValueError(f"{text!r} is neither a CIDR nor a host name")
    return text.rstrip(".").lower()


def _within(ip: Address, entries: Iterable[Network | str]) -> bool:
    return any(ip in entry for entry in entries if not isinstance(entry, str))


def _is_public(ip: Address) -> bool:
    if isinstance(ip, IPv6Address) and ip not in _GLOBAL_UNICAST:
        return False
    return ip.is_global and not ip.is_multicast and not _within(ip, _NOT_PUBLIC)


def _embedded(ip: Address) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses that a gateway may make of `ip`; where there are any, they are what is called."""
    if isinstance(ip, IPv4Address) or int(ip) <= 1:
        return ()
    if _within(ip, _IPV4_IN_LOW_BITS):
        return (_ipv4(int(ip)),)
    if ip in _6TO4:
        return (_ipv4(int(ip) >> 80),)
    return _local_nat64(int(ip)) if ip in _LOCAL_NAT64 else ()


def _local_nat64(ip: int) -> tuple[IPv4Address, ...]:
    # the prefix length is the network's own choice, so every reading of RFC 6052 (2.2) counts: 96, and, with
    # the reserved octet (bits 64 to 71) taken out, 48, 56 and 64
    if not ip >> 32 & (1 << 48) - 1:
        return (_ipv4(ip),)
    without_octet = (ip >> 64) << 56 | ip & (1 << 56) - 1
    readings = {ip, *(without_octet >> (88 - prefix) for prefix in (48, 56, 64))}
    found = {_ipv4(reading) for reading in readings}
    return tuple(found - {IPv4Address(0)} or found)


def _ipv4(bits: int) -> IPv4Address:
    return IPv4Address(bits & 0xFFFFFFFF)


def literal(host: str, port: int | None) -> Sequence[AddrInfo]:
    """Return what `host` means as an address in any notation of inet_aton (hex, octal, short), or []."""
    with suppress(OSError, UnicodeError):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    return []


def addresses(infos: Iterable[AddrInfo]) -> list[Address]:
    """Return the address of each answer of getaddrinfo."""
    return [ip_address(str(info[4][0]).partition("%")[0]) for info in infos]
