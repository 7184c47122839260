"""Every row of the policy, its sentence, and what no combination of inputs may ever lead to."""

from __future__ import annotations

import dataclasses
import itertools

import msgspec
import pytest

from dbaccessor.actions import Bootstrap, Forget, Join, PutAside, Reconfigure, Serve, Start, Supersede, Wait
from dbaccessor.decide import decide
from dbaccessor.dqlite.nodedir import LastEntry
from dbaccessor.situation import Disk, Peer, Running, View
from situations import ALONE, E1, E1_OTHER, E2, GOOD, LONELY, ME, NAMES, UUID, blank, conf, member, silent

SURVIVOR = View(
    conf=ALONE, disk=GOOD, running=LONELY, peers=(silent("1"), silent("2")), members=NAMES, recorded_generation=3
)


def test_without_a_configuration_it_waits_for_an_address_and_a_running_node_goes_on():
    assert decide(View(conf=None)).topic == "bind-address"  # type: ignore[union-attr]
    assert isinstance(decide(View(conf=None, disk=GOOD, running=LONELY)), Serve)


def test_a_configuration_that_gives_no_address_is_waited_out_and_says_what_to_do():
    action = decide(View(conf=conf(db_bind_addresses={"1": "10.0.0.11"})))
    assert isinstance(action, Wait)
    assert action.topic == "bind-address"
    assert "gives controller 0 no address" in action.reason
    assert "binding" in action.remedy


# Bootstrap


def test_the_named_controller_founds_the_cluster_when_nothing_exists_yet():
    action = decide(View(conf=conf(bootstrapped=False), peers=(blank("1"), silent("2"))))
    assert isinstance(action, Bootstrap)
    assert action.reason == f"the configuration names controller 0 to found cluster {UUID}"


@pytest.mark.parametrize(
    ("change", "topic"),
    [
        ({"bootstrapped": True}, "join"),
        ({"bootstrapped": False, "bootstrap_controller": "1"}, "join"),
        ({"bootstrapped": False, "bootstrap_controller": ""}, "cluster-uuid"),
        ({"bootstrapped": False, "cluster_uuid": ""}, "cluster-uuid"),
        ({"bootstrapped": True, "db_bind_addresses": {"0": "10.0.0.10"}}, "data"),
        ({"bootstrapped": False, "db_bind_addresses": {"1": "10.0.0.11"}}, "bind-address"),
    ],
)
def test_nobody_else_and_nothing_later_founds_a_cluster(change, topic):
    action = decide(View(conf=conf(**change)))
    assert isinstance(action, Wait)
    assert action.topic == topic


def test_a_cluster_that_somebody_already_holds_is_joined_even_if_the_configuration_says_otherwise():
    peers = (member("1", leader="controller-1-101"),)
    action = decide(View(conf=conf(bootstrapped=False), peers=peers))
    assert isinstance(action, Join)
    assert action.leader == "controller-1-101"


def test_bootstrap_waits_until_everybody_was_asked():
    action = decide(View(conf=conf(bootstrapped=False), peers_asked=False))
    assert isinstance(action, Wait)
    assert action.topic == "peers"


def test_an_identity_or_data_forbids_a_bootstrap():
    c = conf(bootstrapped=False)
    lost = Disk(identity=ME)
    assert isinstance(decide(View(conf=c, disk=lost)), Forget)
    assert isinstance(decide(View(conf=c, disk=Disk(has_files=True))), PutAside)


@pytest.mark.parametrize("addresses", [{"0": "10.0.0.10"}, {"0": "10.0.0.10", "1": "10.0.0.11"}])
def test_who_once_held_the_clusters_data_never_founds_it_again(addresses):
    """The founder lost its data, "bootstrapped" is not published yet, and the others are down."""
    c = conf(bootstrapped=False, db_bind_addresses=addresses)
    action = decide(View(conf=c, disk=Disk(held=(UUID,)), peers=(silent("1"), silent("2"))))
    assert isinstance(action, Wait)
    assert isinstance(decide(View(conf=c, disk=Disk(held=("another",)))), Bootstrap)


# Whose data


@pytest.mark.parametrize(
    ("disk", "sentence"),
    [
        ({"identity": msgspec.structs.replace(ME, controller_id="7")}, "data of controller 7; this is controller 0"),
        ({"identity": msgspec.structs.replace(ME, cluster_uuid="other")}, "data of cluster other"),
        ({"fingerprint": "fs-2"}, "is a copy or was restored from one"),
        ({"marked_id": 99}, "belongs to Dqlite id 99"),
        ({"marked_id": None}, "has lost its marker"),
        ({"identity": None}, "without an identity file"),
        ({"identity": msgspec.structs.replace(ME, superseded=E2)}, "was superseded by epoch 2"),
    ],
)
def test_data_that_is_not_surely_ours_is_put_aside_and_never_started(disk, sentence):
    action = decide(View(conf=conf(), disk=dataclasses.replace(GOOD, **disk)))
    assert isinstance(action, PutAside)
    assert sentence in action.reason


