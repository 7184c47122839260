"""How a person reads the leases."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controller import leaseview


def lease(name: str, holder: str = "1", **changes: Any) -> dict[str, Any]:
    return {
        "namespace": "singular-controller",
        "model": name,
        "name": name,
        "holder": holder,
        "token": "1.2",
        "since": 1795514000,
        "duration-seconds": 5.0,
        "late-renewals": 0,
    } | changes


def parsed(*leases: dict[str, Any], **changes: Any) -> leaseview.Leases:
    return leaseview.parse(json.dumps({"holder": "0", "leases": leases, **changes}).encode())


def test_leases_go_by_the_names_of_what_they_are_for():
    found = parsed(lease("u-2") | {"late-renewals": 3}, lease("set"), lease("u-1", holder=""))

    assert list(leaseview.lines(found, {"u-1": "one", "u-2": "two"}, "set")) == [
        "FOR            NAMESPACE            HOLDER  TOKEN  SINCE                LATE RENEWALS",
        "(controllers)  singular-controller  1       1.2    2026-11-24 09:53:20  0",
        "one            singular-controller  nobody  1.2    2026-11-24 09:53:20  0",
        "two            singular-controller  1       1.2    2026-11-24 09:53:20  3",
    ]


def test_a_free_lease_of_a_model_that_is_gone_is_left_out_and_a_held_one_is_shown():
    found = parsed(lease("gone", holder=""), lease("going", holder="2"), problem="no leader")

    assert [line.split()[:1] for line in leaseview.lines(found, {}, "set")] == [["FOR"], ["going"], [], ["as"]]


def test_something_that_is_no_list_of_leases_is_refused():
    with pytest.raises(leaseview.BadLeases, match="no list of leases"):
        leaseview.parse(b"{}")
