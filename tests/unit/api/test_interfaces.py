"""Which interfaces and addresses count, from messages as the kernel sends them."""

from __future__ import annotations

import ipaddress
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api import interfaces
from controller.api.interfaces import Interface

UP, DOWN = 0x1, 0x0


def attribute(kind: int, data: bytes) -> bytes:
    length = 4 + len(data)
    return struct.pack("=HH", length, kind) + data + bytes(-length % 4)


def link(index: int, name: str, flags: int = UP) -> bytes:
    return struct.pack("=BxHiII", 0, 1, index, flags, 0) + attribute(3, name.encode() + b"\0") + attribute(4, b"\0" * 4)


def address(index: int, text: str, *, flags: int = 0, peer: str = "") -> bytes:
    own = ipaddress.ip_interface(text)
    family = socket.AF_INET if own.version == 4 else socket.AF_INET6
    head = struct.pack("=BBBBI", family, own.network.prefixlen, flags & 0xFF, 0, index)
    if own.version == 6:
        body = attribute(1, own.ip.packed)
    else:
        body = attribute(1, ipaddress.ip_address(peer or str(own.ip)).packed) + attribute(2, own.ip.packed)
    return head + body + attribute(8, struct.pack("=I", flags))


def names(found: tuple[Interface, ...]) -> dict[str, list[str]]:
    return {i.name: [str(a) for a in i.addresses] for i in found}


def test_addresses_come_with_their_interface_and_network():
    found = interfaces.parse(
        [link(1, "lo"), link(2, "eth0")],
        [address(1, "127.0.0.1/8"), address(2, "10.0.0.5/24"), address(2, "fd00::5/64"), address(2, "10.0.0.6/24")],
    )

    assert names(found) == {"lo": ["127.0.0.1/8"], "eth0": ["10.0.0.5/24", "fd00::5/64", "10.0.0.6/24"]}


def test_an_interface_that_is_down_and_an_address_without_one_do_not_count():
    found = interfaces.parse(
        [link(2, "eth0", DOWN), link(3, "eth1")], [address(2, "10.0.0.5/24"), address(9, "10.1.0.5/24")]
    )

    assert names(found) == {"eth1": []}


def test_of_a_point_to_point_link_the_own_end_counts():
    found = interfaces.parse([link(2, "wg0")], [address(2, "10.9.0.1/32", peer="10.9.0.2")])

    assert names(found) == {"wg0": ["10.9.0.1/32"]}


@pytest.mark.parametrize(
    ("text", "flags", "counts"),
    [
        ("fd00::5/64", 0x40, False),  # tentative
        ("fd00::5/64", 0x48, False),  # found to be somebody else's
        ("fd00::5/64", 0x01, False),  # temporary, for privacy
        ("fd00::5/64", 0x20, False),  # deprecated
        ("fd00::5/64", 0x80, True),  # permanent
        ("fd00::5/64", 0x180, True),  # permanent, with one of the flags beyond eight bits
        ("10.0.0.5/24", 0x01, True),  # secondary: a second address in one network
        ("10.0.0.5/24", 0x80, True),
    ],
)
def test_an_address_that_is_not_there_for_good_does_not_count(text: str, flags: int, counts: bool):
    found = interfaces.parse([link(2, "eth0")], [address(2, text, flags=flags)])

    assert names(found) == {"eth0": [text] if counts else []}


@pytest.mark.parametrize(
    "name",
    [
        "lxdbr0",
        "lxdbr12",
        "incusbr0",
        "lxcbr0",
        "docker0",
        "docker_gwbridge",
        "br-0a1b2c3d4e5f",
        "podman0",
        "virbr0",
        "cni0",
        "cni-podman0",
        "fan-252",
        "mpqemubr0",
        "flannel.1",
    ],
)
def test_bridges_of_containers(name: str):
    assert Interface(name, ()).is_container_bridge


@pytest.mark.parametrize(
    "name",
    ["br0", "br-eth0", "br-ex", "br-0a1b2c3d4e5", "eth0", "ens3", "bond0", "vlan12", "lo", "virbr", "wg0", "veth12ab"],
)
def test_a_bridge_of_the_machine_s_own_network_is_none(name: str):
    assert not Interface(name, ()).is_container_bridge


def test_what_is_dialled_from_afar_and_what_is_inside_only():
    found = interfaces.parse(
        [link(1, "lo"), link(2, "eth0"), link(3, "lxdbr0"), link(4, "br-eth1")],
        [
            address(1, "127.0.0.1/8"),
            address(1, "::1/128"),
            address(2, "10.0.0.5/24"),
            address(2, "fe80::5/64"),
            address(3, "10.0.3.1/24"),
            address(3, "fd42::1/64"),
            address(4, "192.168.7.7/24"),
        ],
    )

    assert interfaces.dialled_from_afar(found) == ("10.0.0.5", "192.168.7.7")
    assert [str(n) for n in interfaces.inside_only(found)] == ["10.0.3.0/24", "fd42::/64"]


@given(st.lists(st.binary(min_size=16, max_size=80)), st.lists(st.binary(min_size=8, max_size=80)))
def test_nothing_in_the_attributes_makes_it_fall_over(links: list[bytes], addresses: list[bytes]):
    try:
        interfaces.parse(links, addresses)
    except (ValueError, struct.error):
        pass  # Bytes that no kernel sends: an error, and no endless loop.
