"""The two selections: what agents get, what clients get, and what is not published."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from controller.api import scopes, selection
from controller.api.scopes import HostPort
from controller.api.selection import Controller, Incomplete, Selection, Servers, Spaces

NO_SPACES = Spaces({})
SPACES = Spaces({ipaddress.ip_network("10.1.0.0/16"): "management", ipaddress.ip_network("fd00:1::/32"): "management"})
A = Controller("0", ("203.0.113.1", "10.0.0.1", "10.1.0.1", "127.0.0.1", "fe80::1%eth0"))
B = Controller("1", ("10.0.0.2", "fd00:1::2"))
C = Controller("2", ("10.0.0.3", "8.8.4.4"))


def chosen(*controllers: Controller, space: str = "", spaces: Spaces = SPACES) -> Selection:
    found = selection.select(controllers, spaces, space)
    assert isinstance(found, Selection), found
    return found


def hosts(part: tuple[Servers, ...]) -> dict[str, list[str]]:
    return {s.controller_id: [server.host for server in s.servers] for s in part}


def test_without_a_management_space_both_get_everything_in_their_own_order():
    found = chosen(A, B, C)

    assert hosts(found.agents) == {
        "0": ["10.0.0.1", "10.1.0.1", "203.0.113.1"],
        "1": ["10.0.0.2", "fd00:1::2"],
        "2": ["10.0.0.3", "8.8.4.4"],
    }
    assert hosts(found.clients) == {
        "0": ["203.0.113.1", "10.0.0.1", "10.1.0.1"],
        "1": ["10.0.0.2", "fd00:1::2"],
        "2": ["8.8.4.4", "10.0.0.3"],
    }
    assert (found.fallbacks, found.skipped) == ((), ())


def test_the_management_space_narrows_the_agents_list_and_leaves_the_clients_alone():
    found = chosen(A, B, space="management")

    assert hosts(found.agents) == {"0": ["10.1.0.1"], "1": ["fd00:1::2"]}
    assert found.clients == chosen(A, B).clients
    assert found.fallbacks == ()


def test_a_controller_with_no_address_in_the_space_offers_all_of_its_own_and_it_is_said():
    found = chosen(A, C, space="management")

    assert hosts(found.agents) == {"0": ["10.1.0.1"], "2": ["10.0.0.3", "8.8.4.4"]}
    assert [f.controller_id for f in found.fallbacks] == ["2"]
    assert "controller 2 has no address in juju-mgmt-space management" in found.fallbacks[0].reason


def test_a_space_that_nobody_knows_is_no_space_and_it_is_said():
    found = chosen(A, B, C, space="nowhere")

    assert found.agents == chosen(A, B, C).agents
    assert [f.controller_id for f in found.fallbacks] == ["0", "1", "2"]
    assert "no space has that name" in found.fallbacks[0].reason


def test_what_no_subnet_holds_is_in_the_default_space():
    found = chosen(A, C, space="alpha")

    assert hosts(found.agents) == {"0": ["10.0.0.1", "203.0.113.1"], "2": ["10.0.0.3", "8.8.4.4"]}


def test_the_narrowest_subnet_decides():
    spaces = Spaces({ipaddress.ip_network("10.0.0.0/8"): "wide", ipaddress.ip_network("10.1.0.0/16"): "narrow"})

    assert [spaces.of(a) for a in ("10.1.2.3", "10.2.2.3", "11.0.0.1", "::1", "name.example")] == [
        "narrow",
        "wide",
        "alpha",
        "alpha",
        "alpha",
    ]


def test_addresses_of_the_machine_or_the_link_are_in_neither_list():
    found = chosen(Controller("0", ("127.0.0.1", "::1", "169.254.1.1", "fe80::1", "10.0.0.1", "0.0.0.0", "ff0e::1")))

    assert hosts(found.agents) == hosts(found.clients) == {"0": ["10.0.0.1"]}


def test_a_controller_that_has_reported_nothing_yet_is_dialled_where_its_node_listens():
    found = chosen(A, Controller("1", (), "10.0.0.2"))

    assert hosts(found.agents)["1"] == hosts(found.clients)["1"] == ["10.0.0.2"]


def test_where_all_nodes_are_on_one_machine_its_addresses_will_do():
    found = chosen(Controller("0", ("127.0.0.10",), "127.0.0.10"), Controller("1", (), "127.0.0.11"))

    assert hosts(found.agents) == hosts(found.clients) == {"0": ["127.0.0.10"], "1": ["127.0.0.11"]}


def test_a_controller_that_nobody_can_dial_is_skipped_and_counted():
    found = chosen(A, Controller("1", ("127.0.0.1",), "127.0.0.1"), Controller("3", ()))

    assert hosts(found.agents).keys() == hosts(found.clients).keys() == {"0"}
    assert found.skipped == ("1", "3")


def test_nothing_that_can_be_dialled_is_not_published():
    for controllers in ((), (Controller("0", ()),), (Controller("0", ("127.0.0.1",)), Controller("1", ("fe80::2",)))):
        found = selection.select(controllers, NO_SPACES)

        assert isinstance(found, Incomplete)
        assert "the last list stays published" in found.reason


def test_one_address_in_two_spellings_is_one_address():
    found = chosen(Controller("0", ("10.0.0.1", "::ffff:10.0.0.1", "FD00::1", "fd00:0::1")))

    assert hosts(found.agents) == {"0": ["10.0.0.1", "fd00::1"]}


def test_controllers_and_addresses_stand_in_the_order_of_numbers():
    found = chosen(Controller("10", ("10.0.0.10", "10.0.0.9")), Controller("9", ("10.0.0.100", "10.0.0.20")))

    assert [s.controller_id for s in found.agents] == ["9", "10"]
    assert hosts(found.agents) == {"9": ["10.0.0.20", "10.0.0.100"], "10": ["10.0.0.9", "10.0.0.10"]}


def test_each_controller_is_dialled_at_its_own_port():
    found = chosen(Controller("0", ("10.0.0.1",), port=17071), Controller("1", ("10.0.0.1",)))

    assert [str(server) for part in found.agents for server in part.servers] == ["10.0.0.1:17071", "10.0.0.1:17070"]


def test_equal_sets_are_the_same_list_whatever_their_order():
    one, two = HostPort("10.0.0.1", 1), HostPort("10.0.0.2", 1)

    assert selection.same([Servers("0", (one, two)), Servers("1", ())], [Servers("1", ()), Servers("0", (two, one))])
    assert not selection.same([Servers("0", (one,))], [Servers("0", (two,))])
    assert not selection.same([Servers("0", (one,))], [Servers("1", (one,))])
    assert not selection.same([Servers("0", (one,))], [])


ADDRESSES = st.sampled_from(
    ["10.0.0.1", "10.1.0.1", "10.1.0.2", "127.0.0.1", "fe80::1", "8.8.8.8", "fd00:1::1", "fd00::1", "c.example.com"]
)
CONTROLLERS = st.lists(
    st.builds(Controller, st.sampled_from("0123456789"), st.lists(ADDRESSES).map(tuple)),
    unique_by=lambda c: c.controller_id,
    max_size=5,
)


@given(CONTROLLERS, st.sampled_from(["", "management", "alpha", "unknown"]), st.randoms(use_true_random=False))
def test_whatever_is_reported_nobody_loses_a_controller_that_can_be_dialled(controllers, space, dice):
    found = selection.select(controllers, SPACES, space)
    mixed = [Controller(c.controller_id, tuple(dice.sample(c.addresses, len(c.addresses)))) for c in controllers]
    dice.shuffle(mixed)

    assert selection.select(mixed, SPACES, space) == found
    can = {c.controller_id for c in controllers if any(map(scopes.can_be_dialled, c.addresses))}
    if isinstance(found, Incomplete):
        assert can == set()
        return
    assert hosts(found.agents).keys() == hosts(found.clients).keys() == can
    assert set(found.skipped) == {c.controller_id for c in controllers} - can
    without = selection.select(controllers, SPACES)
    assert isinstance(without, Selection)
    assert found.clients == without.clients
    fallen_back = {f.controller_id for f in found.fallbacks}
    for part, everything in zip(found.agents, without.agents, strict=True):
        inside = {s for s in everything.servers if SPACES.of(s.host) == space}
        narrowed = bool(space) and part.controller_id not in fallen_back
        assert set(part.servers) == (inside if narrowed else set(everything.servers)) != set()
