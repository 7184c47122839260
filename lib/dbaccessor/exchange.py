"""Group commit across controllers: committers hand what waits with them to the leader's, which makes one batch of all.

Committers that take turns by the database's lock cost one round of replication each; merged they cost one together. A
controller that does not lead opens a connection for its committer to the controller that does (purpose `batch` of the
preamble) and sends a Bundle at a time; the answer has a Verdict for each request. Only a committer that exists there
as well takes part, for the same database and the same statements, and only while its own node leads. Whatever keeps a
bundle from being taken is no error: the committer then commits by itself, as if this did not exist.

A bundle that was sent and not answered is Indefinite for all in it, like a batch.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from dbaccessor import errors, preamble
from dbaccessor.dqlite.wire import Value

if TYPE_CHECKING:
    from dbaccessor.groupcommit import Batch, GroupCommit

# A controller that does not take bundles is not asked again for so long.
_DIRECT_SECONDS = 1.0
_DIRECT_AFTER_DIAL_SECONDS = 5.0
# Committing by itself is the better choice than waiting any longer for a connection.
_DIAL_SECONDS = 0.2
# Between two looks whether the leader that owes an answer leads still.
_LOOK_SECONDS = 0.5
# Beyond the last deadline, for the answer that says that it passed.
_GRACE_SECONDS = 0.5
_MAX_ANSWER_BYTES = 16 << 20

Word = Literal["done", "not-ready", "indefinite", "refused"]
_ERRORS: dict[str, type[errors.DbAccessorError]] = {
    "not-ready": errors.NotReady,
    "indefinite": errors.Indefinite,
    "refused": errors.Refused,
}


# Database, the two statements of its batch, width of the key, and whether it is rising.
_Key = tuple[str, str, str, int, bool]


class Bundle(msgspec.Struct, frozen=True, array_like=True):
    """What one committer hands over: requests as JSON arrays, and how many seconds each has left."""

    database: str
    write: str
    ask: str
    key_width: int
    rising: bool
    requests: tuple[bytes, ...]
    seconds: tuple[float, ...]


class Verdict(msgspec.Struct, frozen=True, array_like=True):
    """What came of one request, as `GroupCommit.submit` returns or raises it."""

    word: Word
    # Values, as they stand: msgspec has no type for "text or bytes", which MessagePack tells apart by itself.
    row: tuple[Any, ...] | None = None
    message: str = ""
    code: int = 0

    def error(self) -> errors.DbAccessorError | None:
        kind = _ERRORS.get(self.word)
        return kind(self.message, code=self.code) if kind is not None else None


class Verdicts(msgspec.Struct, frozen=True, array_like=True):
    """The answer. Not taken: nothing was done, and nothing will be."""

    taken: bool
    verdicts: tuple[Verdict, ...] = ()


class Reach(Protocol):
    """How to find and reach the leader. leader.MemberConnector is this."""

    @property
    def identity(self) -> object:
        """Who we are to the members; a connection made as somebody else is not used any more."""
        ...

    @property
    def own_name(self) -> str:
        """The raft name of the node in this process."""
        ...

    async def follows(self) -> str:
        """Return the raft name of the leader that the own node follows, "" when it follows none."""
        ...

    async def open_batches(self, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a stream to the controller of this node that takes bundles. Raises OSError."""
        ...


class Exchange:
    """One in each controller: takes bundles for its committers, and gives them couriers. `leading`: the own node."""

    def __init__(self, reach: Reach, leading: Callable[[], bool]) -> None:
        self.reach = reach
        self.leading = leading
        self._committers: dict[_Key, GroupCommit] = {}
        self._serving = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    def register(self, database: str, batch: Batch, committer: GroupCommit) -> Courier:
        """Let this committer take part from now on."""
        self._committers.setdefault((database, batch.write, batch.ask, batch.key_width, batch.rising), committer)
        return Courier(self, database, batch)

    def forget(self, committer: GroupCommit) -> None:
        self._committers = {key: c for key, c in self._committers.items() if c is not committer}

    async def serve(self, body: bytes) -> bytes:
        """Return the answer to a bundle that another controller sent. Raises BadFrame."""
        try:
            bundle = msgspec.msgpack.decode(body, type=Bundle)
        except msgspec.DecodeError as error:
            raise preamble.BadFrame(f"a bundle that cannot be read: {error}") from error
        return msgspec.msgpack.encode(await self._serve(bundle))

    async def drain(self, limit_seconds: float) -> None:
        """Take no more bundles, and wait until those that were taken are answered."""
        self._closed = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_seconds):
                await self._idle.wait()

    async def _serve(self, bundle: Bundle) -> Verdicts:
        committer = self._committers.get((bundle.database, bundle.write, bundle.ask, bundle.key_width, bundle.rising))
        if committer is None or self._closed or not self.leading() or len(bundle.seconds) != len(bundle.requests):
            return Verdicts(False)
        self._serving += 1
        self._idle.clear()
        try:
            outcomes = [
                committer.take_over(request, seconds)
                for request, seconds in zip(bundle.requests, bundle.seconds, strict=True)
            ]
            said = await asyncio.gather(*outcomes, return_exceptions=True)
            return Verdicts(True, tuple(map(_verdict, said)))
        finally:
            self._serving -= 1
            if not self._serving:
                self._idle.set()


