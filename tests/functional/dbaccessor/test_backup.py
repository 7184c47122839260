"""hactl backup of running controllers, and hactl restore of what it wrote: into one, which then grows."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
import stat
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dbaccessor import errors
from libraryversion import missing_databases_refused
from loopback import Cluster
from offline import database, hactl, insert, rows, told
from stepwise import enumerate_steps


@pytest.fixture
def cluster(tmp_path: Path):
    with Cluster(tmp_path) as made:
        yield made


def run_sql(cluster: Cluster, numbers: list[int], *statements: str, name: str = "t") -> None:
    async def inside() -> None:
        where = database(cluster, numbers, name)
        for sql in statements:

            async def do(tx, sql=sql):
                await tx.execute(sql)

            await where.run(do, deadline_seconds=20)
        where.close()

    asyncio.run(inside())


@contextlib.contextmanager
def two_counters(cluster: Cluster, numbers: list[int]) -> Iterator[list[int]]:
    """A writer that raises two counters together, in rows far apart; yields the number of its transactions."""
    run_sql(
        cluster,
        numbers,
        "CREATE TABLE c (name TEXT PRIMARY KEY, n INTEGER NOT NULL, filler TEXT NOT NULL)",
        "INSERT INTO c VALUES ('a', 0, ''), ('b', 0, '')",
        "INSERT INTO c SELECT hex(randomblob(8)), 0, hex(randomblob(300)) FROM json_each('[1,2,3,4,5,6,7,8,9]'), "
        "json_each('[1,2,3,4,5,6,7,8,9]'), json_each('[1,2,3,4,5,6,7,8,9]')",
    )
    done, stop = [0], threading.Event()

    async def write() -> None:
        where = database(cluster, numbers)

        async def both(tx):
            await tx.execute("UPDATE c SET n = n + 1 WHERE name = 'a'")
            await tx.execute("UPDATE c SET n = n + 1, filler = hex(randomblob(300)) WHERE rowid % 50 = 1")
            await tx.execute("UPDATE c SET n = (SELECT n FROM c WHERE name = 'a') WHERE name = 'b'")

        while not stop.is_set():
            with contextlib.suppress(errors.Indefinite):
                await where.run(both, deadline_seconds=20)
                done[0] += 1
        where.close()

    thread = threading.Thread(target=lambda: asyncio.run(write()))
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()


def counters(archive: Path, folder: Path) -> tuple[int, int]:
    with tarfile.open(archive) as tar:
        tar.extract("databases/t.sqlite", folder, filter="data")
    with contextlib.closing(
        sqlite3.connect(f"file:{folder}/databases/t.sqlite?mode=ro&immutable=1", uri=True)
    ) as found:
        return tuple(n for (n,) in found.execute("SELECT n FROM c WHERE name IN ('a', 'b') ORDER BY name"))  # type: ignore[return-value]


def test_a_backup_while_a_writer_runs_is_one_moment_of_each_database(cluster, tmp_path: Path):
    cluster.form(3)
    with two_counters(cluster, [0, 1, 2]) as done:
        seen = []
        for round_ in range(6):
            before = done[0]
            file = tmp_path / f"{round_}.tar"
            # Asked on each controller in turn: the leader gives the content, whoever is asked.
            made = hactl(
                "--state-dir",
                cluster.state_dir(round_ % 3),
                "backup",
                file,
                "--namespace",
                "t",
                "--namespace",
                "controller",
                "--unlisted",
            )
            assert made.returncode == 0, made.stderr
            a, b = counters(file, tmp_path / f"x{round_}")
            assert a == b
            assert a >= before, "what was acknowledged before it began is in it"
            seen.append(a)
    assert seen == sorted(seen)
    assert seen[0] < seen[-1], "the writer wrote meanwhile"
    assert stat.S_IMODE((tmp_path / "0.tar").stat().st_mode) == 0o600


RICH = (
    "CREATE TABLE plain (a, b)",
    "INSERT INTO plain (rowid, a, b) VALUES (5, 1, 'x'), (500, NULL, x'00ff'), (-1, 1.5, CAST(x'61006263' AS TEXT))",
    "CREATE TABLE keyed (k TEXT PRIMARY KEY, v) WITHOUT ROWID",
    "INSERT INTO keyed VALUES ('z', 1), ('a', 2)",
    "CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT, a)",
    "INSERT INTO counted (id, a) VALUES (41, 'gone')",
    "DELETE FROM counted",
    "CREATE TABLE child (p TEXT REFERENCES parent (id), n)",
    "CREATE TABLE parent (id TEXT PRIMARY KEY)",
    "INSERT INTO parent VALUES ('one')",
    "INSERT INTO child VALUES ('one', 1)",
    "CREATE INDEX by_b ON plain (b)",
    "CREATE VIEW seen AS SELECT a FROM plain",
    "CREATE TRIGGER follow AFTER INSERT ON keyed BEGIN INSERT INTO plain (a) VALUES (new.k); END",
    # The last one has many rows.
    """INSERT INTO plain (a, b) WITH RECURSIVE c(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM c LIMIT 1500)
    SELECT n, hex(randomblob(400)) FROM c""",
)


def back_up(cluster: Cluster, n: int, file: Path) -> Path:
    wanted = ("--namespace", "controller", "--namespace", "t", "--unlisted")
    made = hactl("--state-dir", cluster.state_dir(n), "backup", file, *wanted)
    assert made.returncode == 0, made.stderr
    return file


def content_of(file: Path, folder: Path) -> dict:
    from dbaccessor import archive, content

    folder.mkdir()
    _, files = archive.unpack(file, folder)
    with contextlib.closing(content.open_values(archive.open_database(files["t"]))) as found:
        return content.digests(found)


def test_what_is_restored_is_what_was_backed_up_and_it_grows(cluster, tmp_path: Path):
    cluster.form(1)
    run_sql(cluster, [0], *RICH)
    file = back_up(cluster, 0, tmp_path / "b.tar")
    insert(cluster, [0], range(3))  # After the backup: gone by the restore, and said to be in aside/.
    running = hactl("restore", file, "--into", cluster.state_dir(0), "--put-aside")
    assert (running.returncode, "stop it first" in running.stderr) == (1, True)
    cluster.kill(0)

    unasked = hactl("restore", file, "--into", cluster.state_dir(0))
    assert (unasked.returncode, "--put-aside" in unasked.stderr) == (1, True)
    ran = hactl("restore", file, "--into", cluster.state_dir(0), "--put-aside", "--format", "json")
    assert "stopped ten minutes after the start; hactl controller-config local-provider= keeps" in ran.stderr
    done = told(ran)
    assert done["cluster-uuid"] == "loopback"
    assert done["epoch"]["number"] == 2
    assert done["rows"]["t"] > 1500

    cluster.start(0)
    cluster.wait(lambda: cluster.serving(0), "it serves")
    cluster.configure(range(3))
    cluster.start(1, 2)
    cluster.wait(lambda: cluster.role_counts(0) == (3, 0, 0) and cluster.serving(0, 1, 2), "it grows", 60)
    again = back_up(cluster, 1, tmp_path / "again.tar")
    assert content_of(again, tmp_path / "y") == content_of(file, tmp_path / "x")
    insert(cluster, [0, 1, 2], [7])
    assert rows(cluster, [0, 1, 2]) == [7]


def left_behind_with_a_backup(cluster: Cluster, tmp_path: Path) -> Path:
    """Controller 0 dies after a backup, and 1 goes on alone in the next epoch. Return the backup."""
    cluster.form(2)
    insert(cluster, [0, 1], range(3))
    file = back_up(cluster, 0, tmp_path / "b.tar")
    cluster.kill(0)
    cluster.wait(lambda: cluster.request(1, "POST", "/rebuild", 30, {})[1]["done"], "1 goes on alone")
    insert(cluster, [1], range(3, 6))
    return file


def test_a_restore_goes_past_an_epoch_that_only_the_configuration_tells_of(cluster, tmp_path: Path):
    file = left_behind_with_a_backup(cluster, tmp_path)
    cluster.configure(range(2), **{"db-epoch": cluster.epoch(1)})
    cluster.terminate(1)

    restored = told(
        hactl("restore", file, "--into", cluster.state_dir(0), "--put-aside", "--format", "json"),
    )

    assert restored["epoch"]["number"] == 3
    cluster.start(0)
    cluster.wait(lambda: cluster.serving(0), "it serves")
    cluster.start(1)
    cluster.wait(lambda: cluster.role_counts(0) == (2, 0, 0) and cluster.serving(0, 1), "the other joins anew", 60)
    assert rows(cluster, [0, 1]) == list(range(3))


def test_a_forced_restore_goes_past_the_epoch_of_a_cluster_that_lives_and_it_yields(cluster, tmp_path: Path):
    file = left_behind_with_a_backup(cluster, tmp_path)
    words = ("restore", file, "--into", cluster.state_dir(0), "--put-aside", "--format", "json")
    refused = hactl(*words)
    assert (refused.returncode, "that cluster lives" in refused.stderr) == (1, True), refused.stderr

    restored = told(hactl(*words, "--force"))

    assert restored["epoch"]["number"] == 3
    cluster.start(0)
    cluster.wait(lambda: cluster.role_counts(0) == (2, 0, 0) and cluster.serving(0, 1), "the other joins anew", 60)
    assert rows(cluster, [0, 1]) == list(range(3))


def test_a_database_whose_only_counting_table_was_dropped_is_restored(cluster, tmp_path: Path):
    cluster.form(1)
    run_sql(
        cluster,
        [0],
        "CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT)",
        "INSERT INTO counted VALUES (NULL)",
        "CREATE TABLE other (x)",
        "DROP TABLE counted",
    )
    file = back_up(cluster, 0, tmp_path / "b.tar")
    cluster.kill(0)

    ran = hactl("restore", file, "--into", cluster.state_dir(0), "--put-aside")

    assert ran.returncode == 0, ran.stderr


def test_a_database_that_is_listed_and_was_never_made_is_backed_up_as_an_empty_one(cluster, tmp_path: Path):
    cluster.form(1)
    run_sql(cluster, [0], "CREATE TABLE t (n)", "INSERT INTO t VALUES (1)")
    run_sql(
        cluster,
        [0],
        "INSERT INTO namespace_list (namespace, incarnation) VALUES ('ghost', 'x'), ('t', 'y')",
        name="controller",
    )
    file = tmp_path / "b.tar"

    def patches_of_ghost(file: Path) -> list[int | None]:
        made = told(hactl("--state-dir", cluster.state_dir(0), "backup", file, "--format", "json"))
        return [d["patches"] for d in made["databases"] if d["name"] == "ghost"]

    assert patches_of_ghost(file) == [None]
    cluster.kill(0)
    done = told(hactl("restore", file, "--into", cluster.state_dir(0), "--put-aside", "--format", "json"))
    assert (done["rows"]["ghost"], done["rows"]["t"]) == (0, 1)
    cluster.start(0)
    cluster.wait(lambda: cluster.serving(0), "it serves")

    assert patches_of_ghost(tmp_path / "again.tar") == [None]


@missing_databases_refused
def test_a_name_that_is_no_database_is_refused_and_makes_none(cluster, tmp_path: Path):
    cluster.form(1)
    for _ in range(2):
        slip = hactl("--state-dir", cluster.state_dir(0), "backup", tmp_path / "b.tar", "--namespace", "slip")
        assert (slip.returncode, "no backup was made" in slip.stderr) == (1, True), slip.stderr


def test_another_cluster_is_founded_with_the_content_only_when_asked(cluster, tmp_path: Path):
    cluster.form(1)
    insert(cluster, [0], range(4))
    file = back_up(cluster, 0, tmp_path / "b.tar")
    cluster.kill(0)
    cluster.configure([5], told=[5], **{"cluster-uuid": "other", "bootstrap-controller": "5"})

    refused = hactl("restore", file, "--into", cluster.state_dir(5))
    assert (refused.returncode, "--new-cluster" in refused.stderr) == (1, True)
    assert hactl("restore", file, "--into", cluster.state_dir(5), "--new-cluster").returncode == 0
    cluster.start(5)
    cluster.wait(lambda: cluster.serving(5), "it serves")
    assert cluster.status(5)["cluster"]["uuid"] == "other"
    assert cluster.status(5)["cluster"]["dropped"] == []
    assert rows(cluster, [5]) == list(range(4))


def test_a_restore_brings_the_rows_into_any_directory_whatever_it_is_called(cluster, tmp_path: Path):
    cluster.form(1)
    insert(cluster, [0], range(4))
    file = back_up(cluster, 0, tmp_path / "b.tar")

    for name in ("a#b", "a?b", "a%20b"):
        done = told(hactl("restore", file, "--into", tmp_path / name, "--format", "json"))
        assert done["rows"]["t"] == 4
        assert done["rows"]["controller"] > 0
    assert not (tmp_path / "a").exists()


def test_a_torn_or_garbled_archive_is_refused_by_name(cluster, tmp_path: Path):
    cluster.form(1)
    insert(cluster, [0], range(4))
    content = back_up(cluster, 0, tmp_path / "b.tar").read_bytes()
    bad = tmp_path / "bad.tar"

    for cut in (0, 100, 512, 5000, len(content) // 2, len(content) - 3000, content.rfind(b"sha256") - 1):
        bad.write_bytes(content[:cut])
        checked = hactl("backup", "--check", bad)
        assert (checked.returncode, str(bad) in checked.stderr) == (1, True), cut
    for offset in (1000, len(content) // 2, content.rfind(b'"cluster-uuid"') + 18):
        garbled = bytearray(content)
        garbled[offset] ^= 4
        bad.write_bytes(garbled)
        checked = hactl("backup", "--check", bad)
        assert (checked.returncode, str(bad) in checked.stderr) == (1, True), offset
    assert hactl("restore", bad, "--into", tmp_path / "fresh").returncode == 1
    assert not (tmp_path / "fresh" / "identity.json").exists()


@pytest.mark.long
def test_a_restore_killed_at_any_step_leaves_the_old_data_or_the_new(tmp_path: Path):
    with Cluster(tmp_path / "source") as source:
        source.form(1)
        insert(source, [0], [1, 2])
        file = back_up(source, 0, tmp_path / "b.tar")

    def run(cluster: Cluster, step: int) -> bool:
        cluster.form(1)
        insert(cluster, [0], [9])
        cluster.kill(0)
        done = hactl("restore", file, "--into", cluster.state_dir(0), "--put-aside", crash=step)
        crashed = done.returncode == -signal.SIGKILL
        assert crashed or done.returncode == 0, done.stderr
        cluster.start(0)
        cluster.wait(lambda: cluster.serving(0), f"it serves after a kill at step {step}", 60)
        assert rows(cluster, [0]) == ([9] if cluster.epoch(0) == 1 else [1, 2])
        left = {p.name for p in cluster.state_dir(0).iterdir()}
        assert not left & {"journal.json", "dqlite.new", "dqlite.unpacked"}
        return crashed

    assert enumerate_steps(tmp_path, run, at_once=4) > 10, "the steps of a restore were counted"


def test_a_backup_without_a_leader_is_refused_and_leaves_no_file(cluster, tmp_path: Path):
    cluster.form(3)
    cluster.kill(1, 2)
    file = tmp_path / "b.tar"
    file.write_text("the backup of yesterday")

    made = hactl("--state-dir", cluster.state_dir(0), "backup", file)

    assert (made.returncode, "no backup was made" in made.stderr) == (4, True), made.stderr
    assert file.read_text() == "the backup of yesterday"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".b.tar")] == []


def test_a_backup_of_a_database_that_is_not_there_is_refused_by_name(cluster, tmp_path: Path):
    cluster.form(1)
    asked = ("--state-dir", cluster.state_dir(0), "backup", tmp_path / "b.tar", "--namespace", "controller")

    made = hactl(*asked, "--namespace", "nowhere")

    assert (made.returncode, "there is no database nowhere; there are controller" in made.stderr) == (1, True)
    assert not (tmp_path / "b.tar").exists()
    assert hactl(*asked).returncode == 0
