"""A backup on disk: a tar with one SQLite file for each database, then the manifest, then the manifest's checksum.

The manifest comes last because the databases are streamed and only then known. So a torn archive has none, and says so.
This module knows neither Dqlite nor a cluster: it writes what it is given, and reads what it does not trust.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path
from typing import IO

import msgspec

from dbaccessor.dqlite import names

SCHEMA = 1
_MANIFEST = "manifest.json"
_CHECKSUM = "manifest.json.sha256"
_FOLDER = "databases/"
_SUFFIX = ".sqlite"
_MOST_MANIFEST_BYTES = 16 << 20
_CHUNK = 1 << 20


class BadArchive(ValueError):
    """The file is no archive that can be trusted. The message is one sentence that says what is wrong."""


class Epoch(msgspec.Struct, frozen=True):
    """The epoch that the archive is of, as `identity.Epoch`; this module loads nothing of the node."""

    number: int
    tag: str

    def __str__(self) -> str:
        return f"{self.number} ({self.tag})"


class Entry(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """One database of the archive. `patches` is the number of its last schema patch, None when it has no such table."""

    name: str
    size: int
    sha256: str
    patches: int | None = None


class Manifest(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """What the archive is of. `index` is how far the log of the controller that made it reached when it began."""

    schema: int = SCHEMA
    made: str
    version: str
    dqlite_version: str
    controller_id: str
    cluster_uuid: str
    epoch: Epoch
    index: int
    databases: tuple[Entry, ...]


def header(name: str, size: int) -> bytes:
    """Return the tar header that stands before a database's bytes."""
    return _header(f"{_FOLDER}{name}{_SUFFIX}", size)


def padding(size: int) -> bytes:
    """Return what follows `size` bytes up to the next header."""
    return bytes(-size % tarfile.BLOCKSIZE)


def ending(manifest: Manifest) -> bytes:
    """Return everything behind the databases."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
    digest = f"{hashlib.sha256(text).hexdigest()}  {_MANIFEST}\n".encode()
    files = b"".join(
        _header(name, len(data)) + data + padding(len(data)) for name, data in ((_MANIFEST, text), (_CHECKSUM, digest))
    )
    return files + bytes(2 * tarfile.BLOCKSIZE)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info.tobuf(tarfile.GNU_FORMAT)


def unpack(path: Path, folder: Path | None) -> tuple[Manifest, dict[str, Path]]:
    """Check the whole archive; return its manifest, and its databases as files in `folder` (None: only check).

    Every byte counts: a torn or garbled archive is refused. Raises BadArchive, or OSError.
    """
    sums: dict[str, str] = {}
    files: dict[str, Path] = {}
    texts: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() else None
                name = member.name.removeprefix(_FOLDER).removesuffix(_SUFFIX)
                if content is None or member.name in texts or name in files:
                    raise BadArchive(f"{path} holds {member.name!r}, which no backup has")
                if member.name in (_MANIFEST, _CHECKSUM):
                    texts[member.name] = content.read(_MOST_MANIFEST_BYTES)
                elif member.name == f"{_FOLDER}{name}{_SUFFIX}" and names.is_possible(name):
                    files[name] = (folder or Path()) / f"{name}{_SUFFIX}"
                    target = Path(os.devnull) if folder is None else files[name]
                    sums[name] = _copy(content, target, member.size, path)
                else:
                    raise BadArchive(f"{path} holds {member.name!r}, which no backup has")
    except (tarfile.TarError, EOFError, UnicodeError) as error:
        raise BadArchive(f"{path} is no archive, or a torn one: {error}") from error
    manifest = _manifest(path, texts)
    for entry in manifest.databases:
        if entry.name not in sums:
            raise BadArchive(f"{path}: the database {entry.name} is missing")
        if sums[entry.name] != entry.sha256:
            raise BadArchive(f"{path}: the database {entry.name} is not what it was when it was written")
    if len(files) != len(manifest.databases):
        raise BadArchive(f"{path} holds databases that its manifest does not name")
    return manifest, files


def _copy(source: IO[bytes], target: Path, size: int, path: Path) -> str:
    digest = hashlib.sha256()
    left = size
    with target.open("wb") as out:
        while left:
            chunk = source.read(min(left, _CHUNK))
            if not chunk:
                raise BadArchive(f"{path} is torn: it ends inside a database")
            digest.update(chunk)
            out.write(chunk)
            left -= len(chunk)
    return digest.hexdigest()


def _manifest(path: Path, texts: dict[str, bytes]) -> Manifest:
    if _MANIFEST not in texts or _CHECKSUM not in texts:
        raise BadArchive(f"{path} is torn: its end, the manifest, is missing")
    text = texts[_MANIFEST]
    if texts[_CHECKSUM].decode("ascii", "replace").split()[:1] != [hashlib.sha256(text).hexdigest()]:
        raise BadArchive(f"{path}: its manifest is not what was written")
    try:
        document = msgspec.json.decode(text)
        if isinstance(document, dict) and document.get("schema", 0) > SCHEMA:
            raise BadArchive(f"{path} has schema {document['schema']}, this version reads {SCHEMA}: use a newer hactl")
        return msgspec.convert(document, Manifest)
    except (msgspec.DecodeError, TypeError) as error:
        raise BadArchive(f"{path}: its manifest cannot be read: {error}") from error


def check_database(name: str, path: Path) -> int:
    """Let SQLite check a database of an archive; return how many tables it has. Raises BadArchive."""
    if path.stat().st_size == 0:
        return 0
    try:
        with closing(open_database(path)) as database:
            found = [str(row[0]) for row in database.execute("PRAGMA integrity_check(1)")]
            (tables,) = database.execute("SELECT count(*) FROM sqlite_schema WHERE type = 'table'").fetchone()
    except sqlite3.Error as error:
        raise BadArchive(f"the database {name} cannot be opened: {error}") from error
    if found != ["ok"]:
        raise BadArchive(f"the database {name} is damaged: {found[0]}")
    return int(tables)


def open_database(path: Path) -> sqlite3.Connection:
    """Open a file of an archive, to read only. Its header says WAL, which a file alone has not: that is ignored."""
    # SQLite cuts a URI at '#' and '?', and then makes and reads another file, an empty one: as_uri() quotes them.
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)