def _verdict(said: tuple[Value, ...] | BaseException | None) -> Verdict:
    if not isinstance(said, BaseException):
        return Verdict("done", said)
    code = said.code if isinstance(said, errors.DbAccessorError) else 0
    word: Word = "indefinite"
    if isinstance(said, errors.NotReady | errors.NotLeader):
        word = "not-ready"
    elif isinstance(said, errors.Refused):
        word = "refused"
    return Verdict(word, None, str(said), code)


class Courier:
    """Carries the bundles of one committer, one at a time."""

    def __init__(self, exchange: Exchange, database: str, batch: Batch) -> None:
        self._exchange = exchange
        self._reach = exchange.reach
        self._database = database
        self._batch = batch
        self._link: _Link | None = None
        self._direct_until = 0.0

    async def carry(
        self, requests: Sequence[bytes], seconds: Sequence[float], sending: Callable[[], None]
    ) -> tuple[Verdict, ...] | None:
        """Return what the leader's committer made of these, or None when it did not take them: nothing is done then.

        `sending` is called before the first byte is sent. Raises Indefinite when no answer came.
        """
        link = await self._ready()
        if link is None:
            return None
        batch = self._batch
        bundle = Bundle(
            self._database, batch.write, batch.ask, batch.key_width, batch.rising, tuple(requests), tuple(seconds)
        )
        body = msgspec.msgpack.encode(bundle)
        if len(body) > preamble.MAX_FRAME:
            return None
        sending()
        try:
            answer = await link.ask(body, max(seconds) + _GRACE_SECONDS, self._reach.follows)
            if answer.taken and len(answer.verdicts) != len(requests):
                raise EOFError("it answered other requests")
        except (OSError, EOFError, TimeoutError, msgspec.DecodeError) as error:
            self.close()
            reason = str(error) or type(error).__name__
            raise errors.Indefinite(f"no answer from the committer of {link.name}: {reason}") from error
        except BaseException:
            self.close()
            raise
        if not answer.taken:
            self._go_direct(_DIRECT_SECONDS)
            return None
        return answer.verdicts

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    async def _ready(self) -> _Link | None:
        if self._exchange.leading() or asyncio.get_running_loop().time() < self._direct_until:
            return None
        if self._link is not None and self._link.fits(self._reach.identity):
            return self._link
        self.close()
        name = await self._reach.follows()
        if not name or name == self._reach.own_name:
            return None
        identity = self._reach.identity
        try:
            async with asyncio.timeout(_DIAL_SECONDS):
                self._link = _Link(name, identity, *await self._reach.open_batches(name))
        except (OSError, TimeoutError):
            self._go_direct(_DIRECT_AFTER_DIAL_SECONDS)
        return self._link

    def _go_direct(self, seconds: float) -> None:
        self.close()
        self._direct_until = asyncio.get_running_loop().time() + seconds


class _Link:
    """A connection to the leader's controller."""

    def __init__(self, name: str, identity: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.name = name
        self._identity = identity
        self._reader = reader
        self._writer = writer

    def fits(self, identity: object) -> bool:
        return identity == self._identity and not self._reader.at_eof() and not self._writer.transport.is_closing()

    async def ask(self, body: bytes, seconds: float, follows: Callable[[], Awaitable[str]]) -> Verdicts:
        """Send a bundle and return its answer. Raises OSError, EOFError, TimeoutError, DecodeError."""
        self._writer.write(preamble.HEADER.pack(preamble.MAGIC, len(body)) + body)
        answering = asyncio.create_task(self._answer())
        try:
            async with asyncio.timeout(seconds):
                while not (await asyncio.wait({answering}, timeout=_LOOK_SECONDS))[0]:
                    # A leader whose machine is gone says nothing, not even that it is gone.
                    if (leader := await follows()) and leader != self.name:
                        raise EOFError(f"{leader} leads by now")
            return answering.result()
        finally:
            answering.cancel()

    async def _answer(self) -> Verdicts:
        magic, length = preamble.HEADER.unpack(await self._reader.readexactly(preamble.HEADER.size))
        if magic != preamble.MAGIC or length > _MAX_ANSWER_BYTES:
            raise EOFError("it answered nonsense")
        return msgspec.msgpack.decode(await self._reader.readexactly(length), type=Verdicts)

    def close(self) -> None:
        self._writer.transport.abort()
