"""Flow 1, hop 1: which address of the binding Dqlite may use."""

import ipaddress
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bindaddress
from bindaddress import Ambiguous, Candidate, Missing, NoneLocal, Scope, Unique

ETH0 = Candidate("10.0.0.4", "eth0", "10.0.0.0/24")
ETH1 = Candidate("10.0.9.4", "eth1", "10.0.9.0/24")
PUBLIC = Candidate("8.8.8.8", "eth2", "8.8.8.0/24")


@pytest.mark.parametrize(
    ("address", "scope"),
    [
        ("127.0.0.1", Scope.LOCAL_MACHINE),
        ("127.255.255.254", Scope.LOCAL_MACHINE),
        ("::1", Scope.LOCAL_MACHINE),
        ("::ffff:127.0.0.1", Scope.LOCAL_MACHINE),
        ("10.0.0.0", Scope.LOCAL_CLOUD),
        ("10.255.255.255", Scope.LOCAL_CLOUD),
        ("9.255.255.255", Scope.PUBLIC),
        ("11.0.0.0", Scope.PUBLIC),
        ("172.15.255.255", Scope.PUBLIC),
        ("172.16.0.1", Scope.LOCAL_CLOUD),
        ("172.31.255.254", Scope.LOCAL_CLOUD),
        ("172.32.0.1", Scope.PUBLIC),
        ("192.167.255.255", Scope.PUBLIC),
        ("192.168.0.1", Scope.LOCAL_CLOUD),
        ("192.168.255.254", Scope.LOCAL_CLOUD),
        ("192.169.0.1", Scope.PUBLIC),
        ("::ffff:10.0.0.1", Scope.LOCAL_CLOUD),
        ("::ffff:8.8.8.8", Scope.PUBLIC),
        ("fbff::1", Scope.PUBLIC),
        ("fc00::1", Scope.LOCAL_CLOUD),
        ("fd12:3456::1", Scope.LOCAL_CLOUD),
        ("fd12:3456::1%eth0", Scope.LOCAL_CLOUD),
        ("fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Scope.LOCAL_CLOUD),
        ("fe00::1", Scope.PUBLIC),
        ("fe80::1", Scope.LINK_LOCAL),
        ("fe80::1%eth0", Scope.LINK_LOCAL),
        ("febf::1", Scope.LINK_LOCAL),
        ("169.254.0.1", Scope.LINK_LOCAL),
        ("169.253.0.1", Scope.PUBLIC),
        ("240.0.0.1", Scope.LOCAL_FAN),
        ("252.1.2.3", Scope.LOCAL_FAN),
        ("255.255.255.255", Scope.UNKNOWN),
        ("224.0.0.1", Scope.UNKNOWN),
        ("ff02::1", Scope.UNKNOWN),
        ("0.0.0.0", Scope.UNKNOWN),
        ("::", Scope.UNKNOWN),
        ("100.64.0.1", Scope.PUBLIC),  # Carrier-grade NAT counts as public in Juju,
        ("192.0.2.7", Scope.PUBLIC),  # and so do the documentation networks.
        ("198.51.100.7", Scope.PUBLIC),
        ("203.0.113.7", Scope.PUBLIC),
        ("2001:db8::7", Scope.PUBLIC),
        ("1.1.1.1", Scope.PUBLIC),
        ("2606:4700::1111", Scope.PUBLIC),
        ("controller-0.example", Scope.UNKNOWN),
        ("10.0.0", Scope.UNKNOWN),
        ("10.0.0.1:17666", Scope.UNKNOWN),
        ("[fd00::1]", Scope.UNKNOWN),
        ("", Scope.UNKNOWN),
    ],
)
def test_scope_of_an_address_is_juju_s(address: str, scope: Scope):
    assert bindaddress.scope_of(address) is scope


def test_one_local_cloud_address_among_others_is_unique():
    choice = bindaddress.choose([PUBLIC, ETH0, Candidate("fe80::1", "eth0", "fe80::/64")])

    assert choice == Unique("10.0.0.4", frozenset({"10.0.0.4"}))


def test_no_address_at_all_is_missing_and_says_that_it_waits():
    choice = bindaddress.choose([Candidate("")])

    assert choice == Missing()
    assert "no address on the db-cluster binding yet" in choice.reason


def test_addresses_none_of_them_local_cloud_name_each_with_its_reason_and_the_remedy():
    choice = bindaddress.choose([PUBLIC, Candidate("fe80::1", "eth0", "fe80::/64"), Candidate("node.example", "eth3")])

    assert isinstance(choice, NoneLocal)
    assert choice.reason("control") == (
        "no local-cloud address among 8.8.8.8 (eth2, 8.8.8.0/24): public; fe80::1 (eth0, fe80::/64): link-local;"
        " node.example (eth3): not an address to bind to; run `juju bind control db-cluster=<space>`"
    )


def test_two_local_addresses_are_ambiguous_and_name_interface_subnet_and_the_remedy():
    choice = bindaddress.choose([ETH1, PUBLIC, ETH0])

    assert isinstance(choice, Ambiguous)
    assert choice.candidates == (ETH0, ETH1)
    assert choice.rejected == (PUBLIC,)
    assert choice.reason("control") == (
        "several local-cloud addresses: 10.0.0.4 (eth0, 10.0.0.0/24); 10.0.9.4 (eth1, 10.0.9.0/24);"
        " run `juju bind control db-cluster=<space>`"
    )


def test_two_addresses_in_one_subnet_are_cured_by_no_bind_so_one_must_be_removed():
    choice = bindaddress.choose([ETH0, Candidate("10.0.0.5", "eth0", "10.0.0.0/24")])

    assert isinstance(choice, Ambiguous)
    assert "remove one" in choice.reason("control")
    assert "juju bind" not in choice.reason("control")


def test_two_in_one_subnet_and_one_in_another_can_be_cured_by_a_bind_to_the_other():
    choice = bindaddress.choose([ETH0, Candidate("10.0.0.5", "eth0", "10.0.0.0/24"), ETH1])

    assert isinstance(choice, Ambiguous)
    assert "juju bind" in choice.reason("control")


def test_ipv4_goes_before_ipv6():
    choice = bindaddress.choose([Candidate("fd00::4", "eth0", "fd00::/64"), ETH0])

    assert choice == Unique("10.0.0.4", frozenset({"10.0.0.4", "fd00::4"}))


def test_ipv6_is_used_where_there_is_no_local_cloud_ipv4():
    choice = bindaddress.choose([Candidate("fd00::4", "eth0", "fd00::/64"), PUBLIC])

    assert choice == Unique("fd00::4", frozenset({"fd00::4"}))


def test_two_ipv6_addresses_are_ambiguous():
    two = [Candidate("fd00::4", "eth0", "fd00::/64"), Candidate("fd01::4", "eth1", "fd01::/64")]

    assert isinstance(bindaddress.choose(two), Ambiguous)


def test_a_mapped_ipv4_address_is_unwrapped_and_counts_once():
    choice = bindaddress.choose([Candidate("::ffff:10.0.0.4", "eth0", "10.0.0.0/24"), ETH0])

    assert choice == Unique("10.0.0.4", frozenset({"10.0.0.4"}))


def test_one_address_on_a_bridge_and_its_port_is_one_address():
    bridge = Candidate("10.0.0.4", "br-eth0", "10.0.0.0/24")

    assert bindaddress.choose([ETH0, bridge]) == Unique("10.0.0.4", frozenset({"10.0.0.4"}))


def test_order_and_repetition_of_the_reply_do_not_matter():
    reply = [ETH0, ETH1, PUBLIC, Candidate("10.0.0.4", "br0", "10.0.0.0/24")]

    answers = {repr(bindaddress.choose(p)) for p in itertools.permutations(reply)}
    answers.add(repr(bindaddress.choose(reply * 3)))

    assert len(answers) == 1


@given(st.lists(st.ip_addresses() | st.ip_addresses(network="10.0.0.0/30") | st.ip_addresses(network="fc00::/126")))
def test_whatever_is_chosen_is_a_local_cloud_address_of_the_binding(addresses: list[object]):
    texts = [str(a) for a in addresses]

    choice = bindaddress.choose(map(Candidate, texts))

    local = {a for a in texts if bindaddress.scope_of(a) is Scope.LOCAL_CLOUD}
    v4 = {a for a in local if ipaddress.ip_address(a).version == 4}
    match choice:
        case Unique(address):
            assert {address} == (v4 or local)
        case Ambiguous(candidates):
            assert {c.address for c in candidates} == (v4 or local)
            assert len(candidates) > 1
        case NoneLocal():
            assert texts
            assert not local
        case Missing():
            assert not texts


# What is shared, given what was shared before.


def test_the_first_unique_address_is_shared():
    assert bindaddress.share(bindaddress.choose([ETH0]), "") == "10.0.0.4"


@pytest.mark.parametrize("choice", [None, bindaddress.choose([]), bindaddress.choose([PUBLIC])])
def test_nothing_is_shared_while_there_is_no_unique_address(choice: bindaddress.Choice | None):
    assert bindaddress.share(choice, "") == ""


def test_a_second_network_card_takes_no_shared_address_away():
    both = bindaddress.choose([ETH0, ETH1])

    assert bindaddress.share(both, "10.0.9.4") == "10.0.9.4"


@pytest.mark.parametrize("choice", [None, bindaddress.choose([]), bindaddress.choose([PUBLIC])])
def test_a_shared_address_stays_when_the_network_is_away_for_a_moment(choice: bindaddress.Choice | None):
    assert bindaddress.share(choice, "10.0.0.4") == "10.0.0.4"


def test_an_ipv6_address_that_is_shared_and_present_stays_when_an_ipv4_one_appears():
    choice = bindaddress.choose([Candidate("fd00::4", "eth0", "fd00::/64"), ETH0])

    assert bindaddress.share(choice, "fd00::4") == "fd00::4"


def test_a_changed_address_is_shared_whether_a_node_runs_or_not():
    assert bindaddress.share(bindaddress.choose([ETH1]), "10.0.0.4") == "10.0.9.4"
