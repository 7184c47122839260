"""The archive as bytes: every one of them counts."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbaccessor import archive
from dbaccessor.archive import BadArchive, Entry, Epoch, Manifest


def whole(databases: dict[str, bytes], **changes: object) -> bytes:
    entries = tuple(
        Entry(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in databases.items()
    )
    fields = {"made": "t", "version": "1", "dqlite_version": "1", "controller_id": "0", "cluster_uuid": "u", "index": 1}
    manifest = Manifest(**{**fields, "epoch": Epoch(1, "aa"), "databases": entries, **changes})  # type: ignore[arg-type]
    files = b"".join(archive.header(n, len(d)) + d + archive.padding(len(d)) for n, d in databases.items())
    return files + archive.ending(manifest)


CONTENT = whole({"controller": b"x" * 700, "t": b""})


def test_what_was_written_is_read_back(tmp_path: Path):
    (tmp_path / "a.tar").write_bytes(CONTENT)

    manifest, files = archive.unpack(tmp_path / "a.tar", tmp_path)

    assert (manifest.cluster_uuid, str(manifest.epoch)) == ("u", "1 (aa)")
    assert {name: path.read_bytes() for name, path in files.items()} == {"controller": b"x" * 700, "t": b""}


# The two empty blocks at the end say nothing that is not known before them.
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(CONTENT) - 1024 - 512))
def test_a_torn_archive_is_refused_wherever_it_ends(tmp_path: Path, length: int):
    (tmp_path / "a.tar").write_bytes(CONTENT[:length])

    with pytest.raises(BadArchive, match="a.tar"):
        archive.unpack(tmp_path / "a.tar", None)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(CONTENT) - 1024 - 1), st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_changes_nothing_that_is_used(tmp_path: Path, offset: int, bit: int):
    garbled = bytearray(CONTENT)
    garbled[offset] ^= 1 << bit
    (tmp_path / "a.tar").write_bytes(garbled)

    try:
        manifest, files = archive.unpack(tmp_path / "a.tar", tmp_path)
    except BadArchive:
        return
    assert manifest.cluster_uuid == "u"
    assert {name: path.read_bytes() for name, path in files.items()} == {"controller": b"x" * 700, "t": b""}


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "databases/../x.sqlite", "databases/.x.sqlite"])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str):
    (tmp_path / "a.tar").write_bytes(archive._header(name, 3) + b"abc" + archive.padding(3) + whole({}))

    with pytest.raises(BadArchive, match="which no backup has"):
        archive.unpack(tmp_path / "a.tar", tmp_path)


def test_a_newer_schema_is_refused_with_the_remedy(tmp_path: Path):
    (tmp_path / "a.tar").write_bytes(whole({}, schema=2))

    with pytest.raises(BadArchive, match="newer hactl"):
        archive.unpack(tmp_path / "a.tar", None)


def test_a_database_that_sqlite_finds_damaged_is_named(tmp_path: Path):
    with sqlite3.connect(tmp_path / "t") as database:
        database.execute("CREATE TABLE t (a)")
        database.executemany("INSERT INTO t VALUES (?)", [("x" * 500,)] * 100)
    database.close()
    assert archive.check_database("t", tmp_path / "t") == 1
    data = bytearray((tmp_path / "t").read_bytes())
    data[8192:8292] = b"\xff" * 100
    (tmp_path / "t").write_bytes(data)

    with pytest.raises(BadArchive, match="database t"):
        archive.check_database("t", tmp_path / "t")


@pytest.mark.parametrize("name", ["a#b", "a?b", "a%20b", "a b", "ä", "a?mode=rwc"])
def test_a_database_is_opened_whatever_its_folder_is_called_and_no_other_file_is_made(tmp_path: Path, name: str):
    folder = tmp_path / name
    folder.mkdir()
    with closing(sqlite3.connect(folder / "t")) as database:
        database.execute("CREATE TABLE t (a)")

    assert archive.check_database("t", folder / "t") == 1
    with closing(archive.open_database(folder / "t")) as opened:
        assert opened.execute("SELECT count(*) FROM t").fetchone() == (0,)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            opened.execute("INSERT INTO t VALUES (1)")
    assert [p.name for p in tmp_path.iterdir()] == [name]
