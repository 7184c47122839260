"""The two changes on disk that take several steps, each journalled: founding a cluster, and going on alone.

Each has one point of no return, a single atomic file write. Killed before it, the next start undoes what there is;
killed after it, the next start completes the rest. `finish` is that next start.

| change | point of no return | killed before it | killed after it |
|---|---|---|---|
| bootstrap | identity.json is written | the half-made directory is deleted | nothing is left to do |
| reconfigure | identity.json has the new epoch | the journal is deleted | the log is recovered to this node |
"""

from __future__ import annotations

import logging

import msgspec

from dbaccessor.dqlite import node
from dbaccessor.identity import Epoch, Identity, Journal, Store, first_epoch

log = logging.getLogger(__name__)


class Behind(RuntimeError):
    """The stopped node's log turned out to end before the newest known one: it must not go on alone."""


def bootstrap(store: Store, *, cluster_uuid: str, controller_id: str) -> Identity:
    """Found a cluster of one on the (empty) data directory. Blocking; raises what `node.bootstrap` raises."""
    journal = Journal(operation="bootstrap", dqlite_id=node.new_id(), epoch=first_epoch())
    identity = Identity(
        cluster_uuid=cluster_uuid,
        controller_id=controller_id,
        dqlite_id=journal.dqlite_id,
        epoch=journal.epoch,
        state="member",
    )
    store.save_journal(journal)
    store.delete_unfinished_data()
    store.data_dir.mkdir(mode=0o700)
    node.bootstrap(store.data_dir, identity.dqlite_id, identity.name)
    store.mark(identity.dqlite_id)
    identity = msgspec.structs.replace(identity, fingerprint=store.fingerprint())
    store.save_identity(identity)
    store.clear_journal()
    return identity


def go_on_alone(
    store: Store,
    identity: Identity,
    dropping: tuple[str, ...],
    newest_known_index: int,
) -> None:
    """Make this (stopped) node the only member, in a new epoch. Blocking; the new identity is in the store after it.

    Raises Behind, with nothing changed, when the log ends before `newest_known_index`.
    """
    last = node.last_entry(store.data_dir, identity.dqlite_id, identity.name)
    if last.index < newest_known_index:
        raise Behind(f"this node's log ends at {last.index}, the newest known one at {newest_known_index}")
    epoch: Epoch = identity.epoch.successor()
    store.save_journal(Journal(operation="reconfigure", dqlite_id=identity.dqlite_id, epoch=epoch, dropping=dropping))
    identity = msgspec.structs.replace(
        identity,
        epoch=epoch,
        dropped=tuple(sorted({*identity.dropped, *dropping})),
        log_ended_at=last.index,
    )
    store.save_identity(identity)
    node.recover(store.data_dir, identity.dqlite_id, identity.name)
    store.clear_journal()


def finish(store: Store) -> str | None:
    """Complete or undo the change that a kill interrupted; return a sentence on what was done, None for nothing."""
    journal = store.journal()
    if journal is None:
        return None
    identity = store.identity()
    if journal.operation == "bootstrap":
        if identity is not None and identity.dqlite_id == journal.dqlite_id:
            store.clear_journal()
            return "an interrupted bootstrap was complete"
        store.delete_unfinished_data()
        store.clear_journal()
        return "an interrupted bootstrap was undone"
    if journal.operation == "reconfigure":
        if identity is not None and identity.epoch == journal.epoch and store.marked_id() == identity.dqlite_id:
            node.recover(store.data_dir, identity.dqlite_id, identity.name)
            store.clear_journal()
            return f"an interrupted reconfiguration to epoch {journal.epoch} was completed"
        store.clear_journal()
        return "an interrupted reconfiguration was undone"
    raise RuntimeError(f"journal.json names the unknown operation {journal.operation!r}: refresh this unit")
