"""A start on a full disk. In a mount namespace of its own: `unshare --mount python fullstart_story.py FOLDER COUNT`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "lib"), str(ROOT / "tests" / "support")]

from loopback import Cluster  # noqa: E402
from rows import read, write  # noqa: E402

# So many tries to start, one each second, are made while the disk is full.
TRIES = 5


def fill(filler: Path) -> None:
    free = os.statvfs(filler.parent)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)


def dqlite_id(directory: Path) -> int:
    return int(json.loads((directory / "identity.json").read_text())["dqlite-id"])


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def main(folder: Path, count: int) -> None:
    with Cluster(folder, 88) as cluster:
        small, everybody = cluster.state_dir(0), range(count)
        small.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(small)], check=True)
        cluster.form(count)
        write(cluster, *everybody, value=1)
        before = dqlite_id(small)
        cluster.kill(0)
        fill(small / "filler")
        if count > 1:
            cluster.wait(lambda: cluster.leader(1) in everybody[1:], "the others have a leader")
            write(cluster, *everybody[1:], value=2)

        cluster.start(0)

        def says_why() -> bool:
            waits = cluster.status(0).get("waits", [])
            return any(w["for"] == "retry" and "space" in w["reason"] for w in waits)

        cluster.wait(says_why, "it says why it does not start")
        opened = descriptors(cluster.pid(0))
        time.sleep(TRIES)
        assert says_why(), cluster.status(0)
        # A few for connections that come and go; what a try left open would be four each time.
        assert descriptors(cluster.pid(0)) < opened + TRIES * 3

        (small / "filler").unlink()
        cluster.wait(lambda: cluster.serving(0), "it serves by itself once there is room")
        assert dqlite_id(small) == before
        assert not (small / "aside").exists()
        assert read(cluster, *everybody) == [1, 2][: min(2, count)]
        print("told")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
