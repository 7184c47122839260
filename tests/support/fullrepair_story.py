"""Repairs on a full disk. In a mount namespace of its own: `unshare --mount python fullrepair_story.py FOLDER`."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "lib"), str(ROOT / "tests" / "support")]

from loopback import Cluster  # noqa: E402
from offline import hactl, insert, rows  # noqa: E402

# So many bytes are left free: each lets the work come a little further before it meets the end.
FREE = (0, 4 << 10, 12 << 10, 24 << 10, 200 << 10, 3 << 20)


def state(directory: Path) -> dict[str, str]:
    """What the controller starts on: its identity and the node's files."""
    files = [directory / "identity.json", *(p for p in (directory / "dqlite").iterdir() if p.is_file())]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(files)}


def leave_free(filler: Path, size: int) -> None:
    filler.unlink(missing_ok=True)
    free = os.statvfs(filler.parent)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_frsize - size))


def main(folder: Path) -> None:
    with Cluster(folder, 82) as cluster:
        small = cluster.state_dir(0)
        small.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=90m", "tmpfs", str(small)], check=True)
        cluster.form(1)
        insert(cluster, [0], range(10))
        archive = folder / "good.tar"
        asked = ("--state-dir", small, "backup")
        wanted = ("--namespace", "t", "--namespace", "controller", "--unlisted")
        made = hactl(*asked, archive, *wanted)
        assert made.returncode == 0, made.stderr

        old = small / "yesterday.tar"
        old.write_text("the backup of yesterday")
        leave_free(small / "filler", 8 << 10)
        refused = hactl(*asked, old, *wanted)
        assert (refused.returncode, "was not written" in refused.stderr) == (1, True), refused.stderr
        assert old.read_text() == "the backup of yesterday"
        assert not [p for p in small.iterdir() if p.name.startswith((".yesterday", ".hactl"))]
        (small / "filler").unlink()
        cluster.kill(0)

        before = state(small)
        for words in (("recover", small, "--apply"), ("restore", archive, "--into", small, "--put-aside")):
            for size in FREE:
                leave_free(small / "filler", size)
                full = hactl(*words)
                assert (full.returncode, "nothing was changed" in full.stderr) == (1, True), (size, full)
                assert state(small) == before, (words[0], size)
                left = {p.name for p in small.iterdir()}
                assert not left & {"journal.json", "dqlite.new", "dqlite.unpacked", "aside"}, (size, left)
        (small / "filler").unlink()
        cluster.start(0)
        cluster.wait(lambda: cluster.serving(0), "it serves as if nothing had been")
        assert rows(cluster, [0]) == list(range(10))
        assert cluster.epoch(0) == 1
        cluster.kill(0)
        restoring = ("restore", archive, "--into", small, "--put-aside")
        for epoch, words in ((2, ("recover", small, "--apply")), (3, restoring)):
            done = hactl(*words)
            assert done.returncode == 0, done.stderr
            cluster.start(0)
            cluster.wait(lambda: cluster.serving(0), f"it serves after {words[0]}")
            assert (rows(cluster, [0]), cluster.epoch(0)) == (list(range(10)), epoch)
            cluster.kill(0)
        print("told")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
