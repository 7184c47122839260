"""Members that were left behind come back, with the old majority between them: they acknowledge nothing."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dbaccessor import errors
from dbaccessor.database import Database, Transaction
from dbaccessor.leader import OutsideConnector
from loopback import Cluster

_LATEST_SECONDS = 1.0
_WATCH_SECONDS = 4.0


class Persistent:
    """A client that knows only some controllers, and tries to write through them as often as it can."""

    def __init__(self, cluster: Cluster, *numbers: int) -> None:
        self.acknowledged: list[tuple[int, float]] = []
        self._number = 0
        self._addresses = {str(n): cluster.address(n) for n in numbers}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    @contextlib.contextmanager
    def trying(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join(20)

    async def _run(self) -> None:
        with contextlib.closing(Database(OutsideConnector(lambda: self._addresses), "t")) as database:
            while not self._stop.is_set():
                self._number += 1
                with contextlib.suppress(errors.DbAccessorError):
                    await database.run(self._insert, deadline_seconds=2)
                    self.acknowledged.append((self._number, time.monotonic()))
                await asyncio.sleep(0.01)

    async def _insert(self, tx: Transaction) -> None:
        await tx.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER NOT NULL)")
        await tx.execute("INSERT INTO t (n) VALUES (?)", [self._number])


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
        client = Persistent(cluster, *away)
        with client.trying():
            cluster.wait(lambda: client.acknowledged, "they acknowledge as long as they may")
            back = lost(cluster, away)
            cluster.configure([0], departed=["1", "2"])
            cluster.wait(lambda: cluster.epoch(0) == 2 and cluster.serving(0), "0 goes on alone")
            until_lost = len(client.acknowledged)
            back()
            returned = time.monotonic()
            while time.monotonic() < returned + _WATCH_SECONDS:
                time.sleep(0.1)  # They have every chance to do the wrong thing.

        late = [at - returned for _, at in client.acknowledged if at > returned + _LATEST_SECONDS]
        assert late == [], f"acknowledged so many seconds after they met a newer epoch: {late}"
        if lost is rebooted:
            assert len(client.acknowledged) == until_lost, "a rebooted node asks before it starts"
        for n in away:
            cluster.wait(lambda n=n: list((cluster.state_dir(n) / "aside").glob("dqlite-*")), f"{n}'s data is aside")
            assert "superseded by epoch 2" in (cluster.root / f"{n}.log").read_text()
        assert cluster.roles(0) == {0: "voter"}, "and they stay out, as the configuration says"
