"""Two of three are gone for good while a writer writes: the one that is left may have lost the end of the log only."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import rows
from faultrun.writer import Writer
from loopback import Cluster


@pytest.mark.parametrize("survivor_leads", [True, False])
def test_what_the_survivor_lacks_is_the_end_and_everything_after_is_kept(tmp_path: Path, survivor_leads: bool):
    with Cluster(tmp_path, block=68) as cluster:
        cluster.form(3)
        leader = cluster.leader(0)
        assert leader is not None
        survivor = leader if survivor_leads else next(n for n in range(3) if n != leader)
        lost = [n for n in range(3) if n != survivor]
        writer = Writer(cluster, range(3))
        with writer.writing():
            cluster.wait(lambda: len(writer.acknowledged()) > 50, "the writer is in full flow")
            cluster.kill(*lost)
            cut = time.monotonic()
            cluster.configure([survivor], departed=[str(n) for n in lost])
            cluster.wait(lambda: cluster.epoch(survivor) == 2 and cluster.serving(survivor), "it goes on alone")
            alone = time.monotonic()
            cluster.wait(lambda: len(writer.acknowledged(alone)) > 20, "and the writer with it")
        there = set(rows.read(cluster, survivor))
        section = cluster.status(survivor)["cluster"]

    before = [a.number for a in writer.attempts if a.outcome == "acknowledged" and a.done <= cut]
    kept = [n for n in before if n in there]
    assert kept == before[: len(kept)], "something in the middle is missing"
    assert [a.number for a in writer.acknowledged(cut) if a.number not in there] == []
    assert [a.number for a in writer.attempts if a.outcome == "refused" and a.number in there] == []
    assert section["log-ended-at"] > 0, "and it says where its log ended"
    assert sorted(section["dropped"]) == sorted(str(n) for n in lost)
