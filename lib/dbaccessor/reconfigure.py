"""The two changes on disk that take several steps, each journalled: founding a cluster, and going on alone.

Each has one point of no return, a single atomic file write. Killed before it, the next start undoes what there is;
killed after it, the next start completes the rest. `finish` is that next start.

| change | point of no return | killed before it | killed after it |
|---|---|---|---|
| bootstrap | identity.json is written | the half-made directory is deleted | nothing is left to do |
| reconfigure | identity.json has the new epoch | the journal is deleted | the log is recovered to this node |
"""

from __future__ import annotations

import msgspec

from dbaccessor.dqlite import node
from dbaccessor.identity import Identity, Journal, Known, Store, controller_of, first_epoch, merge_known


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

    Raises DbAccessorError or OSError. If the store has the new epoch by then, only `finish` may follow, in a new
    process: the library keeps the directory locked when a recovery fails.
    """
    last = node.last_entry(store.data_dir, identity.dqlite_id, identity.name)
    epoch = identity.epoch.successor()
    store.save_journal(Journal(operation="reconfigure", dqlite_id=identity.dqlite_id, epoch=epoch, dropping=dropping))
    store.save_identity(msgspec.structs.replace(identity, epoch=epoch, log_ended_at=last.index))
    finish(store)


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
    raise RuntimeError(f"journal.json names the unknown operation {journal.operation!r}: refresh this unit")


def _flag_dropped(store: Store, names: tuple[str, ...]) -> None:
    """Remember these as left behind, whether or not they had been remembered as members yet."""
    members = store.members()
    addresses = members.addresses
    left = [Known(controller_of(n), n, addresses.get(controller_of(n), ""), dropped=True) for n in names]
    store.save_members(msgspec.structs.replace(members, known=merge_known(members.known, left)))
