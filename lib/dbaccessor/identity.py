"""What a controller knows of itself and of the others when nobody can be asked: four small files and a marker.

| file | what it holds |
|---|---|
| identity.json | who this node is: cluster, controller, Dqlite id, epoch; *outside* the data directory, on purpose |
| members.json | everybody this node ever knew, and the highest generations it saw |
| journal.json | the multi-step change that is under way; its absence means there is none |
| db-state.json | what was last told to the charm, so that a restart tells the same |
| dqlite/identity | a marker that names the Dqlite id the directory was made for |
| dqlite.unpacked/ | the databases of an archive, only while it is being restored |
| dqlite.new/ | a data directory that is being made (recover, restore); in use only once it is named dqlite |

An identity whose marker is gone is *lost*: the directory was wiped, and its id must never be used again, since other
members believe that it holds the log up to some entry.

Every file is replaced atomically (temporary file, fsync, rename, fsync of the directory) and carries a schema number.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from dbaccessor.dqlite import nodedir

log = logging.getLogger(__name__)

SCHEMA = 1
IDENTITY = "identity.json"
MEMBERS = "members.json"
JOURNAL = "journal.json"
DB_STATE = "db-state.json"
DATA = "dqlite"
STAGING = "dqlite.new"
UNPACKED = "dqlite.unpacked"
ASIDE = "aside"
SUMS = "SHA256SUMS"
MARKER = "identity"
# An id has twenty digits at the most. What is longer is no marker of ours.
_MARKER_BYTES = 1024


class NewerFile(RuntimeError):
    """A file was written by a newer version. It is kept as it is; refresh this unit."""


class BrokenFile(RuntimeError):
    """A file is not what this program writes. It is kept as it is; the message names it and the remedy."""


class Epoch(msgspec.Struct, frozen=True):
    """The number of forced reconfigurations, and a random tag that tells two equal numbers apart."""

    number: int
    tag: str

    def successor(self) -> Epoch:
        return Epoch(self.number + 1, secrets.token_hex(8))

    def __str__(self) -> str:
        return f"{self.number} ({self.tag})"


def first_epoch() -> Epoch:
    return Epoch(1, secrets.token_hex(8))


class Identity(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """Who this node is.

    `state` is "joining" until the leader confirmed the membership, then "member", and "left" after a goodbye.
    """

    cluster_uuid: str
    controller_id: str
    dqlite_id: int
    epoch: Epoch
    state: str = "joining"
    fingerprint: str = ""
    superseded: Epoch | None = None
    # The last raft index that the log had when this node was last forced to go on alone.
    log_ended_at: int = 0
    schema: int = SCHEMA

    @property
    def name(self) -> str:
        return node_name(self.controller_id, self.dqlite_id)


class Known(msgspec.Struct, frozen=True, rename="kebab"):
    """One member that this node ever heard of: its raft name and the address it had last ("" if never known).

    `dropped`: a forced reconfiguration left it behind, and it was not yet seen to know that. It is no member any
    more, but it is asked as long as it may still believe in the epoch before.
    """

    controller_id: str
    name: str
    address: str = ""
    role: str = ""
    dropped: bool = False


class Members(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """Everybody, and the highest generation accepted (`generation`) and recorded by a joining member (`recorded`).

    `recorded_by` are the controllers that recorded that generation, () where it is not known.
    `addresses` are the last ones known by controller id, from configurations that may be long gone. `held` names every
    cluster this controller ever gave up data or an identity of: it never founds one of these.
    """

    generation: int = 0
    recorded: int = 0
    recorded_by: tuple[str, ...] = ()
    role: str = ""
    known: tuple[Known, ...] = ()
    addresses: dict[str, str] = {}
    held: tuple[str, ...] = ()
    schema: int = SCHEMA


class Journal(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """The change under way: "bootstrap", "reconfigure", "recover" or "restore".

    `dropping` are raft names left behind; `left` are those of "recover" and "restore", with what is known of them.
    """

    operation: str
    dqlite_id: int
    epoch: Epoch
    dropping: tuple[str, ...] = ()
    left: tuple[Known, ...] = ()
    schema: int = SCHEMA


class DbState(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """What the charm puts into its unit bag. Only a change of the first five fields makes a new one."""

    cluster_uuid: str
    epoch: Epoch
    controller_id: str
    role: str
    voters: tuple[str, ...]
    last_index: int
    last_term: int = 0

    def same_cluster_shape(self, other: DbState | None) -> bool:
        return other is not None and self == msgspec.structs.replace(
            other, last_index=self.last_index, last_term=self.last_term
        )


def node_name(controller_id: str, dqlite_id: int) -> str:
    """Return the raft address of a node: a name, so that a changed IP is no membership change."""
    return f"controller-{controller_id}-{dqlite_id}"


def controller_of(name: str) -> str:
    """Return the controller id inside a raft name (the text itself when it is no such name)."""
    head, _, tail = name.removeprefix("controller-").rpartition("-")
    return head if head and tail.isdigit() else name


def dqlite_id_of(name: str) -> int:
    """Return the Dqlite id inside a raft name, 0 when it is no such name."""
    head, _, tail = name.removeprefix("controller-").rpartition("-")
    return int(tail) if head and tail.isdigit() else 0


_T = TypeVar("_T", Identity, Members, Journal, DbState)


class Store:
    """The files of one state directory. Every method is synchronous and durable when it returns."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.data_dir = state_dir / DATA
        self.staging_dir = state_dir / STAGING
        self.unpacked_dir = state_dir / UNPACKED
        self._marker = self.data_dir / MARKER

    def identity(self) -> Identity | None:
        return self._load(IDENTITY, Identity)

    def save_identity(self, identity: Identity) -> None:
        self._save(IDENTITY, identity)

    def members(self) -> Members:
        return self._load(MEMBERS, Members) or Members()

    def save_members(self, members: Members) -> None:
        self._save(MEMBERS, members)

    def journal(self) -> Journal | None:
        return self._load(JOURNAL, Journal)

    def save_journal(self, journal: Journal) -> None:
        self._save(JOURNAL, journal)

    def clear_journal(self) -> None:
        self._remove(JOURNAL)

    def db_state(self) -> DbState | None:
        """Return what the charm was told last; None as well when that cannot be read, since it is made anew."""
        try:
            return self._load(DB_STATE, DbState)
        except BrokenFile as error:
            log.warning("%s", error)
            return None

    def save_db_state(self, state: DbState) -> None:
        self._save(DB_STATE, state)

    def clear_db_state(self) -> None:
        self._remove(DB_STATE)

    def forget_identity(self) -> None:
        """Remove the identity and what was told about it: this node starts anew.

        That it once held data of its cluster is recorded first, so that it never founds that cluster again.
        """
        identity, members = self.identity(), self.members()
        if identity is not None and identity.cluster_uuid not in members.held:
            self.save_members(msgspec.structs.replace(members, held=(*members.held, identity.cluster_uuid)))
        self._remove(DB_STATE)
        self._remove(IDENTITY)

    # The data directory

    def make_data_dir(self, dqlite_id: int) -> str:
        """Make the (empty) data directory with its marker; return its fingerprint."""
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.mark(dqlite_id)
        return self.fingerprint()

    def mark(self, dqlite_id: int, directory: Path | None = None) -> None:
        replace_file((directory or self.data_dir) / MARKER, f"{dqlite_id}\n".encode())

    def marked_id(self) -> int | None:
        """Return the Dqlite id the data directory was made for, or None when it has no (good) marker."""
        try:
            # Looked at in every step of the worker, so without the layers of a file object.
            descriptor = os.open(self._marker, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return int(os.read(descriptor, _MARKER_BYTES))
            finally:
                os.close(descriptor)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None

    def has_files(self) -> bool:
        try:
            return any(self.data_dir.iterdir())
        except FileNotFoundError:
            return False

    def fingerprint(self) -> str:
        """Return what tells this directory from a copy of it; "" when it is not there."""
        try:
            return nodedir.fingerprint(self.data_dir)
        except FileNotFoundError:
            return ""

    def put_aside(self, reason: str) -> Path | None:
        """Move the data directory, with a copy of the identity inside, under aside/. None: nothing was there.

        The identity itself stays: killed in between, the next start finds an identity without data, which is lost.
        """
        if not self.has_files():
            return None
        with contextlib.suppress(FileNotFoundError):
            replace_file(self.data_dir / IDENTITY, (self.state_dir / IDENTITY).read_bytes())
        # Of another time, if there are any: earlier versions left them when a change was undone.
        (self.data_dir / SUMS).unlink(missing_ok=True)
        return nodedir.put_aside(self.data_dir, self.state_dir / ASIDE, reason)

    def delete_unfinished_data(self) -> None:
        """Delete a directory that a killed bootstrap left half made and that never served anything."""
        self._delete(self.data_dir)

    def make_staging(self) -> Path:
        """Make the empty directory in which recover and restore build the next data directory."""
        self.delete_staging()
        self.staging_dir.mkdir(mode=0o700, parents=True)
        return self.staging_dir

    def make_unpacked(self) -> Path:
        """Make the empty directory into which restore unpacks an archive."""
        self._delete(self.unpacked_dir)
        self.unpacked_dir.mkdir(mode=0o700, parents=True)
        return self.unpacked_dir

    def delete_staging(self) -> None:
        self._delete(self.unpacked_dir)
        self._delete(self.staging_dir)

    def prepare_aside(self) -> None:
        """Put beside the data what it will be told by once it is put aside: its identity, and the checksums of its
        files. The data itself is not touched."""
        if not self.has_files():
            return
        with contextlib.suppress(FileNotFoundError):
            replace_file(self.data_dir / IDENTITY, (self.state_dir / IDENTITY).read_bytes())
        replace_file(self.data_dir / SUMS, nodedir.render_sums(nodedir.sums(self.data_dir)))

    def undo_prepare_aside(self) -> None:
        """Remove what `prepare_aside` wrote: the data stays in use, and will soon differ from what was told of it."""
        for name in (SUMS, IDENTITY):
            with contextlib.suppress(FileNotFoundError):
                (self.data_dir / name).unlink()
                _fsync_dir(self.data_dir)

    def swap_in_staging(self, reason: str) -> None:
        """Put the data directory aside, if there is one, and the staged one in its place. Goes on after a kill."""
        if not self.staging_dir.exists():
            return
        if self.has_files():
            nodedir.put_aside(self.data_dir, self.state_dir / ASIDE, reason)
        self.staging_dir.rename(self.data_dir)
        _fsync_dir(self.state_dir)

    def _delete(self, directory: Path) -> None:
        if directory.exists():
            shutil.rmtree(directory)
            _fsync_dir(self.state_dir)

    def _load(self, name: str, kind: type[_T]) -> _T | None:
        path = self.state_dir / name
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            document = msgspec.json.decode(raw)
            if isinstance(document, dict) and document.get("schema", SCHEMA) > SCHEMA:
                raise NewerFile(
                    f"{path} has schema {document['schema']}, this version knows {SCHEMA}: refresh this unit"
                )
            return msgspec.convert(document, kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError) as error:
            raise BrokenFile(f"{path} is damaged ({error}): restore it, or move it away to start anew") from error

    def _save(self, name: str, value: msgspec.Struct) -> None:
        self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(self.state_dir / name, msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.state_dir / name).unlink()
            _fsync_dir(self.state_dir)


def replace_file(path: Path, content: bytes) -> bool:
    """Make `path` hold `content`, atomically and durably, mode 0600. Return whether anything changed."""
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == content:
            return False
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync_dir(path.parent)
    return True


def merge_known(old: Iterable[Known], new: Iterable[Known]) -> tuple[Known, ...]:
    """Return the union by name; the newer entry wins, but an address once known is not forgotten."""
    merged = {k.name: k for k in old}
    for entry in new:
        before = merged.get(entry.name)
        if before is not None and not entry.address:
            entry = msgspec.structs.replace(entry, address=before.address)
        merged[entry.name] = entry
    return tuple(merged[name] for name in sorted(merged))


def _fsync_dir(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
