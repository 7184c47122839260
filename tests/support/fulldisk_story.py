"""The leader's disk fills up. In a mount namespace of its own: `unshare --mount python fulldisk_story.py FOLDER`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "lib"), str(ROOT / "tests" / "support")]

from loopback import Cluster  # noqa: E402
from rows import database, read, write  # noqa: E402

BIG = 60_000


def health(cluster: Cluster, n: int) -> tuple[str, int, str]:
    section = cluster.status(n)["cluster"]
    return section["health"], section["may-lose"], section["advice"]


async def keep_writing(cluster: Cluster, count: int) -> int:
    """Write so much that the log needs new segments. Returns how many rows were acknowledged."""
    where = database(cluster, 0, 1, 2)
    done = 0

    async def prepare(tx):
        await tx.execute("CREATE TABLE big (n INTEGER NOT NULL PRIMARY KEY, filler BLOB)")

    await where.run(prepare, deadline_seconds=15)
    for n in range(count):

        async def insert(tx, n=n):
            await tx.execute("INSERT OR IGNORE INTO big (n, filler) VALUES (?, zeroblob(?))", (n, BIG))

        for _ in range(3):
            try:
                await where.run(insert, deadline_seconds=15)
                done += 1
                break
            except Exception as error:
                print(f"row {n}: {error!r}")
    where.close()
    return done


def main(folder: Path) -> None:
    with Cluster(folder, 81) as cluster:
        small = cluster.state_dir(0)
        small.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(small)], check=True)
        cluster.form(3)
        write(cluster, 0, 1, 2, value=1)
        assert cluster.leader(1) == 0
        cluster.wait(lambda: health(cluster, 1) == ("healthy", 1, ""), "healthy before")

        with (small / "filler").open("wb") as file:
            file.truncate(0)
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError as error:
                assert "No space" in str(error)  # noqa: PT017

        def tells_of_it(n: int) -> bool:
            # It may be degraded for a moment for another reason first.
            state, margin, message = health(cluster, n)
            return (state, margin) == ("degraded", 0) and "controller 0: 0 MiB are free" in message

        for n in (0, 1):
            cluster.wait(lambda n=n: tells_of_it(n), f"{n} tells of the full disk")
        assert any(w["for"] == "disk" for w in cluster.status(0)["waits"])

        assert asyncio.run(keep_writing(cluster, 700)) == 700
        cluster.wait(lambda: cluster.leader(1) in (1, 2), "another leader, whose disk can take what is written")
        assert cluster.alive(0)

        (small / "filler").unlink()
        cluster.wait(lambda: health(cluster, 1) == ("healthy", 1, ""), "healthy again by itself", 40)
        assert read(cluster, 0, 1, 2) == [1]
        print("told")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
