"""Who this node is: told to everybody it calls and everybody who calls, and heard from them in turn.

The identity lives here, beside the two ends that carry it: the dialer (outward) and the proxy (inward). Facts, caller
and address book are replaced as whole values, because they are read on other threads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec

from dbaccessor import dial, tls
from dbaccessor.conf import ControllerConf
from dbaccessor.dqlite.nodedir import LastEntry
from dbaccessor.identity import Epoch, Identity, node_name
from dbaccessor.preamble import Answer, Hello, MembershipRequest, Outcome, newer_epoch
from dbaccessor.proxy import CannotListen, Proxy
from dbaccessor.timing import Timing
from dbaccessor.tlsfiles import BadCredentials

log = logging.getLogger(__name__)


class Presence:
    """The identity and its two ends. Made on the worker's loop, and used there except where a method says otherwise.

    `on_request` carries out a membership request (on the proxy's loop), `on_refused` hears the raft name of a caller
    from an older epoch, `on_member` the controller id of one from this epoch (on the proxy's loop), `wake` is called
    when something was heard that the worker has to decide about. `credentials` is the folder with the certificates.
    """

    def __init__(
        self,
        timing: Timing,
        on_request: Callable[[MembershipRequest], Awaitable[Outcome]],
        on_refused: Callable[[str], None],
        on_member: Callable[[str], None],
        wake: Callable[[], None],
        credentials: Path,
    ) -> None:
        self.identity: Identity | None = None
        # The newest epoch of this cluster, above the own one, that anybody spoke of.
        self.heard_epoch: Epoch | None = None
        # Why the configured address is not listened on, None when it is.
        self.listen_problem: str | None = None
        self.dialer = dial.Dialer(dial.Caller(), dial.AddressBook(), timing, self._heard)
        self.proxy = Proxy(on_request, self._hello)
        self.dialer.carry = self.proxy.carry
        self._credentials = credentials
        self._conf: ControllerConf | None = None
        self._on_refused = on_refused
        self._on_member = on_member
        self._wake = wake
        self._loop = asyncio.get_running_loop()

    def become(self, identity: Identity | None) -> None:
        """Take on this identity. Call `tell` after it."""
        self.identity = identity
        self.heard_epoch = None
        self._update_caller()

    def know(self, conf: ControllerConf | None, earlier: Mapping[str, str]) -> None:
        """Take on this configuration; `earlier` are the last addresses of those it may not name any more."""
        self._conf = conf
        self.proxy.departed = frozenset(conf.departed if conf is not None else ())
        self.dialer.keyring = self.proxy.keyring = self._keyring(conf)
        self.dialer.book = dial.AddressBook(
            port=conf.dqlite_port if conf is not None else 17666,
            current=dict(conf.db_bind_addresses) if conf is not None else {},
            earlier=dict(earlier),
        )
        self._update_caller()

    def tell(self, *, running: bool, leader: str, last: LastEntry, empty: bool, ailing: str) -> None:
        """Answer from now on with the present identity, and with this about the own node."""
        conf, identity = self._conf, self.identity
        facts = Answer(
            accepted=True,
            controller_id=conf.controller_id if conf is not None else "",
            generation=conf.generation if conf is not None else 0,
        )
        if identity is not None:
            facts = msgspec.structs.replace(
                facts,
                cluster_uuid=identity.cluster_uuid,
                epoch=identity.epoch,
                dqlite_id=identity.dqlite_id,
                name=identity.name,
                holds_data=True,
                running=running,
                leader=leader,
                superseded=identity.superseded,
                last_term=last.term,
                last_index=last.index,
                empty=empty,
                ailing=ailing,
            )
        self.proxy.facts = facts

    def targets(self) -> dict[str, str]:
        """Whom to ask who they are: everybody ever known but this controller itself, id -> IP."""
        me = self.dialer.caller.controller_id
        return {i: a for i, a in self.dialer.book.everybody().items() if i != me}

    def certificate_problem(self) -> BadCredentials | None:
        """What is wrong with the certificate files, where they are needed, even while the last good ones serve."""
        keyring = self.dialer.keyring
        return keyring.problem() if keyring is not None else None

    @property
    def certified(self) -> bool:
        """Whether connections can be made at all: under TLS with a certificate, or without where that is allowed."""
        keyring = self.dialer.keyring
        if keyring is None:
            return True
        try:
            keyring.current()
        except BadCredentials:
            return False
        return True

    async def listen(self) -> None:
        """Listen where the configuration says. What prevents it is in `listen_problem`.

        The address before stays then, unless the configuration gives it to another controller by now.
        Nobody is let in before there is a certificate to show.
        """
        conf = self._conf
        if conf is None or conf.own_address is None or not self.certified:
            return
        if self.proxy.listening is not None and self.proxy.listening[0] in conf.others.values():
            await self.proxy.stop_listening()
        try:
            await self.proxy.listen(conf.own_address, conf.dqlite_port)
            self.listen_problem = None
        except CannotListen as error:
            if self.listen_problem != str(error):
                log.error("%s", error)
            self.listen_problem = str(error)

    def _keyring(self, conf: ControllerConf | None) -> tls.Keyring | None:
        """The certificates that this configuration asks for: the same as before, unless it is for somebody else."""
        if conf is None or conf.tls == "off":
            return None
        before = self.dialer.keyring
        if before is not None and before.controller_id == conf.controller_id:
            return before
        return tls.Keyring(self._credentials, conf.controller_id)

    def _update_caller(self) -> None:
        identity = self.identity
        if identity is not None:
            self.dialer.caller = dial.Caller(
                identity.cluster_uuid, identity.epoch, identity.controller_id, identity.dqlite_id
            )
        else:
            self.dialer.caller = dial.Caller(controller_id=self._conf.controller_id if self._conf is not None else "")

    def _heard(self, answer: Answer) -> None:
        """Called on any thread: somebody we called told who they are."""
        epoch = answer.superseded or answer.epoch
        if self._is_newer(answer.cluster_uuid, epoch):
            self._loop.call_soon_threadsafe(self._hear, answer.cluster_uuid, epoch)

    def _hello(self, hello: Hello) -> None:
        """Called on the proxy's loop: a caller told who it is. The worker's loop wakes only for what is new to it."""
        identity = self.identity
        if identity is None or hello.cluster_uuid != identity.cluster_uuid:
            return
        if hello.controller_id in self.targets():
            self.dialer.saw(hello.controller_id)
            if hello.epoch == identity.epoch:
                self._on_member(hello.controller_id)
        if hello.epoch != identity.epoch:
            self._loop.call_soon_threadsafe(self._note_epoch, hello)

    def _note_epoch(self, hello: Hello) -> None:
        self._hear(hello.cluster_uuid, hello.epoch)
        identity = self.identity
        if identity is not None and newer_epoch(hello.epoch, identity.epoch):
            # It was left behind, has met this epoch now and was refused: it need not be shown any longer.
            self._on_refused(node_name(hello.controller_id, hello.dqlite_id))

    def _hear(self, cluster_uuid: str, epoch: Epoch | None) -> None:
        """Somebody spoke of this epoch, whoever it was: whether it ends this node is decided in the next step."""
        if not self._is_newer(cluster_uuid, epoch):
            return
        if self.heard_epoch is None or newer_epoch(self.heard_epoch, epoch):
            self.heard_epoch = epoch
        self._wake()

    def _is_newer(self, cluster_uuid: str, epoch: Epoch | None) -> bool:
        """Whether this epoch of the own cluster comes after the own one. Callable from any thread."""
        identity = self.identity
        return identity is not None and cluster_uuid == identity.cluster_uuid and newer_epoch(identity.epoch, epoch)
