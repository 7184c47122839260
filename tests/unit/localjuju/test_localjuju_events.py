"""The order of hooks, as Juju's uniter decides it, without any unit."""

import dataclasses

import pytest
from localjuju import events
from localjuju.events import Facts, Hook, RelationFacts, Seen

REMOTE = {"app/1": 1, "app/2": 1}


def facts(members=None, **changes):
    relation = RelationFacts("peer", "app", dict(REMOTE if members is None else members), changes.pop("app_version", 0))
    values = {"unit": "app/0", "dying": False, "leader": False, "config": "c1", "charm": 0, "relations": {0: relation}}
    return Facts(**{**values, **changes})


def play(seen, now, most=50):
    """Run every due hook to its good end. Returns their names with the remote unit."""
    told = []
    while (hook := events.next_hook(seen, now)) is not None:
        told.append(f"{hook.name} {hook.remote_unit}".strip())
        events.commit(seen, hook, now)
        assert len(told) < most, told
    return told


def settled(now):
    seen = Seen()
    play(seen, now)
    return seen


STARTUP = ["install", "peer-relation-created", "config-changed", "start"]


def test_a_lone_leader_starts_in_jujus_order():
    assert play(Seen(), facts({}, leader=True)) == [
        "install",
        "peer-relation-created",
        "leader-elected",
        "config-changed",
        "start",
    ]


def test_peers_are_joined_after_start_each_with_its_first_changed():
    assert play(Seen(), facts()) == [
        *STARTUP,
        "peer-relation-joined app/1",
        "peer-relation-changed app/1",
        "peer-relation-joined app/2",
        "peer-relation-changed app/2",
    ]


def test_nothing_is_told_twice():
    now = facts(leader=True)

    assert play(settled(now), now) == []


def test_any_number_of_versions_is_one_changed():
    assert play(settled(facts()), facts({"app/1": 7, "app/2": 1})) == ["peer-relation-changed app/1"]


def test_the_application_bag_changes_without_a_remote_unit():
    seen = settled(facts())

    hook = events.next_hook(seen, facts(app_version=3))

    assert hook == Hook("relation-changed", "peer", 0, "", "app", "")
    assert play(seen, facts(app_version=3)) == ["peer-relation-changed"]


def test_a_change_undone_before_it_was_told_is_never_told():
    seen = settled(facts({}))

    assert play(seen, facts({})) == []  # app/1 came and went in between.


def test_a_departure_comes_before_the_arrival_of_another():
    told = play(settled(facts({"app/1": 1})), facts({"app/9": 1}))

    assert told == ["peer-relation-departed app/1", "peer-relation-joined app/9", "peer-relation-changed app/9"]


def test_a_peer_that_leaves_right_after_it_joined_is_owed_nothing():
    seen = settled(facts({}))
    events.commit(seen, Hook("relation-joined", "peer", 0, "app/1", "app"), facts({"app/1": 1}))

    assert play(seen, facts({})) == ["peer-relation-departed app/1"]


def test_a_leaver_departs_from_every_peer_then_breaks_stops_and_is_removed():
    now = facts(dying=True, config="new", leader=True)
    seen = settled(facts())

    hooks = []
    while (hook := events.next_hook(seen, now)) is not None:
        hooks.append(hook)
        events.commit(seen, hook, now)

    assert [h.kind for h in hooks] == ["relation-departed", "relation-departed", "relation-broken", "stop", "remove"]
    assert {h.departing_unit for h in hooks[:2]} == {"app/0"}
    assert seen.removed


def test_a_unit_that_was_never_installed_has_nothing_to_say_goodbye_to():
    assert events.next_hook(Seen(), facts(dying=True)) is None


@pytest.mark.parametrize("kind", ["install", "start", "config-changed", "relation-joined"])
def test_a_failed_hook_is_next_whatever_else_happened(kind):
    seen = settled(facts())
    failed = Hook(kind, "peer" if kind.startswith("relation") else "", 0 if kind.startswith("relation") else None)
    seen.failed = failed

    for now in (facts(), facts({}), facts(dying=True), facts(config="other", leader=True)):
        assert events.next_hook(seen, now) == failed


def test_leadership_lost_is_silent_and_won_back_is_told():
    seen = settled(facts(leader=True))

    events.stand_down(seen, facts(leader=False))
    assert play(seen, facts(leader=False)) == []
    assert play(seen, facts(leader=True)) == ["leader-elected"]


def test_a_reboot_brings_config_changed_and_start_only():
    seen = settled(facts())
    seen.reboot()

    assert play(seen, facts()) == ["config-changed", "start"]


def test_a_new_charm_brings_upgrade_charm_and_config_changed():
    assert play(settled(facts()), facts(charm=1)) == ["upgrade-charm", "config-changed"]


def test_update_status_comes_last_and_any_other_hook_stands_in_for_it():
    assert play(settled(facts()), facts(status_updates=3)) == ["update-status"]
    assert play(settled(facts()), facts(status_updates=3, config="c2")) == ["config-changed"]


def test_a_secret_with_a_newer_revision_is_told_once():
    now = facts(secret_revisions={"s": 2}, obsolete=(("t", 1),))

    assert play(settled(facts()), now) == ["secret-changed", "secret-remove"]


def test_a_joining_unit_is_seen_and_a_departing_one_is_not():
    seen = settled(facts({"app/1": 1}))

    def shown(kind, unit):
        return events.begin(seen, Hook(kind, "peer", 0, unit))[0]

    assert shown("relation-joined", "app/2") == {"app/1", "app/2"}
    assert shown("relation-departed", "app/1") == set()
    assert seen.relations[0].members == {"app/1": 1}, "looking changes nothing"


def test_what_changed_while_a_hook_ran_is_told_after_it():
    seen, before = settled(facts()), facts({"app/1": 2, "app/2": 1})
    hook = events.next_hook(seen, before)
    now = dataclasses.replace(before, relations={0: RelationFacts("peer", "app", {"app/1": 3, "app/2": 1}, 0)})

    events.commit(seen, hook, before)

    assert play(seen, now) == ["peer-relation-changed app/1"]
