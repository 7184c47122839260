"""Carries out what `recovery.compare` planned: one directory's data becomes a cluster of one, in a new epoch. Offline.

The original stays whole: the data is copied, the copy recovered, and only then does it take the old one's place, which
goes to aside/ with its checksums. So a full disk or a kill leaves either the old state or the new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dbaccessor import conf, dial, errors, reconfigure, recovery, soleowner, timing, tls, tlsfiles
from dbaccessor.conf import ControllerConf
from dbaccessor.dqlite import node, nodedir, raftlog
from dbaccessor.identity import ASIDE, IDENTITY, BrokenFile, Epoch, Identity, NewerFile, Store
from dbaccessor.preamble import Answer
from dbaccessor.recovery import Candidate, Plan


class CannotRecover(RuntimeError):
    """Nothing was changed; the message is one sentence that says what to do instead."""


@dataclass(frozen=True)
class Target:
    """The state directory where the recovered data is to be, and for which controller of which cluster.

    `epoch_number` is the highest that is known to be taken.
    """

    store: Store
    controller_id: str
    cluster_uuid: str
    epoch_number: int = 0


@contextlib.contextmanager
def owning(directories: Sequence[Path]) -> Iterator[None]:
    """Own these state directories; complete or undo what a kill interrupted there. Raises CannotRecover."""
    with contextlib.ExitStack() as stack:
        for directory in dict.fromkeys(path.resolve() for path in directories):
            try:
                stack.enter_context(soleowner.sole_owner(directory))
            except soleowner.Owned as error:
                raise CannotRecover(f"{error}: stop it first (systemctl stop ha-controller)") from error
            try:
                reconfigure.finish(Store(directory))
            except (BrokenFile, NewerFile):
                continue  # Reported with the directory itself.
            except (errors.DbAccessorError, OSError) as error:
                raise CannotRecover(f"an interrupted change in {directory} cannot be completed: {error}") from error
        yield


def target(into: Path, chosen: Identity | None, *, cluster_uuid: str | None = None) -> Target:
    """Return whose data the directory `into` will hold. Raises CannotRecover when that is not clear.

    The configuration file says which controller this is; without one the directory's own identity does, and without
    that the data's. `cluster_uuid` is what is wanted when it is not the data's.
    """
    store = Store(into)
    configuration = configuration_of(into)
    try:
        here = store.identity()
        # The change reads these as well, some of them past its point of no return: now nothing has been touched yet.
        store.members()
        store.journal()
    except (BrokenFile, NewerFile) as error:
        raise CannotRecover(str(error)) from error
    wanted = cluster_uuid or (chosen.cluster_uuid if chosen is not None else "")
    if configuration is not None:
        if not wanted:
            wanted = configuration.cluster_uuid
        if configuration.cluster_uuid and configuration.cluster_uuid != wanted:
            raise CannotRecover(
                f"the configuration in {into} is of cluster {configuration.cluster_uuid}, the data of {wanted}: "
                "this controller would put it aside"
            )
    controller_id = next((c.controller_id for c in (configuration, here, chosen) if c is not None), "")
    if not controller_id or not wanted:
        raise CannotRecover(f"{into} has no controller.conf, and the data does not tell whose it is")
    return Target(store, controller_id, wanted, highest_epoch(into))


def configuration_of(into: Path) -> ControllerConf | None:
    reader = conf.ConfReader(into / conf.FILE_NAME)
    reader.read()
    if reader.conf is None and reader.problem is not None and (into / conf.FILE_NAME).exists():
        raise CannotRecover(reader.problem)
    return reader.conf


def highest_epoch(state_dir: Path) -> int:
    """Return the highest number of an epoch that this state directory speaks of, 0 if of none.

    Data that was put aside counts, and what the charm wrote: the others may have been in that epoch, without this one.
    What cannot be read does not count.
    """
    configuration = conf.ConfReader(state_dir / conf.FILE_NAME)
    configuration.read()
    numbers = [0] if configuration.conf is None else [configuration.conf.db_epoch]
    for file in (state_dir / IDENTITY, *(state_dir / ASIDE).glob(f"*/{IDENTITY}")):
        with contextlib.suppress(BrokenFile, NewerFile, OSError):
            own = Store(file.parent).identity()
            numbers += [] if own is None else [e.number for e in (own.epoch, own.superseded) if e is not None]
    return max(numbers)


def new_epoch(number: int, where: Target) -> Epoch:
    """Return an epoch of this number, or above every one that the target knows to be taken."""
    return Epoch(max(number, where.epoch_number + 1), secrets.token_hex(8))


def carry_out(plan: Plan, where: Target, *, salvage: bool = False) -> Identity:
    """Recover the chosen data into the target, which the caller owns. Blocking; see the module. Returns who it is now.

    Raises CannotRecover.
    """
    chosen = plan.chosen
    assert chosen is not None and not plan.refusal
    taken = [highest_epoch(c.state_dir) for c in plan.candidates if c.state_dir is not None]
    identity = Identity(
        cluster_uuid=where.cluster_uuid,
        controller_id=where.controller_id,
        dqlite_id=node.new_id(),
        epoch=new_epoch(max([plan.epoch_number, *(n + 1 for n in taken)]), where),
        state="member",
        log_ended_at=chosen.log.index,
    )
    left = tuple(k for k in recovery.members_known(plan.candidates) if k.controller_id != where.controller_id)

    def build(staging: Path) -> None:
        nodedir.copy_data(chosen.data_dir, staging)
        if salvage:
            raftlog.cut(staging)
        node.recover(staging, identity.dqlite_id, identity.name)

    with said_truly(where.store, identity, f"{chosen.path} cannot be recovered"):
        return reconfigure.replace_data(where.store, "recover", identity, left, build)


@contextlib.contextmanager
def said_truly(store: Store, identity: Identity, what: str) -> Iterator[None]:
    """Translate what goes wrong inside: nothing was changed, or the change waits for its completion."""
    try:
        yield
    except (errors.DbAccessorError, OSError) as error:
        now = store.identity()
        if now is not None and now.epoch == identity.epoch:
            raise CannotRecover(f"stopped half way ({error}): the next start of controllerd completes it") from error
        raise CannotRecover(f"{what}, and nothing was changed: {error}") from error


def supersede(others: Sequence[Candidate], winner: Identity) -> list[str]:
    """Tell the other state directories given that a newer epoch exists, so that they are never started as they are.

    Returns a sentence for each that could not be told; it learns it from the cluster when it comes back.
    """
    untold = []
    for other in others:
        own = other.identity
        if other.state_dir is None or own is None or own.cluster_uuid != winner.cluster_uuid:
            continue
        store = Store(other.state_dir)
        try:
            store.save_identity(msgspec.structs.replace(own, superseded=winner.epoch))
        except OSError as error:
            untold.append(f"{other.path} could not be marked ({error.strerror}); it learns of the epoch when it starts")
    return untold


def is_running(directory: Path) -> bool:
    """True when a controllerd owns this state directory now."""
    return soleowner.is_owned(directory)


def heed_others(where: Target, candidates: Sequence[Candidate] = (), *, force: bool) -> Target:
    """Ask the other controllers, as far as their addresses are known; return the target with the epochs they speak of.

    Raises CannotRecover when one of them has a leader, or when nobody can be asked: a new epoch here would end a
    cluster that lives. With `force` it may, and has to be above that cluster's. Silence is no objection.
    """
    configuration = configuration_of(where.store.state_dir)
    addresses = dict(where.store.members().addresses)
    for candidate in candidates:
        addresses.update(candidate.addresses)
    addresses.update({k.controller_id: k.address for k in recovery.members_known(candidates) if k.address})
    port, own = conf.ControllerConf(controller_id="", generation=0).dqlite_port, ""
    if configuration is not None:
        addresses.update(configuration.others)
        port, own = configuration.dqlite_port, configuration.own_address or ""
    asked = {i: a for i, a in addresses.items() if i != where.controller_id and a and a != own}
    keyring = None
    certificates = where.store.state_dir / tlsfiles.DIRECTORY
    if certificates.is_dir() if configuration is None else configuration.tls != "off":
        keyring = tls.Keyring(certificates, where.controller_id)
        if asked and (problem := keyring.problem()) is not None:
            if force:
                return where
            raise CannotRecover(f"the others cannot be asked whether they have a leader: {problem}; or say --force")
    answers = asyncio.run(_answers(asked, port, where.cluster_uuid, keyring))
    leading = [f"controller {i} is in touch with the leader {a.leader}" for i, a in answers.items() if a.leader]
    if leading and not force:
        raise CannotRecover(
            f"{'; '.join(leading)}: that cluster lives, and this would end it; let this controller join it "
            "(start controllerd), or stop those first, or say --force"
        )
    heard = [e.number for a in answers.values() for e in (a.epoch, a.superseded) if e is not None]
    return dataclasses.replace(where, epoch_number=max([where.epoch_number, *heard]))


async def _answers(
    addresses: Mapping[str, str], port: int, cluster_uuid: str, keyring: tls.Keyring | None
) -> dict[str, Answer]:
    """Return what those say that answer and are of this cluster, by controller id."""
    dialer = dial.Dialer(dial.Caller(), dial.AddressBook(port=port), timing.for_latency(10))
    dialer.keyring = keyring
    answers = await asyncio.gather(*(dialer.ask(a) for a in addresses.values()), return_exceptions=True)
    return {
        controller_id: answer
        for controller_id, answer in zip(addresses, answers, strict=True)
        if isinstance(answer, Answer) and answer.cluster_uuid == cluster_uuid
    }
