"""Flow 1, hop 2: what stands in the databags, and what is made of nonsense in them."""

import dataclasses
import json
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbaccessor.conf import ManagementSpace
from dbcluster import AppBag, BadBag, DbState, UnitBag, assigned_id, digest

STATE = json.dumps(
    {
        "cluster-uuid": "u-1",
        "epoch": {"number": 2, "tag": "9f"},
        "controller-id": "3",
        "role": "voter",
        "last-index": 17,
        "voters": ["0", "3"],
    }
)
SPACE = ManagementSpace("mgmt", ("10.1.0.0/24",))
_id = st.from_regex(r"[0-9]{1,3}", fullmatch=True)


@given(
    st.builds(
        AppBag,
        generation=st.integers(0, 1 << 40),
        cluster_uuid=st.text("0123456789abcdef-", max_size=36),
        bootstrap_controller=_id,
        bootstrapped=st.booleans(),
        addresses=st.dictionaries(_id, st.ip_addresses().map(str)),
        unresolved=st.lists(_id, unique=True).map(lambda ids: tuple(sorted(ids))),
        departed=st.lists(_id, unique=True).map(lambda ids: tuple(sorted(ids))),
        units=st.dictionaries(_id, _id.map(lambda n: f"controller/{n}")),
        db_state=st.sampled_from(["", STATE]),
        management_space=st.sampled_from([None, SPACE, ManagementSpace("blue")]),
    )
)
def test_an_app_bag_that_was_dumped_comes_back(bag: AppBag):
    assert AppBag.parse(bag.dump()) == bag


def test_a_unit_bag_that_was_dumped_comes_back():
    bag = UnitBag(
        "0", "10.0.0.4", rendered=3, digest="ab", cluster_uuid="u-1", db_state=STATE, code="c1", serves_with="c0"
    )

    assert UnitBag.parse(bag.dump()) == bag
    for said in ((), ("10.1.0.0/24", "fd00::/64")):
        assert UnitBag.parse(UnitBag("0", management=said).dump()).management == said


def test_the_keys_and_forms_of_the_app_bag_are_the_contract_s():
    bag = AppBag(4, "u-1", "0", True, {"10": "10.0.0.4", "2": "10.0.0.5"}, ("3",), ("1",), {"2": "c/2"}, STATE)
    bag = dataclasses.replace(bag, management_space=SPACE)

    assert bag.dump() == {
        "schema": "1",
        "generation": "4",
        "cluster-uuid": "u-1",
        "bootstrap-controller": "0",
        "bootstrapped": "true",
        "db-bind-addresses": '{"10": "10.0.0.4", "2": "10.0.0.5"}',
        "db-unresolved": '["3"]',
        "departed": '["1"]',
        "units": '{"2": "c/2"}',
        "db-state": STATE,
        "certificates": "",
        "management-space": '{"name": "mgmt", "subnets": ["10.1.0.0/24"]}',
    }


def test_an_empty_bag_is_generation_zero():
    assert AppBag.parse({}) == AppBag()
    assert UnitBag.parse({"ingress-address": "10.0.0.4"}) == UnitBag()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("management-subnets", "{"),
        ("rendered", "many"),
        ("rendered", "-3"),
        ("db-bind-address", "10.0.0.4:17666"),
        ("schema", "x"),
    ],
)
def test_a_key_of_a_peer_that_makes_no_sense_is_as_if_absent(key: str, value: str):
    assert UnitBag.parse({key: value}) == UnitBag()


def test_a_mapped_address_of_a_peer_is_unwrapped():
    assert UnitBag.parse({"db-bind-address": "::ffff:10.0.0.4"}).address == "10.0.0.4"


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"cluster-uuid": ""}', STATE.replace("u-1", ""), "7"])
def test_what_is_no_db_state_is_none(text: str):
    assert DbState.parse(text) is None


def test_a_db_state_with_keys_of_a_later_version_is_read():
    state = DbState.parse(STATE.replace('"role"', '"shoe-size": 43, "role"'))

    assert state is not None
    assert (state.cluster_uuid, state.epoch.number, state.voters) == ("u-1", 2, ("0", "3"))


def test_an_app_bag_of_a_newer_schema_is_refused_with_the_remedy():
    with pytest.raises(BadBag, match="refresh this unit"):
        AppBag.parse({"schema": "2", "generation": "1"})


@pytest.mark.parametrize("key", ["db-bind-addresses", "management-space"])
def test_an_app_bag_that_is_no_json_is_refused(key: str):
    with pytest.raises(BadBag, match="cannot be read"):
        AppBag.parse({key: "{"})


def test_without_a_space_the_digest_is_that_of_a_version_that_knows_of_none():
    old = ["u-1", "0", True, {"0": "10.0.0.4"}, [], []]

    assert AppBag(4, "u-1", "0", True, {"0": "10.0.0.4"}).digest() == sha256(json.dumps(old).encode()).hexdigest()[:16]


def test_the_conf_of_a_controller_carries_what_the_bag_says_and_what_is_its_own():
    bag = AppBag(4, "u-1", "0", True, {"0": "10.0.0.4"}, ("3",), ("1",), {"0": "c/0"}, STATE)

    conf = bag.conf("3", network_latency_ms=50, extra={"later": 1})

    assert (conf.controller_id, conf.network_latency_ms, conf.extra) == ("3", 50, {"later": 1})
    assert (conf.generation, conf.cluster_uuid, conf.bootstrap_controller) == (4, "u-1", "0")
    assert (conf.db_bind_addresses, conf.db_unresolved, conf.departed) == ({"0": "10.0.0.4"}, ("3",), ("1",))
    assert (conf.bootstrapped, conf.db_voters, conf.db_last_index) == (True, ("0", "3"), 17)


def test_the_digest_covers_what_the_generation_numbers_and_nothing_else():
    bag = AppBag(4, "u-1", "0", False, {"0": "10.0.0.4"})

    same = [
        AppBag(5, "u-1", "0", False, {"0": "10.0.0.4"}),
        AppBag(4, "u-1", "0", False, {"0": "10.0.0.4"}, db_state=STATE),
    ]
    other = [
        AppBag(4, "u-2", "0", False, {"0": "10.0.0.4"}),
        AppBag(4, "u-1", "1", False, {"0": "10.0.0.4"}),
        AppBag(4, "u-1", "0", True, {"0": "10.0.0.4"}),
        AppBag(4, "u-1", "0", False, {"0": "10.0.0.5"}),
        AppBag(4, "u-1", "0", False, {"0": "10.0.0.4"}, unresolved=("1",)),
        AppBag(4, "u-1", "0", False, {"0": "10.0.0.4"}, departed=("1",)),
    ]

    assert {b.digest() for b in same} == {bag.digest()}
    assert len({b.digest() for b in other} | {bag.digest()}) == len(other) + 1
    assert digest(bag.conf("7", network_latency_ms=99, extra={"later": 1})) == bag.digest()


def test_the_assigned_id_is_text():
    assert assigned_id("controller/10") == "10"
