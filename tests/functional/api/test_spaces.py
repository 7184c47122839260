"""Spaces from hactl to the published lists of real controllers: set, changed, unknown and unset."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hactl
from loopback import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, 87, tls=True) as made:
        yield made


def test_the_management_space_moves_the_agents_list_within_seconds_and_never_the_clients(cluster: Cluster):
    cluster.form(2)
    first = cluster.state_dir(0)
    one, two = (f"{cluster.address(n)}:17070" for n in range(2))

    def shown() -> dict[str, Any]:
        found: dict[str, Any] = hactl.ask(first, "spaces")
        return found

    cluster.wait(lambda: set(shown()["clients"]) == {"0", "1"}, "both lists")
    clients = shown()["clients"]
    assert clients == {"0": [one], "1": [two]}

    # Controllers of one machine have one address each, so a space narrows nothing here; that, tests/unit shows. What
    # is seen here is the way: hactl, the row, the setter, the published note.
    hactl.ask(first, "add-space", "blue", f"{cluster.address(0)}/32")
    hactl.ask(first, "controller-config", "juju-mgmt-space=blue")
    at = time.monotonic()
    cluster.wait(lambda: shown()["notes"], "the fallback is said")
    assert time.monotonic() - at < 5
    (note,) = shown()["notes"]
    assert "controller 1 has no address in juju-mgmt-space blue" in note
    assert shown()["management-space"] == "blue"
    text = hactl.run(cluster.state_dir(1), "spaces").stdout
    assert "blue*" in text
    assert f"note: {note}" in text

    done = hactl.run(first, "remove-space", "blue")
    assert (done.returncode, "juju-mgmt-space=" in done.stderr) == (1, True), done
    hactl.ask(first, "controller-config", "juju-mgmt-space=nowhere")
    cluster.wait(lambda: any("no space has that name" in n for n in shown()["notes"]), "an unknown space is said")
    hactl.ask(first, "remove-space", "blue")
    hactl.ask(first, "controller-config", "juju-mgmt-space=")
    cluster.wait(lambda: not shown()["notes"], "nothing is left to say")
    assert [s["name"] for s in shown()["spaces"]] == ["alpha"]
    assert shown()["clients"] == clients

    done = hactl.run(first, "add-space", "blue", "10.1.0.1/16")
    assert done.returncode == 1
    assert "'10.1.0.1/16' is no subnet" in done.stderr
