"""What the table of controllerd's workers hands on from one to another."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from controller import manifolds
from controller.leases import timing


@pytest.mark.parametrize("latency_ms", [10, 50])
def test_leases_are_timed_for_the_network_that_the_configuration_describes(latency_ms: int):
    databases = SimpleNamespace(
        database=lambda name: SimpleNamespace(group_commit=lambda batch: None),
        identity=SimpleNamespace(controller_id="0"),
        epoch=None,
        network_latency_ms=latency_ms,
    )

    manager = manifolds._lease_manager(lambda name, kind: databases)

    assert manager.timing == timing.for_latency(latency_ms)
