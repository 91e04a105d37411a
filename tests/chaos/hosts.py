"""Hosts for chaos: network namespaces behind one router, each to be cut off from any service without a word.

    the tests, Postgres, model service, store            one host of them
    root namespace  [one address a service] ── router ── [name]
                                                └─────── [name]

Each service has an address of its own, so that a host can lose one and keep the others. What a cut drops, it drops
in the router, in both directions: no reset, no ICMP, and both ends still have their link.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Self

_NAME = re.compile(r"asynch-([0-9]+)-[a-z0-9]+")
#: 198.18.0.0/15 is for tests between networks (RFC 2544): nobody's real machines are there
_NETS = 512
_FORWARD = "echo 1 > /proc/sys/net/ipv4/ip_forward"
#: a host has a name of its own too; exec, because the process that is started is the one to be killed
_NAMED = 'hostname "$0" && exec "$@"'


class NetworkError(Exception):
    """The network cannot be made, or changed, as it was asked for; the text says why."""


@dataclass(eq=False)
class Host:
    """One machine: a namespace with one line to the router."""

    name: str
    address: str
    network: Network
    _cuts: set[str] = field(default_factory=set)

    @property
    def namespace(self) -> str:
        """As `ip netns` knows it."""
        return self.network.namespace(self.name)

    @property
    def inside(self) -> list[str]:
        """The beginning of a command line that is to run on this host."""
        return ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "sh", "-c", _NAMED, self.name]

    def cut(self, service: str) -> None:
        """Let no packet through between this host and the service at this address, and say so to nobody."""
        self._cuts.add(service)
        self._rules("add", service)

    def mend(self) -> None:
        """Let everything through again."""
        while self._cuts:
            self._rules("del", self._cuts.pop())

    def lose(self) -> None:
        """Remove it as a loss of power would: nobody hears a word of it."""
        _ip("-n", self.network.router, "link", "set", self.name, "down")
        self.remove()

    def remove(self) -> None:
        """End what runs on it, and take it off the network."""
        self.mend()
        if self.namespace in _namespaces():
            _ip("-n", self.network.router, "link", "del", self.name)  # else it goes at a time of its own
            _remove(self.namespace)

    def _rules(self, verb: str, service: str) -> None:
        out = ["iif", self.name, "to", service]
        back = ["iif", "uplink", "from", service, "to", self.address]
        for way in (out, back):
            _ip("-n", self.network.router, "rule", verb, *way, "priority", "10", "type", "blackhole")


class Network:
    """A router and the services' addresses on this side of it: `with Network() as network: network.add("a")`.

    Names have this process's id; what one that was killed left behind is removed. Raises NetworkError.
    """

    def __init__(self) -> None:
        pid = os.getpid()
        net = pid % _NETS
        self._net = f"198.{18 + net // 256}.{net % 256}"
        self._link = f"asy{pid}"
        self.router = self.namespace("router")
        self.base, self.model, self.store = (f"{self._net}.{n}" for n in (2, 3, 4))  #: the services' addresses
        self._numbers = count()

    @staticmethod
    def namespace(name: str) -> str:
        """The full name of a namespace of this process."""
        return f"asynch-{os.getpid()}-{name}"

    def add(self, name: str) -> Host:
        """A new host, which reaches every service."""
        first = 16 + 4 * next(self._numbers)
        gate, address = f"{self._net}.{first + 1}", f"{self._net}.{first + 2}"
        host = Host(name, address, self)
        _ip("netns", "add", host.namespace)
        _ip("-n", self.router, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
        _link_up(self.router, name, f"{gate}/30")
        _link_up(host.namespace, "eth0", f"{address}/30")
        _ip("-n", host.namespace, "link", "set", "lo", "up")
        _ip("-n", host.namespace, "route", "add", "default", "via", gate)
        return host

    def __enter__(self) -> Self:
        if os.geteuid() != 0 or shutil.which("ip") is None:
            raise NetworkError("network namespaces need root and iproute2's `ip`")
        _remove_left_over()
        try:
            self._build()
        except BaseException:
            self._clear()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._clear()

    def _build(self) -> None:
        _ip("netns", "add", self.router)
        _run("ip", "netns", "exec", self.router, "sh", "-c", _FORWARD)
        _ip(
            "-n",
            self.router,
            "link",
            "add",
            "uplink",
            "type",
            "veth",
            "peer",
            "name",
            self._link,
            "netns",
            str(os.getpid()),
        )
        _link_up(self.router, "uplink", f"{self._net}.6/29")
        _ip("link", "set", self._link, "up")
        # The tests' own address comes first, so that what they ask a host does not seem to come from a service.
        for address in (f"{self._net}.1", self.base, self.model, self.store):
            _ip("address", "add", f"{address}/29", "dev", self._link)
        _ip("route", "add", f"{self._net}.0/24", "via", f"{self._net}.6")

    def _clear(self) -> None:
        for name in _namespaces():
            if name.startswith(self.namespace("")):
                _remove(name)
        with suppress(NetworkError):  # it went with the router, or was never made
            _ip("link", "del", self._link)


def _link_up(namespace: str, link: str, address: str) -> None:
    _ip("-n", namespace, "address", "add", address, "dev", link)
    _ip("-n", namespace, "link", "set", link, "up")


def _remove_left_over() -> None:
    """Remove the namespaces of test runs that were killed; their processes should be dead already."""
    for name in _namespaces():
        match = _NAME.fullmatch(name)
        if match and (int(match[1]) == os.getpid() or not Path("/proc", match[1]).exists()):
            _remove(name)


def _namespaces() -> list[str]:
    return [line.split()[0] for line in _ip("netns", "list").splitlines() if line.strip()]


def _remove(namespace: str) -> None:
    for pid in _ip("netns", "pids", namespace).split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    _ip("netns", "del", namespace)


def _ip(*args: str) -> str:
    return _run("ip", *args)


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise NetworkError(f"`{' '.join(argv)}`: {done.stderr.strip()}")
    return done.stdout
