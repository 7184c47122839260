"""Subnets, spaces, network-get's answer, and which packets a cut drops."""

import asyncio
import ipaddress

import pytest
from localjuju import network, spaces
from localjuju.network import OUTSIDE, Cut


@pytest.fixture
def topology():
    topology = spaces.Topology()
    topology.add_subnet("10.77.0.0/24", "alpha")
    topology.add_address(0, "10.77.0.0/24")
    return topology


def test_a_second_subnet_is_a_second_card_and_a_second_address_is_not(topology):
    topology.add_subnet("10.88.0.0/24", "db")

    topology.add_address(0, "10.88.0.5/24")
    topology.add_address(0, "10.77.0.200/24")

    assert {d.name: [str(a) for a in d.addresses] for d in topology.devices[0]} == {
        "eth0": ["10.77.0.10/24", "10.77.0.200/24"],
        "eth1": ["10.88.0.5/24"],
    }


def test_alpha_sees_all_cards_and_another_space_its_own(topology):
    topology.add_subnet("10.88.0.0/24", "db")
    topology.add_address(0, "10.88.0.5/24")

    assert [d.name for d in topology.bound(0, "alpha")] == ["eth0", "eth1"]
    assert [d.name for d in topology.bound(0, "db")] == ["eth1"]
    assert topology.missing(0, "db") == ""
    assert topology.missing(0, "web") == 'machine "0" has no devices in space "web", only spaces "alpha", "db"'


def test_network_get_gives_subnets_without_host_bits(topology):
    info = spaces.network_info(topology.bound(0, "alpha"))

    (address,) = info["bind-addresses"][0]["addresses"]
    assert address == {"hostname": "", "value": "10.77.0.10", "address": "10.77.0.10", "cidr": "10.77.0.0/24"}
    ipaddress.ip_network(address["cidr"])  # As ops does; it raises on host bits.
    assert info["ingress-addresses"] == ["10.77.0.10"]
    assert info["egress-subnets"] == ["10.77.0.10/32"]


def test_ipv6_subnets_work_like_any(topology):
    topology.add_subnet("fd00:77::/64", "six")

    _, address = topology.add_address(0, "fd00:77::/64")

    assert str(address) == "fd00:77::a/64"


@pytest.mark.parametrize(
    ("cidr", "reason"),
    [
        ("10.77.0.10/24", "in use"),
        ("10.77.0.1/24", "in use"),
        ("nonsense", "not an address"),
        ("1.2.3.4.5/8", "not an"),
    ],
)
def test_impossible_addresses_are_refused(topology, cidr, reason):
    with pytest.raises(spaces.BadNetwork, match=reason):
        topology.add_address(0, cidr)


def test_overlapping_subnets_are_refused_and_a_known_one_moves(topology):
    with pytest.raises(spaces.BadNetwork, match="overlaps"):
        topology.add_subnet("10.77.0.128/25", "db")

    topology.add_subnet("10.77.0.0/24", "db")

    assert topology.subnets[0].space == "db"


def test_more_than_a_subnet_holds_is_said(topology):
    topology.add_subnet("10.99.0.0/28", "tiny")
    for machine in range(5):
        topology.add_address(machine, "10.99.0.0/28")

    with pytest.raises(spaces.BadNetwork, match="no address left"):
        topology.add_address(5, "10.99.0.0/28")


class TestCut:
    def test_a_group_is_cut_from_all_others_and_not_from_itself(self):
        assert Cut(frozenset({0, 1}), None).pairs({0, 1, 2}) == {(0, 2), (2, 0), (1, 2), (2, 1)}

    def test_a_unit_added_later_is_cut_off_from_the_group_too(self):
        cut = Cut(frozenset({0}), None)

        assert (3, 0) in cut.pairs({0, 3}) and (0, 3) in cut.pairs({0, 3})

    def test_one_way_drops_one_direction_only(self):
        assert Cut(frozenset({0}), frozenset({1}), True).pairs({0, 1, 2}) == {(0, 1)}

    def test_the_namespace_outside_the_units_can_be_cut_off(self):
        assert Cut(frozenset({0}), frozenset({OUTSIDE})).pairs({0, 1}) == {(0, OUTSIDE), (OUTSIDE, 0)}

    def test_healing_one_of_a_group_leaves_the_rest_cut(self):
        left = Cut(frozenset({0, 1}), None).without(0)

        assert left == Cut(frozenset({1}), None)
        assert Cut(frozenset({1}), frozenset({2})).without(2) is None


@pytest.mark.parametrize("survives", [False, True])
def test_a_device_that_the_kernel_removes_first_is_no_failure(topology, monkeypatch, survives):
    # A host that has ended takes its end of the cable along, and with it ours: before, while or after we do.
    present = {"u0e0"}

    async def command(*argv, stdin=""):
        if argv[:3] == ("ip", "link", "delete"):
            if not survives:
                present.discard(argv[3])
            raise network.NetworkFailed(f"ip link delete {argv[3]}: no")
        if argv[:3] == ("ip", "link", "show") and argv[3] not in present:
            raise network.NetworkFailed("no such device")
        return ""

    monkeypatch.setattr(network, "command", command)

    async def story():
        net = network.Network(topology)
        await net.sync_devices(0, 4711)
        await net.disconnect(0)

    if survives:
        with pytest.raises(network.NetworkFailed, match="u0e0"):
            asyncio.run(story())
    else:
        asyncio.run(story())