def test_data_on_a_device_that_got_another_number_is_started():
    """XFS numbers itself by its device, and devices are numbered anew at each boot."""
    kept = msgspec.structs.replace(ME, fingerprint="fd00-83")
    disk = dataclasses.replace(GOOD, identity=kept, fingerprint="fd03-83")
    peers = (silent("1"), silent("2"))

    assert isinstance(decide(View(conf=conf(), disk=disk, peers=peers, peers_asked=True)), Start)
    disk = dataclasses.replace(disk, fingerprint="fd00-84")
    assert isinstance(decide(View(conf=conf(), disk=disk, peers=peers, peers_asked=True)), PutAside)


def test_a_wiped_directory_means_a_lost_identity_and_then_a_join_under_a_new_id():
    peers = (member("1", leader="controller-1-101"), member("2"))
    forgetting = decide(View(conf=conf(), disk=Disk(identity=ME), peers=peers))
    assert isinstance(forgetting, Forget)
    assert "joins under a new id" in forgetting.reason
    assert isinstance(decide(View(conf=conf(), peers=peers)), Join)


def test_a_newer_epoch_is_recorded_before_anything_else_running_or_not():
    for running in (None, LONELY, Running("voter", "controller-0-100", 0.0)):
        view = View(conf=ALONE, disk=GOOD, running=running, peers=(member("1", epoch=E2),))
        action = decide(view)
        assert isinstance(action, Supersede)
        assert action.epoch == E2
    told = Peer("1", answers=True, same_cluster=True, holds_data=True, epoch=E1, superseded=E2)
    assert isinstance(decide(View(conf=conf(), disk=GOOD, peers=(told,))), Supersede)


def test_an_epoch_that_a_caller_spoke_of_counts_like_an_answer():
    action = decide(View(conf=conf(), disk=GOOD, running=Running("voter", NAMES[0]), heard_epoch=E2))
    assert isinstance(action, Supersede)
    assert action.epoch == E2


def test_a_superseded_identity_whose_data_is_already_gone_is_still_given_up():
    half_done = Disk(identity=msgspec.structs.replace(ME, superseded=E2))
    assert isinstance(decide(View(conf=conf(), disk=half_done)), PutAside)


def test_an_epoch_of_another_cluster_means_nothing():
    foreign = Peer("1", answers=True, same_cluster=False, holds_data=False, epoch=E2)
    assert isinstance(decide(View(conf=conf(), disk=GOOD, peers=(foreign,))), Start)


# Stopped, joining, serving


def test_good_data_is_started_once_everybody_was_asked():
    assert isinstance(decide(View(conf=conf(), disk=GOOD)), Start)
    assert decide(View(conf=conf(), disk=GOOD, peers_asked=False)).topic == "peers"  # type: ignore[union-attr]


def test_a_join_that_was_interrupted_is_resumed_running_or_not():
    joining = dataclasses.replace(GOOD, identity=msgspec.structs.replace(ME, state="joining"))
    peers = (member("1", leader="controller-2-102"),)
    for running in (None, LONELY):
        action = decide(View(conf=conf(), disk=joining, running=running, peers=peers))
        assert isinstance(action, Join)
        assert action.leader == "controller-2-102"
        assert action.reason.startswith("resumes joining")


def test_a_join_goes_to_the_newest_epoch_only():
    peers = (member("1", leader="controller-1-101"), member("2", epoch=E2))
    action = decide(View(conf=conf(), peers=peers))
    assert isinstance(action, Wait)
    assert "no leader" in action.reason


@pytest.mark.parametrize("change", [{}, {"has_files": False, "marked_id": None}, {"fingerprint": "copy"}])
@pytest.mark.parametrize("peer", [silent("1"), member("1", leader="controller-1-101", epoch=E2)])
def test_a_node_that_said_goodbye_stays_out(change, peer):
    """Even where its data is gone, or its cluster went on in a newer epoch: it would join anew, and nobody wants it."""
    left = dataclasses.replace(GOOD, identity=msgspec.structs.replace(ME, state="left"), **change)
    assert decide(View(conf=conf(), disk=left, peers=(peer,))).topic == "left"  # type: ignore[union-attr]


