"""Power cuts that a disk remembers: `python -m faultrun.powerloss FOLDER SEED ROUNDS`, in a mount namespace of its own.

SIGKILL leaves everything in the page cache, so it proves nothing about fsync. Here every controller has a file system
of its own, and a cut shuts it down at once: what was not synced is gone when it is mounted again.
"""

from __future__ import annotations

import fcntl
import os
import random
import struct
import subprocess
import sys
import time
from pathlib import Path

from faultrun import client, verdict
from faultrun.clients import OPS, Clients
from loopback import Cluster

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
_WITHOUT_FLUSH = struct.pack("I", 2)  # Not even the journal gets what memory held.
_SIZE = 256 << 20
_COUNT = 3


def run(*line: str | Path) -> None:
    subprocess.run([str(word) for word in line], check=True, stdout=subprocess.DEVNULL)


def sync(file: Path) -> None:
    """Make this file and its name durable, and nothing else."""
    for path in (file, file.parent):
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


class Disks:
    """One ext4 in a file for each controller, mounted where its state lives."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for n in range(_COUNT):
            with self._image(n).open("wb") as image:
                image.truncate(_SIZE)
            run("mkfs.ext4", "-q", "-F", self._image(n))
            (folder / str(n)).mkdir()
            self.mount(n)

    def mount(self, n: int) -> None:
        run("mount", "-o", "loop", self._image(n), self._folder / str(n))

    def unmount(self, n: int) -> None:
        run("umount", self._folder / str(n))

    def cut(self, n: int) -> None:
        """From now on nothing reaches this disk."""
        folder = os.open(self._folder / str(n), os.O_RDONLY)
        try:
            fcntl.ioctl(folder, _SHUTDOWN, _WITHOUT_FLUSH)
        finally:
            os.close(folder)

    def _image(self, n: int) -> Path:
        return self._folder / f"{n}.ext4"


def main() -> None:
    folder, seed, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    dice = random.Random(seed)
    disks = Disks(folder)
    everybody = range(_COUNT)
    with Cluster(folder, block=69) as cluster, Clients(folder / "history", seed) as clients:
        cluster.form(_COUNT)
        for n in everybody:
            sync(cluster.state_dir(n) / "controller.conf")  # The charm does so; the test wrote it here.
        addresses = {str(n): cluster.address(n) for n in everybody}
        clients.start(addresses)
        clients.until_asking()
        for _ in range(rounds):
            time.sleep(dice.uniform(0.5, 2.0))
            for n in everybody:
                disks.cut(n)
            cluster.kill(*everybody)
            for n in everybody:
                disks.unmount(n)
                disks.mount(n)
            cluster.start(*everybody)
            cluster.wait(
                lambda: cluster.serving(*everybody) and cluster.role_counts(0) == (3, 0, 0), "three voters again", 60
            )
        clients.finish()
        clients.read_everything(addresses)
        result = verdict.judge(clients.events(), client.ACCOUNTS * client.BALANCE)
    for n in everybody:
        disks.unmount(n)
    print(result)
    empty = [op for op in sorted(OPS) if result.acknowledged(op) <= 1]
    raise SystemExit(f"nothing is proved about {empty}" if empty else bool(result.problems))


if __name__ == "__main__":
    main()
