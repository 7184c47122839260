"""Spaces and bindings decide what network-get says; cuts are silent, partial, one-way if asked, and heal."""

import subprocess
import sys

import pytest
from localjuju.client import ClientError

import pulserun

# Prints what the unit's service answers, or how it failed to.
PROBE = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], 9000), timeout=1) as s:
        s.settimeout(1)
        print(s.recv(99).decode())
except OSError as error:
    print(type(error).__name__)
"""


@pytest.fixture
def run(tmp_path):
    with pulserun.pulse_run(tmp_path) as run:
        yield run


def _probe(run, source, target):
    """Start asking unit *target* from unit *source*."""
    argv = [sys.executable, "-c", PROBE, f"10.77.0.{10 + target}"]
    return subprocess.Popen(run.client.on_unit(f"controller/{source}", argv), stdout=subprocess.PIPE, text=True)


def _answers(run):
    """What each unit hears from each other one, all asked at once."""
    asked = {(a, b): _probe(run, a, b) for a in range(3) for b in range(3) if a != b}
    return {pair: process.communicate(timeout=60)[0].strip() for pair, process in asked.items()}


def _reaches(run):
    return {(a, b) for (a, b), answer in _answers(run).items() if answer == f"juju-controller-{b}"}


def test_cuts_drop_silently_between_the_named_and_heal(run):
    run.deploy(units=3)
    everything = {(a, b) for a in range(3) for b in range(3) if a != b}
    assert _reaches(run) == everything

    # One unit against all others.
    run.client.call("cut", units=["controller/0"])
    assert _reaches(run) == {(1, 2), (2, 1)}
    assert _answers(run)[0, 1] == "TimeoutError", "dropped, not refused"
    outside = run.client.inside([sys.executable, "-c", PROBE, "10.77.0.10"])
    assert subprocess.run(outside, capture_output=True, text=True, check=True).stdout.strip() == "juju-controller-0"

    # Healed by name; then one pair; then one direction, in which case no TCP connection comes to be at all.
    run.client.call("heal", units=["controller/0"])
    assert _reaches(run) == everything
    run.client.call("cut", units=["controller/0"], other="controller/1")
    assert _reaches(run) == everything - {(0, 1), (1, 0)}
    run.client.call("heal", units=[])
    run.client.call("cut", units=["controller/0"], other="controller/1", one_way=True)
    assert _reaches(run) == everything - {(0, 1), (1, 0)}
    assert "u1e0" in _drops(run) and '"u0e0" . "u1e0"' not in _drops(run)
    with pytest.raises(ClientError, match="--from"):
        run.client.call("cut", units=["controller/0"], one_way=True)

    # A cut outlives a boot, and the namespace outside can be cut off as well.
    run.client.call("heal", units=[])
    run.client.call("cut", units=["controller/2"], other="outside")
    assert _reaches(run) == everything
    outside[-1] = "10.77.0.12"
    assert subprocess.run(outside, capture_output=True, text=True, check=True).stdout.strip() == "TimeoutError"
    run.client.call("cut", units=["controller/2"])
    before = run.client.call("enter", unit="controller/2")
    run.client.call("reboot", unit="controller/2")
    pulserun.until(lambda: _is_back(run, before), 30, "unit 2 to be back")
    run.settle()
    assert _reaches(run) == {(0, 1), (1, 0)}


def _is_back(run, before):
    try:
        return run.client.call("enter", unit="controller/2") != before
    except ClientError:
        return False


def _drops(run):
    line = run.client.inside(["nft", "list", "set", "bridge", "localjuju", "between"])
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout


def test_a_binding_chooses_among_the_addresses_of_a_unit(run):
    run.client.call("add-space", name="db", cidr="10.88.0.0/24")
    run.deploy(extra_address=["10.88.0.5/24"])
    assert run.workload(0) == ("active", "10.77.0.10 10.88.0.5"), "alpha shows every address"

    run.client.call("bind", app="controller", bindings={"db-cluster": "db"})
    run.client.wait(lambda s: run.workload(0) == ("active", "10.88.0.5"), 30, "the binding to narrow it down")
    assert run.told(0)[-1] == "config-changed"

    # A new unit without an address in that space gets Juju's own words, and is told when there is one.
    run.add_unit()
    assert run.workload(1)[0] == "waiting"
    assert 'has no devices in space "db", only spaces "alpha"' in run.workload(1)[1]
    run.client.call("add-address", unit="controller/1", cidr="10.88.0.6/24")
    run.client.wait(lambda s: run.workload(1) == ("active", "10.88.0.6"), 30, "the new address to be seen")
    assert "10.88.0.6/24" in run.exec(1, "ip", "-brief", "address", "show", "eth1")
    assert run.client.status()["machines"]["1"]["ip-addresses"] == ["10.77.0.11", "10.88.0.6"]

    for verb, params, reason in (
        ("bind", {"bindings": {"db-cluster": "nowhere"}}, "space .* not found"),
        ("bind", {"bindings": {"nothing": "db"}}, "endpoint .* not found"),
        ("add-unit", {"extra_address": ["10.88.0.5/24"]}, "already in use"),
    ):
        with pytest.raises(ClientError, match=reason):
            run.client.call(verb, app="controller", **params)


def test_two_addresses_in_one_subnet_and_ipv6(run):
    run.deploy()

    run.client.call("add-address", unit="controller/0", cidr="10.77.0.99/24")
    run.client.wait(lambda s: run.workload(0)[1] == "10.77.0.10 10.77.0.99", 30, "both addresses")
    run.client.call("add-space", name="six", cidr="fd00:77::/64")
    run.client.call("add-address", unit="controller/0", cidr="fd00:77::/64")
    run.client.wait(lambda s: "fd00:77::a" in run.workload(0)[1], 30, "the IPv6 address")

    assert "fd00:77::a/64" in run.exec(0, "ip", "-brief", "address", "show", "eth1")