def test_who_said_goodbye_on_this_machine_before_is_put_aside_for_the_next_one():
    for change in ({"controller_id": "7"}, {"cluster_uuid": "other"}):
        left = dataclasses.replace(GOOD, identity=msgspec.structs.replace(ME, state="left", **change))
        assert isinstance(decide(View(conf=conf(), disk=left)), PutAside)


def test_a_member_with_a_leader_serves_whatever_the_configuration_names():
    for c in (conf(), ALONE, conf(db_bind_addresses={"1": "10.0.0.11"})):
        view = View(conf=c, disk=GOOD, running=Running("voter", NAMES[1], 0.0), members=NAMES)
        assert isinstance(decide(view), Serve)


def test_a_running_node_is_not_stopped_by_a_configuration_of_another_cluster():
    view = View(conf=conf(cluster_uuid="other"), disk=GOOD, running=Running("voter", NAMES[0], 0.0))
    action = decide(view)
    assert isinstance(action, Wait)
    assert action.topic == "configuration"


def test_by_the_configuration_of_another_controller_a_running_node_does_nothing():
    """It names no other than controller 1, which lives: to this node, which is controller 0, that is another member."""
    of_another = msgspec.structs.replace(ALONE, controller_id="1", db_bind_addresses={"1": "10.0.0.11"})
    action = decide(dataclasses.replace(SURVIVOR, conf=of_another, peers=(member("1"), silent("2"))))
    assert isinstance(action, Wait)
    assert action.topic == "configuration"
    assert action.reason == "the configuration is controller 1's, this node is controller 0's"


def test_damaged_data_is_put_aside_only_where_the_others_have_a_leader():
    damaged = dataclasses.replace(GOOD, damage="checksum mismatch")
    alone = decide(View(conf=conf(), disk=damaged, peers=(silent("1"), silent("2"))))
    assert isinstance(alone, Wait)
    assert "checksum mismatch" in alone.reason
    led = (member("1", leader=NAMES[2]), member("2", leader=NAMES[2]))
    assert isinstance(decide(View(conf=conf(), disk=damaged, peers=led)), PutAside)


def test_a_join_whose_cluster_has_no_leader_starts_all_the_same_because_its_vote_may_be_needed():
    joining = dataclasses.replace(GOOD, identity=msgspec.structs.replace(ME, state="joining"))
    for peers in ((silent("1"), silent("2")), (member("1"), silent("2"))):
        assert isinstance(decide(View(conf=conf(), disk=joining, peers=peers)), Start)


def test_a_joiner_does_not_choose_between_two_epochs_of_one_number():
    peers = (member("1", leader=NAMES[1]), member("2", leader=NAMES[2], epoch=E1_OTHER))
    action = decide(View(conf=conf(), peers=peers))
    assert isinstance(action, Wait)
    assert action.topic == "epoch"


def test_a_rival_epoch_is_shown_while_serving():
    peers = (member("1", leader=NAMES[1], epoch=E1_OTHER),)
    action = decide(View(conf=conf(), disk=GOOD, running=Running("voter", NAMES[0]), peers=peers))
    assert isinstance(action, Serve)
    assert action.notice is not None
    assert "neither yields" in action.notice.reason


def test_a_removed_member_gives_up_its_data_if_it_is_named_still_and_waits_if_it_departed():
    removed = Running("voter", "", 10.0, LastEntry(3, 50), removed=True)
    peers = (member("1", leader=NAMES[1]),)
    assert isinstance(decide(View(conf=conf(), disk=GOOD, running=removed, peers=peers)), PutAside)
    gone = conf(db_bind_addresses={"1": "10.0.0.11"}, departed=("0",))
    assert decide(View(conf=gone, disk=GOOD, running=removed, peers=peers)).topic == "removed"  # type: ignore[union-attr]


def test_a_peer_that_answers_nonsense_does_not_break_the_decision():
    odd = Peer("1", answers=True, same_cluster=True, holds_data=True, epoch=None, leader="x")
    for disk, run in ((Disk(), None), (GOOD, None), (GOOD, LONELY)):
        assert decide(View(conf=conf(), disk=disk, running=run, peers=(odd,), members=NAMES)).reason


# Going on alone


def test_the_last_one_goes_on_alone_when_all_three_witnesses_agree():
    action = decide(SURVIVOR)
    assert isinstance(action, Reconfigure)
    assert action.dropping == ("controller-1-101", "controller-2-102")
    assert "names only this controller" in action.reason


