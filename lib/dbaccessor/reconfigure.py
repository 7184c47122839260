"""The changes on disk that take several steps, each journalled: founding a cluster, going on alone, and putting another
data directory in place of this one (recover, restore).

Each has one point of no return, a single atomic file write. Killed before it, the next start undoes what there is;
killed after it, the next start completes the rest. `finish` is that next start.

| change | point of no return | killed before it | killed after it |
|---|---|---|---|
| bootstrap | identity.json is written | the half-made directory is deleted | nothing is left to do |
| reconfigure | identity.json has the new epoch | the journal is deleted | the log is recovered to this node |
| recover, restore | identity.json has the new epoch | the staged directory is deleted | it takes the old one's place |

Recover and restore build the new directory beside the old one, whose data nothing touches before it is put aside,
whole. What lies beside that data then (its identity, its checksums) is written first, and removed by an undo.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from dbaccessor.dqlite import node, nodedir
from dbaccessor.identity import Identity, Journal, Known, Store, controller_of, first_epoch, merge_known

_REPLACING = {"recover": "replaced by hactl recover", "restore": "replaced by hactl restore"}


def bootstrap(store: Store, *, cluster_uuid: str, controller_id: str) -> Identity:
    """Found a cluster of one on the (empty) data directory. Blocking.

    Raises what `node.bootstrap` raises, or OSError; then everything is undone.
    """
    identity = Identity(
        cluster_uuid=cluster_uuid,
        controller_id=controller_id,
        dqlite_id=node.new_id(),
        epoch=first_epoch(),
        state="member",
    )
    store.save_journal(Journal(operation="bootstrap", dqlite_id=identity.dqlite_id, epoch=identity.epoch))
    try:
        store.delete_unfinished_data()
        store.data_dir.mkdir(mode=0o700)
        node.bootstrap(store.data_dir, identity.dqlite_id, identity.name)
        store.mark(identity.dqlite_id)
        identity = msgspec.structs.replace(identity, fingerprint=store.fingerprint())
        store.save_identity(identity)
    finally:
        finish(store)
    return identity


def go_on_alone(store: Store, identity: Identity, dropping: tuple[str, ...]) -> None:
    """Make this (stopped) node the only member, in a new epoch. Blocking; the new identity is in the store after it.

    Raises DbAccessorError or OSError; then everything is as before, unless the store has the new epoch already: then
    only `finish` may follow, in a new process, as the library keeps the directory locked when a recovery fails.
    """
    last = node.last_entry(store.data_dir, identity.dqlite_id, identity.name)
    epoch = identity.epoch.successor()
    journal = Journal(operation="reconfigure", dqlite_id=identity.dqlite_id, epoch=epoch, dropping=dropping)
    try:
        store.save_journal(journal)
        store.save_identity(msgspec.structs.replace(identity, epoch=epoch, log_ended_at=last.index))
    except OSError:
        if store.identity() == identity:
            finish(store)
        raise
    finish(store)


def replace_data(
    store: Store, operation: str, identity: Identity, left: tuple[Known, ...], build: Callable[[Path], None]
) -> Identity:
    """Make `identity` this controller's, with the data that `build` makes in the folder it is given. Blocking.

    `identity` has a new id and a new epoch; `left` are the members that it leaves behind. What there was is put aside.
    Raises what `build` raises, DbAccessorError or OSError; then everything is as before, unless the store has the new
    epoch already: then only `finish` may follow, in a new process.
    """
    store.save_journal(Journal(operation=operation, dqlite_id=identity.dqlite_id, epoch=identity.epoch, left=left))
    try:
        staging = store.make_staging()
        build(staging)
        store.mark(identity.dqlite_id, staging)
        nodedir.sync_tree(staging)
        store.prepare_aside()
        identity = msgspec.structs.replace(identity, fingerprint=nodedir.fingerprint(staging))
        store.save_identity(identity)
    finally:
        finish(store)
    return identity


def finish(store: Store) -> str | None:
    """Complete or undo the change that a kill interrupted; return a sentence on what was done, None for nothing."""
    journal = store.journal()
    if journal is None:
        return None
    identity = store.identity()
    if journal.operation == "bootstrap":
        if identity is None:
            store.delete_unfinished_data()
        store.clear_journal()
        return f"an interrupted bootstrap was {'undone' if identity is None else 'complete'}"
    if journal.operation == "reconfigure":
        done = identity is not None and identity.epoch == journal.epoch
        if identity is not None and done and store.marked_id() == identity.dqlite_id:
            node.recover(store.data_dir, identity.dqlite_id, identity.name)
            _flag_dropped(store, journal.dropping)
        store.clear_journal()
        return f"an interrupted reconfiguration to epoch {journal.epoch} was {'completed' if done else 'undone'}"
    if journal.operation in _REPLACING:
        done = identity is not None and identity.epoch == journal.epoch
        if identity is not None and done:
            store.swap_in_staging(_REPLACING[journal.operation])
            _remember_left(store, identity, journal.left)
            store.clear_db_state()
        else:
            store.undo_prepare_aside()
        store.delete_staging()
        store.clear_journal()
        return f"an interrupted {journal.operation} to epoch {journal.epoch} was {'completed' if done else 'undone'}"
    raise RuntimeError(f"journal.json names the unknown operation {journal.operation!r}: refresh this unit")


def _flag_dropped(store: Store, names: tuple[str, ...]) -> None:
    """Remember these as left behind, whether or not they had been remembered as members yet."""
    members = store.members()
    addresses = members.addresses
    left = [Known(controller_of(n), n, addresses.get(controller_of(n), ""), dropped=True) for n in names]
    store.save_members(msgspec.structs.replace(members, known=merge_known(members.known, left)))


def _remember_left(store: Store, identity: Identity, left: tuple[Known, ...]) -> None:
    """Begin a new memory of members: this node, and those left behind, who are asked until they know it."""
    members = store.members()
    gone = [msgspec.structs.replace(k, dropped=True) for k in left]
    known = merge_known([k for k in members.known if k.dropped], gone)
    addresses = {**members.addresses, **{k.controller_id: k.address for k in gone if k.address}}
    own = Known(identity.controller_id, identity.name, addresses.get(identity.controller_id, ""), "voter")
    store.save_members(
        msgspec.structs.replace(members, role="voter", known=merge_known(known, [own]), addresses=addresses)
    )
