"""Which addresses may be called: the table of facts, in every notation a resolver takes."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynch.errors import ErrorCode, ExecutorError
from asynch.executors.egress import Policy

#: what no setting allows
NEVER = [
    *("169.254.169.254", "169.254.0.1", "169.254.170.2", "100.100.100.200", "168.63.129.16", "0.0.0.0"),
    *("255.255.255.255", "224.0.0.1", "239.255.255.250", "::", "fe80::1", "ff02::1", "fd00:ec2::254"),
    *(
        "fd20:ce::254",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "169.254.43518",
        "0xa9.254.0xa9fe",
        "0",
    ),
    *("::ffff:169.254.169.254", "::169.254.169.254", "64:ff9b::169.254.169.254", "64:ff9b:1::a9fe:a9fe"),
    *("2002:a9fe:a9fe::1", "::ffff:100.100.100.200", "64:ff9b::168.63.129.16", "::ffff:0.0.0.0", "64:ff9b::"),
    # RFC 6052 with prefix lengths 48, 56 and 64; the last with a public address where 96 would put it
    *("64:ff9b:1:a9fe:a9:fe00::", "64:ff9b:1:a9:fe:a9fe::", "64:ff9b:1:0:a9:fea9:fe00:0"),
    *("64:ff9b:1:a9fe:a9:fe00:808:808", "64:ff9b:1::"),
]
LOOPBACK = [
    *(
        "127.0.0.1",
        "127.255.255.254",
        "::1",
        "2130706433",
        "0x7f000001",
        "0x7F.1",
        "017700000001",
        "0177.0.0.1",
    ),
    *("127.1", "127.0.1", "::ffff:127.0.0.1", "::ffff:7f00:1", "::127.0.0.1", "64:ff9b::127.0.0.1"),
    *("64:ff9b:1::127.0.0.1", "2002:7f00:1::"),
]
PRIVATE = [
    *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "198.18.0.1", "192.0.2.1"),
    *(
        "240.0.0.1",
        "192.88.99.1",
        "192.0.0.8",
        "0.0.0.8",
        "fc00::1",
        "fd12:3456::1",
        "fec0::1",
        "2001:db8::1",
    ),
    *(
        "3fff::1",
        "100::1",
        "2001::1",
        "4000::1",
        "::ffff:0:10.0.0.1",
        "167772161",
        "0xa000001",
        "012.0.0.1",
        "10.1",
    ),
    *("::ffff:10.0.0.1", "::10.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b:1::10.0.0.1", "2002:a00:1::"),
    *("64:ff9b:1:a00:0:100::", "::2"),
]
PUBLIC = [
    *("8.8.8.8", "1.1.1.1", "172.32.0.1", "134744072", "2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8"),
    *("64:ff9b::8.8.8.8", "64:ff9b:1::8.8.8.8", "2002:808:808::1", "64:ff9b:1:808:8:800::"),
]


def url(host: str) -> str:
    return f"http://[{host}]:8080/v1" if ":" in host else f"http://{host}:8080/v1"


def blocked(policy: Policy, host: str) -> bool:
    try:
        policy.early_check(url(host))
    except ExecutorError as exc:
        return exc.code is ErrorCode.EGRESS_BLOCKED
    return False


def test_a_block_is_never_transient() -> None:
    with pytest.raises(ExecutorError) as refusal:
        Policy().early_check("http://10.0.0.1/")
    assert not refusal.value.transient


@pytest.mark.parametrize("host", [*NEVER, *LOOPBACK, *PRIVATE])
def test_an_address_that_is_not_public_is_blocked(host: str) -> None:
    assert blocked(Policy(), host)


@pytest.mark.parametrize("host", PUBLIC)
def test_a_public_address_is_allowed(host: str) -> None:
    assert not blocked(Policy(), host)


@pytest.mark.parametrize("host", NEVER)
def test_nothing_allows_metadata_link_local_or_multicast(host: str) -> None:
    everything = Policy.parse(["0.0.0.0/0", "::/0", host], allow_loopback=True)
    assert blocked(everything, host)


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_is_allowed_where_the_server_listens_on_it(host: str) -> None:
    assert not blocked(Policy(allow_loopback=True), host)


@pytest.mark.parametrize("host", PRIVATE)
def test_allowing_loopback_allows_no_private_address(host: str) -> None:
    assert blocked(Policy(allow_loopback=True), host)


@pytest.mark.parametrize("host", ["10.0.0.1", "0xa000001", "10.1", "::ffff:10.0.0.1", "64:ff9b::10.0.0.1"])
def test_an_allowed_network_is_reached_in_every_form(host: str) -> None:
    assert not blocked(Policy.parse(["10.0.0.0/8"]), host)


def test_an_allowed_network_allows_no_other() -> None:
    assert blocked(Policy.parse(["10.0.0.0/24"]), "10.0.1.1")


def test_an_allowed_host_name_may_be_private() -> None:
    Policy.parse(["Model.LAN"]).check("model.lan.", ip_address("10.0.0.1"))


def test_an_allowed_host_name_allows_no_other_name() -> None:
    with pytest.raises(ExecutorError):
        Policy.parse(["model.lan"]).check("other.model.lan", ip_address("10.0.0.1"))


def test_an_allowed_host_name_cannot_lead_to_metadata() -> None:
    with pytest.raises(ExecutorError):
        Policy.parse(["model.lan"]).check("model.lan", ip_address("169.254.169.254"))


@pytest.mark.parametrize("denied", ["8.8.8.0/24", "8.8.8.8", "model.example"])
def test_a_denied_entry_wins_over_an_allowed_one(denied: str) -> None:
    policy = Policy.parse(["8.8.8.8", "model.example"], deny=[denied])
    with pytest.raises(ExecutorError):
        policy.check("model.example", ip_address("8.8.8.8"))


def test_a_denied_network_is_denied_inside_ipv6_too() -> None:
    assert blocked(Policy.parse([], deny=["8.8.8.0/24"]), "64:ff9b::8.8.8.8")


def test_a_name_is_not_judged_before_it_is_called() -> None:
    assert not blocked(Policy(), "metadata.invalid")


def test_the_refusal_tells_no_address() -> None:
    with pytest.raises(ExecutorError) as refusal:
        Policy().check("internal.example", ip_address("10.20.30.40"))
    assert "10.20.30.40" not in str(refusal.value)


@pytest.mark.parametrize("entry", ["", "10.0.0.1/8", "300.0.0.0/8", "http://h", "h:80", "*.lan", "a b"])
def test_a_bad_entry_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Policy.parse([entry])


@given(st.ip_addresses(v=4), st.sampled_from(["::ffff:0:0", "64:ff9b::", "64:ff9b:1::", "::"]))
def test_an_embedded_address_is_judged_as_the_inner_one(inner: IPv4Address, prefix: str) -> None:
    outer = IPv6Address(int(IPv6Address(prefix)) | int(inner))
    if int(outer) > 1:  # :: and ::1 are addresses of their own
        assert blocked(Policy(), str(outer)) == blocked(Policy(), str(inner))


@given(st.ip_addresses(v=4), st.integers(min_value=0, max_value=2**80 - 1))
def test_a_6to4_address_is_judged_as_the_inner_one(inner: IPv4Address, rest: int) -> None:
    outer = IPv6Address(0x2002 << 112 | int(inner) << 80 | rest)
    assert blocked(Policy(), str(outer)) == blocked(Policy(), str(inner))