def test_two_fresh_units_in_place_of_two_dead_ones_heal_too():
    c = conf(db_bind_addresses={"0": "10.0.0.10", "3": "10.0.0.13", "4": "10.0.0.14"}, departed=("1", "2"))
    view = dataclasses.replace(SURVIVOR, conf=c, peers=(*SURVIVOR.peers, blank("3"), blank("4")))
    assert isinstance(decide(view), Reconfigure)


FRESH = conf(db_bind_addresses={"0": "10.0.0.10", "3": "10.0.0.13", "4": "10.0.0.14"}, departed=("1", "2"))
REPLACED = dataclasses.replace(SURVIVOR, conf=FRESH, peers=(*SURVIVOR.peers, blank("3"), blank("4")))
JOINING = member("3", running=True, empty=True)


def test_a_fresh_unit_that_began_to_join_as_the_quorum_went_does_not_keep_the_survivor_waiting():
    """It made an identity, and nobody is left to add it: without this both would wait for each other for ever."""
    peers = (*SURVIVOR.peers, JOINING, blank("4"))
    added = (*NAMES, "controller-3-103")
    for view in (
        dataclasses.replace(REPLACED, peers=peers),
        # The survivor was the leader, and its own log holds the addition.
        dataclasses.replace(REPLACED, peers=peers, members=added),
        # The row that is written before it was committed as well.
        dataclasses.replace(REPLACED, peers=peers, members=added, recorded_generation=5, recorded_by=("3",)),
    ):
        action = decide(view)
        assert isinstance(action, Reconfigure), action.reason


@pytest.mark.parametrize(
    "change",
    [
        {"empty": False},
        {"empty": False, "last": LastEntry(3, 49)},
        {"leader": "controller-1-101"},
        {"same_cluster": False},
        {"epoch": E1_OTHER},
    ],
)
def test_a_fresh_unit_that_may_hold_something_keeps_the_survivor_waiting(change):
    peer = dataclasses.replace(JOINING, **change)
    action = decide(dataclasses.replace(REPLACED, peers=(*SURVIVOR.peers, peer, blank("4"))))
    assert isinstance(action, Wait)


def test_a_generation_by_which_somebody_joined_must_name_them():
    for recorded_by in ((), ("5",), ("3", "5")):
        action = decide(dataclasses.replace(REPLACED, recorded_generation=5, recorded_by=recorded_by))
        assert isinstance(action, Wait) and "not newer than the last join" in action.reason
    assert isinstance(decide(dataclasses.replace(REPLACED, recorded_generation=6, recorded_by=("3",))), Wait)


def test_where_all_that_are_named_hold_data_the_remedy_is_for_an_operator():
    action = decide(dataclasses.replace(REPLACED, peers=(*SURVIVOR.peers, member("3"), member("4"))))
    assert isinstance(action, Wait)
    assert (
        action.remedy == "revive controller 1, 2, or choose the unit to go on with and use its action rebuild-cluster"
    )


def told(voters, term, index):
    """The last one's configuration, with this as the newest state that any member told its charm."""
    return msgspec.structs.replace(ALONE, db_voters=voters, db_last_term=term, db_last_index=index)


MISSING_WITNESS = {
    "the own node does not answer": (
        {"running": dataclasses.replace(LONELY, answers=False)},
        "the own node does not answer",
    ),
    "there is no other member at all": ({"members": NAMES[:1]}, "the only member"),
    "another member is still named": ({"conf": conf()}, "no quorum"),
    "an unresolved member is still named": (
        {"conf": msgspec.structs.replace(ALONE, db_unresolved=("3",))},
        "no quorum",
    ),
    "the configuration is as old as the last join": ({"recorded_generation": 5}, "not newer than the last join"),
    "this controller has no address any more": ({"conf": conf(db_bind_addresses={})}, "no address"),
    "a member fell silent a moment ago": ({"peers": (silent("1"), silent("2", 1.0))}, "for 1.0 s only"),
    "a member was never asked": ({"peers": (silent("1"), silent("2", None))}, "could not be asked"),
    "a member is not even known by address": ({"peers": (silent("1"),)}, "could not be asked"),
    "a member answers with data": ({"peers": (silent("1"), member("2"))}, "still answers with data"),
    "a member follows a leader": (
        {"peers": (silent("1"), member("2", leader="controller-2-102"))},
        "controller 2 follows controller-2-102",
    ),
    "a member of the same epoch number has another tag": (
        {"peers": (silent("1"), member("2", epoch=E1_OTHER))},
        "neither yields",
    ),
    "this node is a spare": ({"running": dataclasses.replace(LONELY, role="spare")}, "is a spare"),
    "this node's role is unknown": ({"running": dataclasses.replace(LONELY, role="")}, "unknown role"),
    "the newest voters did not include it": (
        {"conf": msgspec.structs.replace(ALONE, db_voters=("1", "2"))},
        "newest known voters were 1, 2",
    ),
    "the newest voters did not include it, and its log has nothing newer": (
        {"conf": told(("1", "2"), 3, 50)},
        "newest known voters were 1, 2",
    ),
    "its log is behind": ({"conf": msgspec.structs.replace(ALONE, db_last_index=51)}, "log ends at index 50"),
    "its log is behind in the same term": ({"conf": told((), 3, 51)}, "log ends at index 50 of term 3"),
    "its log is longer, and of an older term": ({"conf": told((), 4, 40)}, "newest known one at index 40 of term 4"),
    "a deposed leader's log is longer than that of those who followed another": (
        {"conf": told(("1", "2"), 4, 40)},
        "newest known voters were 1, 2",
    ),
}


