"""Members that were left behind come back, with the old majority between them: they acknowledge nothing."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from faultrun.writer import Writer
from loopback import Cluster

_LATEST_SECONDS = 1.0
_WATCH_SECONDS = 4.0


def resumed(cluster: Cluster, away: list[int]) -> Callable[[], None]:
    """The others are stopped for as long as the survivor needs, and then go on where they were."""
    for n in away:
        cluster.signal(n, signal.SIGSTOP)

    def back() -> None:
        for n in away:
            cluster.signal(n, signal.SIGCONT)

    return back


def rebooted(cluster: Cluster, away: list[int]) -> Callable[[], None]:
    """The others lose their power, and boot with the configuration they had."""
    cluster.kill(*away)
    return lambda: cluster.start(*away)


@pytest.mark.parametrize("lost", [resumed, rebooted])
def test_two_that_return_acknowledge_nothing_and_keep_their_data_aside(tmp_path: Path, lost):
    with Cluster(tmp_path, block=62) as cluster:
        cluster.form(3)
        away = [1, 2]
        cluster.kill(0)  # So that one of those leads who will be left behind, and clients know them.
        cluster.wait(lambda: cluster.leader(1) in away, "one of the others leads")
        cluster.start(0)
        cluster.wait(lambda: cluster.serving(0) and cluster.role_counts(0) == (3, 0, 0), "three voters again", 40)
        client = Writer(cluster, away, pause_seconds=0.01)
        with client.writing():
            cluster.wait(client.acknowledged, "they acknowledge as long as they may")
            back = lost(cluster, away)
            cluster.configure([0], departed=["1", "2"])
            cluster.wait(lambda: cluster.epoch(0) == 2 and cluster.serving(0), "0 goes on alone")
            until_lost = len(client.acknowledged())
            back()
            returned = time.monotonic()
            while time.monotonic() < returned + _WATCH_SECONDS:
                time.sleep(0.1)  # They have every chance to do the wrong thing.

        late = [a.done - returned for a in client.acknowledged(returned + _LATEST_SECONDS)]
        assert late == [], f"acknowledged so many seconds after they met a newer epoch: {late}"
        if lost is rebooted:
            assert len(client.acknowledged()) == until_lost, "a rebooted node asks before it starts"
        for n in away:
            cluster.wait(lambda n=n: list((cluster.state_dir(n) / "aside").glob("dqlite-*")), f"{n}'s data is aside")
            assert "superseded by epoch 2" in (cluster.root / f"{n}.log").read_text()
        assert cluster.roles(0) == {0: "voter"}, "and they stay out, as the configuration says"
