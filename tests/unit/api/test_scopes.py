"""Scopes and tiers: a table of literals, and what must hold for all of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bindaddress
from controller.api import scopes
from controller.api.scopes import HostPort, Kind, Scope, Want

V4, V6, NAME = Kind.IPV4, Kind.IPV6, Kind.HOSTNAME
PUBLIC, CLOUD, FAN, MACHINE, LINK, UNKNOWN = (
    Scope.PUBLIC,
    Scope.LOCAL_CLOUD,
    Scope.LOCAL_FAN,
    Scope.LOCAL_MACHINE,
    Scope.LINK_LOCAL,
    Scope.UNKNOWN,
)

TABLE = [
    # RFC 1918, and its edges from both sides.
    ("10.0.0.0", V4, CLOUD),
    ("10.0.0.1", V4, CLOUD),
    ("10.255.255.255", V4, CLOUD),
    ("9.255.255.255", V4, PUBLIC),
    ("11.0.0.0", V4, PUBLIC),
    ("172.15.255.255", V4, PUBLIC),
    ("172.16.0.0", V4, CLOUD),
    ("172.31.255.255", V4, CLOUD),
    ("172.32.0.0", V4, PUBLIC),
    ("192.167.255.255", V4, PUBLIC),
    ("192.168.0.0", V4, CLOUD),
    ("192.168.255.255", V4, CLOUD),
    ("192.169.0.0", V4, PUBLIC),
    # This machine.
    ("127.0.0.1", V4, MACHINE),
    ("127.255.255.254", V4, MACHINE),
    ("126.255.255.255", V4, PUBLIC),
    ("128.0.0.0", V4, PUBLIC),
    ("::1", V6, MACHINE),
    # This link.
    ("169.254.0.1", V4, LINK),
    ("169.254.169.254", V4, LINK),
    ("169.253.255.255", V4, PUBLIC),
    ("169.255.0.0", V4, PUBLIC),
    ("224.0.0.1", V4, LINK),
    ("fe80::1", V6, LINK),
    ("fe80::1%eth0", V6, LINK),
    ("febf:ffff::1", V6, LINK),
    ("fec0::1", V6, PUBLIC),
    ("ff01::1", V6, LINK),
    ("ff02::1", V6, LINK),
    # The fan, up to the broadcast address, which is nobody's.
    ("240.0.0.1", V4, FAN),
    ("250.1.2.3", V4, FAN),
    ("255.255.255.254", V4, FAN),
    ("255.255.255.255", V4, UNKNOWN),
    # Unique local IPv6.
    ("fc00::1", V6, CLOUD),
    ("fd12:3456:789a::1", V6, CLOUD),
    ("fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", V6, CLOUD),
    ("fbff::1", V6, PUBLIC),
    ("fe00::1", V6, PUBLIC),
    # An IPv4 address in IPv6 clothes is what it is underneath; other embeddings are not looked into.
    ("::ffff:10.0.0.1", V4, CLOUD),
    ("::ffff:a00:1", V4, CLOUD),
    ("::ffff:127.0.0.1", V4, MACHINE),
    ("::ffff:169.254.1.1", V4, LINK),
    ("::ffff:8.8.8.8", V4, PUBLIC),
    ("::ffff:240.0.0.1", V4, FAN),
    ("::ffff:0.0.0.0", V4, UNKNOWN),
    ("64:ff9b::a00:1", V6, PUBLIC),
    ("2002:a00:1::1", V6, PUBLIC),
    ("::10.0.0.1", V6, PUBLIC),
    # Public, also where Python says "private" or "reserved".
    ("8.8.8.8", V4, PUBLIC),
    ("1.1.1.1", V4, PUBLIC),
    ("223.255.255.255", V4, PUBLIC),
    ("100.64.0.1", V4, PUBLIC),
    ("100.127.255.254", V4, PUBLIC),
    ("192.0.2.1", V4, PUBLIC),
    ("198.18.0.1", V4, PUBLIC),
    ("198.51.100.7", V4, PUBLIC),
    ("203.0.113.9", V4, PUBLIC),
    ("2001:db8::1", V6, PUBLIC),
    ("2600:1f18::1", V6, PUBLIC),
    ("2001:4860:4860::8888%eth1", V6, PUBLIC),
    # Nobody, or everybody.
    ("0.0.0.0", V4, UNKNOWN),
    ("::", V6, UNKNOWN),
    ("239.1.1.1", V4, UNKNOWN),
    ("224.0.1.1", V4, UNKNOWN),
    ("ff0e::1", V6, UNKNOWN),
    # Names, and what only looks like an address.
    ("controller.example.com", NAME, UNKNOWN),
    ("localhost", NAME, UNKNOWN),
    ("ip6-localhost", NAME, UNKNOWN),
    ("10.0.0.1.example.com", NAME, UNKNOWN),
    ("10.0.0", NAME, UNKNOWN),
    ("10.0.0.256", NAME, UNKNOWN),
    ("010.0.0.1", NAME, UNKNOWN),
    ("10.0.0.1%eth0", NAME, UNKNOWN),
    ("10.0.0.1/24", NAME, UNKNOWN),
    ("[::1]", NAME, UNKNOWN),
    ("", NAME, UNKNOWN),
]
IDS = [row[0] or "empty" for row in TABLE]
LITERALS = [row[0] for row in TABLE]


def test_the_table_is_worth_its_name():
    assert len({row[0] for row in TABLE}) == len(TABLE) >= 60


@pytest.mark.parametrize(("value", "kind", "scope"), TABLE, ids=IDS)
def test_kind_and_scope(value: str, kind: Kind, scope: Scope):
    assert (scopes.kind_of(value), scopes.scope_of(value)) == (kind, scope)


@pytest.mark.parametrize(("value", "kind", "scope"), TABLE, ids=IDS)
def test_the_charm_that_chooses_bind_addresses_sees_the_same_scope(value: str, kind: Kind, scope: Scope):
    # The charm may import nothing of this package, so it has its own. It has no word for a multicast group.
    ip = scopes.parse(value)
    if ip is None or ip.is_multicast or scope is UNKNOWN:
        assert bindaddress.scope_of(value) is bindaddress.Scope.UNKNOWN or "%" in value
    else:
        assert bindaddress.scope_of(value).value == scope.value


EVERY_KIND = (
    "127.0.0.1",
    "::1",
    "169.254.1.1",
    "fe80::1",
    "controller.example.com",
    "2001:db8::1",
    "8.8.8.8",
    "240.0.0.1",
    "fd00::1",
    "10.0.0.1",
)


@pytest.mark.parametrize(
    ("want", "ordered"),
    [
        (
            Want.CLOUD_LOCAL,
            ("10.0.0.1", "fd00::1", "240.0.0.1", "8.8.8.8", "controller.example.com", "2001:db8::1"),
        ),
        (
            Want.PUBLIC,
            ("8.8.8.8", "2001:db8::1", "10.0.0.1", "fd00::1", "240.0.0.1", "controller.example.com"),
        ),
        (
            Want.MACHINE_OR_CLOUD_LOCAL,
            (
                "127.0.0.1",
                "10.0.0.1",
                "::1",
                "fd00::1",
                "240.0.0.1",
                "8.8.8.8",
                "controller.example.com",
                "2001:db8::1",
            ),
        ),
    ],
)
def test_tiers(want: Want, ordered: tuple[str, ...]):
    assert scopes.prioritised(EVERY_KIND, want) == ordered


def test_the_best_are_those_of_the_first_tier_that_is_not_empty():
    assert scopes.best(["8.8.8.8", "10.0.0.2", "10.0.0.1"], Want.CLOUD_LOCAL) == ("10.0.0.2", "10.0.0.1")
    assert scopes.best(["8.8.8.8", "fd00::1", "240.0.0.1"], Want.CLOUD_LOCAL) == ("fd00::1",)
    assert scopes.best(["fe80::1", "127.0.0.1"], Want.CLOUD_LOCAL) == ()


@given(st.lists(st.sampled_from(LITERALS)), st.sampled_from(Want))
def test_prioritising_loses_nothing_that_can_be_used_and_keeps_the_order_inside_a_tier(values: list[str], want: Want):
    ordered = scopes.prioritised(values, want)

    assert sorted(ordered) == sorted(v for v in values if scopes.rank(v, want) is not None)
    assert [scopes.rank(v, want) for v in ordered] == sorted(scopes.rank(v, want) for v in ordered)
    for place in {scopes.rank(v, want) for v in ordered}:
        same = [v for v in values if scopes.rank(v, want) == place]
        assert [v for v in ordered if scopes.rank(v, want) == place] == same
    assert scopes.best(values, want) == ordered[: len(scopes.best(values, want))]


@pytest.mark.parametrize(
    "value", ["0.0.0.0", "::", "239.1.1.1", "ff0e::1", "255.255.255.255", "127.0.0.1", "fe80::1", ""]
)
def test_nobody_can_dial_an_address_of_a_machine_a_link_a_group_or_nobody(value: str):
    assert not scopes.can_be_dialled(value)


@pytest.mark.parametrize("value", ["10.0.0.1", "fd00::1", "240.0.0.1", "8.8.8.8", "controller.example.com"])
def test_the_rest_can_be_dialled(value: str):
    assert scopes.can_be_dialled(value)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.1:17070", "10.0.0.1", 17070),
        ("[fd00::1]:17070", "fd00::1", 17070),
        ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        ("controller.example.com:65535", "controller.example.com", 65535),
    ],
)
def test_host_and_port_survive_the_round_trip(text: str, host: str, port: int):
    assert scopes.hostport(text) == HostPort(host, port)
    assert str(scopes.hostport(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0.1",
        "10.0.0.1:",
        ":17070",
        "10.0.0.1:0",
        "10.0.0.1:65536",
        "10.0.0.1:x",
        "10.0.0.1:-1",
        "10.0.0.1:١",
        "fd00::1",
        "fd00::1:17070",
        "[]:1",
        "[10.0.0.1]:1",
    ],
)
def test_what_is_no_host_and_port_is_refused_by_name(text: str):
    with pytest.raises(ValueError) as refused:
        scopes.hostport(text)

    assert repr(text) in str(refused.value)
