"""Where the leader is: for the controllers themselves (MemberConnector) and for programs outside (OutsideConnector).

Both answer the one question that `database.Database` has, and both ask everybody in parallel, again and again until
the deadline: during an election the answer is wrong for a fraction of a second, and waiting longer between questions
would be most of a fail-over. However many wait in one process, they share each round of questions: every question is
a TLS handshake for whoever is asked, and a crowd of them would starve the very election that it waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Generic, TypeVar

from dbaccessor import errors, timing, tls
from dbaccessor.dial import AddressBook, Caller, Dialer, DialError
from dbaccessor.dqlite.connection import Connection
from dbaccessor.identity import dqlite_id_of
from dbaccessor.localnode import LocalNode
from dbaccessor.preamble import Answer
from dbaccessor.terms import OwnTerms, RemoteTerms, Terms

# Between two questions to the own node, which costs nobody else anything.
_OWN_PAUSE_SECONDS = 0.004
_OWN_SECONDS = 0.2
# Between two rounds; an election that takes longer than a second will not be over in the next moment.
_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.1
_PATIENCE_SECONDS = 1.0

Found = tuple[Answer | None, str]
_T = TypeVar("_T")


async def find_leader(dialer: Dialer, addresses: Mapping[str, str], agrees: Callable[[Answer], bool]) -> Found:
    """Ask everybody in parallel; return the first that leads itself and agrees, and why there is none otherwise."""
    if not addresses:
        return None, "no controller's address is known"
    questions = {asyncio.create_task(dialer.ask(ip)): i for i, ip in addresses.items()}
    problems: list[str] = []
    try:
        for question in asyncio.as_completed(questions):
            try:
                answer = await question
            except DialError as error:
                problems.append(str(error))
                continue
            if not agrees(answer):
                problems.append(f"controller {answer.controller_id} is of another cluster or epoch")
            elif answer.leading:
                return answer, ""
    finally:
        for task in questions:
            task.cancel()
        await asyncio.gather(*questions, return_exceptions=True)
    return None, "nobody leads" + (f" ({'; '.join(sorted(problems))})" if problems else "")


class _Rounds(Generic[_T]):
    """Rounds of questions, one at a time: whoever asks while one is under way gets its answer."""

    def __init__(self, ask: Callable[[], Coroutine[None, None, _T]]) -> None:
        self._ask = ask
        self._round: asyncio.Task[_T] | None = None
        self._ended = float("-inf")

    async def next(self) -> _T:
        return await asyncio.shield(self._begin())

    async def glance(self, seconds: float, pause: float) -> _T | None:
        """Return the answer if it comes within `seconds`. A round begins so long after the one before, at least."""
        loop = asyncio.get_running_loop()
        if (self._round is None or self._round.done()) and loop.time() < self._ended + pause:
            await asyncio.sleep(min(seconds, self._ended + pause - loop.time()))
            return None
        done, _ = await asyncio.wait({self._begin()}, timeout=seconds)
        return done.pop().result() if done else None

    def _begin(self) -> asyncio.Task[_T]:
        if self._round is None or self._round.done():
            self._round = asyncio.create_task(self._timed())
        return self._round

    async def _timed(self) -> _T:
        try:
            return await self._ask()
        finally:
            self._ended = asyncio.get_running_loop().time()


def _pause(began: float) -> float:
    waited = asyncio.get_running_loop().time() - began
    return _PAUSE_SECONDS if waited < _PATIENCE_SECONDS else _LONGEST_PAUSE_SECONDS


class MemberConnector:
    """Connections to the leader for the controller itself.

    `local` is its own node and `terms` are that node's, None while it does not run.
    """

    def __init__(
        self,
        dialer: Dialer,
        local: Callable[[], LocalNode | None],
        terms: Callable[[], Terms | None] = lambda: None,
    ) -> None:
        self._dialer = dialer
        self._local = local
        self._terms = terms
        self._own: _Rounds[str] = _Rounds(self._ask_own)
        self._rounds = _Rounds(self._ask_others)

    async def to_leader(self, *, deadline: float) -> Connection:
        """Return a new connection to the leader. Raises NotReady at `deadline` (the loop's clock), with the reason."""
        reason = "not tried yet"
        began = asyncio.get_running_loop().time()
        while deadline > asyncio.get_running_loop().time():
            name = await self._own.next()
            if not name:
                # The own node may know first, so it is not kept waiting for the others; a silent one takes its time.
                patience = _OWN_PAUSE_SECONDS if self._local() is not None else _PAUSE_SECONDS
                found = await self._rounds.glance(patience, _pause(began))
                if found is not None:
                    reason = found[1]
                    name = found[0].name if found[0] is not None else ""
            if name:
                try:
                    return await self._reach(name, deadline)
                except (OSError, errors.DbAccessorError) as error:
                    reason = str(error)
                    await asyncio.sleep(_OWN_PAUSE_SECONDS)
        raise errors.NotReady(f"no leader could be reached: {reason}")

    async def leader_name(self, *, deadline: float) -> str:
        """See pool.Connector. The own node is asked, and the others where it follows nobody, as a spare never does."""
        if name := await self._own.next():
            return name
        return await _leading(self._rounds, deadline)

    @property
    def identity(self) -> object:
        """Who this controller is to the others: a connection made under another epoch proves nothing."""
        return self._dialer.caller

    @property
    def own_name(self) -> str:
        """As confirm.Members has it."""
        return self._dialer.caller.name

    async def to_member(self, name: str, *, deadline: float) -> Connection:
        """Return a new connection to the node of this raft name. Raises DialError, NotReady."""
        return await _open(self._dialer, name, deadline)

    async def to_terms(self, name: str, *, deadline: float) -> OwnTerms | RemoteTerms:
        """Return who tells the terms of the node of this raft name. Raises DialError, NotReady."""
        if name != self.own_name:
            return await _open_terms(self._dialer, name, deadline)
        terms = self._terms()
        if terms is None or terms.word is None or terms.dqlite_id != dqlite_id_of(name):
            raise errors.NotReady("the own node's terms are not known")
        return OwnTerms(terms, self._terms)

    async def _reach(self, name: str, deadline: float) -> Connection:
        """Connect to this node; given up once the own one follows another, as a machine that is gone refuses nobody."""
        dialling = asyncio.create_task(self.to_member(name, deadline=deadline))
        try:
            while not (await asyncio.wait({dialling}, timeout=_PAUSE_SECONDS))[0]:
                if (follows := await self._own.next()) and follows != name:
                    raise errors.NotReady(f"{name} leads no longer")
            return dialling.result()
        except BaseException:
            if not dialling.cancel() and not dialling.cancelled() and dialling.exception() is None:
                dialling.result().close()
            raise

    async def _ask_own(self) -> str:
        local = self._local()
        probe = await local.probe(_OWN_SECONDS) if local is not None else None
        return probe.leader if probe is not None else ""

    async def _ask_others(self) -> Found:
        caller = self._dialer.caller
        others = {i: a for i, a in self._dialer.book.everybody().items() if i != caller.controller_id}
        return await find_leader(
            self._dialer, others, lambda a: a.cluster_uuid == caller.cluster_uuid and a.epoch == caller.epoch
        )


class OutsideConnector:
    """Connections to the leader for a program that is no controller.

    `addresses` is asked before every attempt: controller id -> IP. With `cluster_uuid` None, the first leader found
    tells which cluster this is, and only that cluster is accepted from then on. Epochs only ever rise. `keyring` holds
    a certificate of that cluster's authority; without it connections are in clear, which only a cluster on loopback
    addresses accepts.
    """

    def __init__(
        self,
        addresses: Callable[[], Mapping[str, str]],
        port: int = 17666,
        cluster_uuid: str | None = None,
        keyring: tls.Keyring | None = None,
    ) -> None:
        self._addresses = addresses
        self._uuid = cluster_uuid
        self._epoch_number = 0
        self._dialer = Dialer(Caller(), AddressBook(port=port), timing.for_latency(10))
        self._dialer.keyring = keyring
        self._rounds = _Rounds(self._ask_all)

    async def to_leader(self, *, deadline: float) -> Connection:
        """As MemberConnector.to_leader."""
        reason = "not tried yet"
        began = asyncio.get_running_loop().time()
        while deadline > asyncio.get_running_loop().time():
            answer, reason = await self._rounds.next()
            if answer is not None and answer.epoch is not None:
                self._uuid, self._epoch_number = answer.cluster_uuid, answer.epoch.number
                self._dialer.caller = Caller(cluster_uuid=answer.cluster_uuid, epoch=answer.epoch)
                try:
                    return await self.to_member(answer.name, deadline=deadline)
                except (OSError, errors.DbAccessorError) as error:
                    reason = str(error)
            await asyncio.sleep(_pause(began))
        raise errors.NotReady(f"no leader could be reached: {reason}")

    async def leader_name(self, *, deadline: float) -> str:
        """See pool.Connector. All are asked, and the first that says it leads is believed."""
        return await _leading(self._rounds, deadline)

    @property
    def identity(self) -> object:
        """As MemberConnector.identity."""
        return self._dialer.caller

    @property
    def own_name(self) -> str:
        """As MemberConnector.own_name."""
        return ""

    async def to_member(self, name: str, *, deadline: float) -> Connection:
        """As MemberConnector.to_member."""
        return await _open(self._dialer, name, deadline)

    async def to_terms(self, name: str, *, deadline: float) -> RemoteTerms:
        """As MemberConnector.to_terms."""
        return await _open_terms(self._dialer, name, deadline)

    async def _ask_all(self) -> Found:
        addresses = dict(self._addresses())
        self._dialer.book = AddressBook(port=self._dialer.book.port, current=addresses)
        return await find_leader(self._dialer, addresses, self._agrees)

    def _agrees(self, answer: Answer) -> bool:
        if self._uuid is not None and answer.cluster_uuid != self._uuid:
            return False
        return answer.epoch is not None and answer.epoch.number >= self._epoch_number


async def _leading(rounds: _Rounds[Found], deadline: float) -> str:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(deadline):
            answer, _ = await rounds.next()
            return answer.name if answer is not None else ""
    return ""


async def _open(dialer: Dialer, name: str, deadline: float) -> Connection:
    dialled_as = dialer.caller
    left = deadline - asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(left):
            reader, writer = await dialer.open_client(name)
    except TimeoutError as error:
        raise errors.NotReady(f"{name} could not be reached in time") from error
    return await Connection.open(
        reader, writer, deadline_seconds=max(0.0, min(left, 1.0)), name=name, dialled_as=dialled_as
    )


async def _open_terms(dialer: Dialer, name: str, deadline: float) -> RemoteTerms:
    try:
        async with asyncio.timeout_at(deadline):
            return RemoteTerms(*await dialer.open_terms(name))
    except TimeoutError as error:
        raise errors.NotReady(f"{name} could not be reached in time") from error