@pytest.mark.parametrize(
    "conf",
    [
        told(("1", "2"), 3, 49),  # It was made a voter behind that, and nobody was left to tell the charm.
        told(("1", "2"), 2, 400),
        told(("0", "1", "2"), 3, 50),
        msgspec.structs.replace(told(("1", "2"), 9, 900), db_epoch=1),  # Of the epoch before.
    ],
)
def test_what_is_told_of_an_older_log_keeps_nobody_waiting(conf):
    view = dataclasses.replace(SURVIVOR, conf=conf)
    if conf.db_epoch:
        view = dataclasses.replace(view, disk=dataclasses.replace(GOOD, identity=msgspec.structs.replace(ME, epoch=E2)))
    assert isinstance(decide(view), Reconfigure)


@pytest.mark.parametrize("missing", MISSING_WITNESS)
def test_one_missing_witness_means_waiting_with_its_reason(missing):
    change, sentence = MISSING_WITNESS[missing]
    action = decide(dataclasses.replace(SURVIVOR, **change))
    assert isinstance(action, Wait), missing
    assert sentence in action.reason


def test_silence_shorter_than_the_hold_is_an_election():
    view = dataclasses.replace(SURVIVOR, running=dataclasses.replace(LONELY, silent_seconds=1.0))
    assert isinstance(decide(view), Serve)


def test_over_every_combination_the_irreversible_actions_need_all_their_reasons():
    confs = (
        None,
        ALONE,
        conf(),
        conf(bootstrapped=False),
        conf(bootstrapped=False, db_bind_addresses={"0": "10.0.0.10"}),
    )
    disks = (Disk(), Disk(identity=ME), GOOD, dataclasses.replace(GOOD, fingerprint="copy"), Disk(has_files=True))
    runs = (
        None,
        LONELY,
        Running("voter", "", 1.0, LastEntry(3, 50)),
        Running("spare", "", 10.0),
        Running("voter", NAMES[1], 0.0, LastEntry(3, 50)),
    )
    one = (
        silent("1"),
        silent("1", 1.0),
        silent("1", None),
        blank("1"),
        member("1"),
        member("1", leader=NAMES[1]),
        member("1", epoch=E2),
        member("1", empty=True),
    )
    two = (silent("2"), member("2"), blank("2"))
    seen: set[type] = set()
    for c, disk, run, first, second, asked, recorded in itertools.product(
        confs, disks, runs, one, two, (True, False), (3, 9)
    ):
        if run is not None and disk is not GOOD:
            continue
        view = View(
            conf=c,
            disk=disk,
            running=run,
            peers=(first, second),
            members=NAMES,
            recorded_generation=recorded,
            peers_asked=asked,
        )
        action = decide(view)
        seen.add(type(action))
        assert action.reason
        if isinstance(action, Bootstrap):
            assert c is not None and not c.bootstrapped and c.bootstrap_controller == "0" and c.own_address
            assert disk == Disk() and run is None and asked
            assert not any(p.answers and p.holds_data for p in view.peers)
        if isinstance(action, Reconfigure):
            assert c is not None and run is LONELY and recorded < c.generation
            without_data = {p.controller_id for p in view.peers if p.holds_data is False or p.empty}
            assert set(c.others) <= without_data
            assert all(
                p.controller_id in without_data or (p.silent_seconds or 0) >= view.hold_seconds for p in view.peers
            )
        if isinstance(action, Start | Join) and disk.identity is not None:
            assert disk is GOOD
    assert seen == {Wait, Serve, Bootstrap, Start, Join, PutAside, Forget, Supersede, Reconfigure}
