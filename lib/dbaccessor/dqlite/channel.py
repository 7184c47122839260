"""One question at a time to one node, over any pair of asyncio streams, each with a deadline of its own.

Whatever makes the state of the conversation doubtful (a deadline, an end, nonsense, a cancelled caller) closes the
channel: it is never used again, and what the caller learns is NotReady where the request could not have changed
anything, Indefinite where it could. What can be asked is connection.py's business.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar, cast

from dbaccessor import errors
from dbaccessor.dqlite import farewell, wire
from dbaccessor.dqlite.inbox import Inbox
from dbaccessor.dqlite.turns import Turns

# An answer usually takes a millisecond, and a commit that of a disk. After this long, the time that an election takes,
# it is worth asking whether that node leads still.
SLOW_SECONDS = 0.3

# What the engine says when a row-returning write came through Exec. The write lock stays behind on that connection.
_ROWS_YIELDED = "rows yielded"

_R = TypeVar("_R", bound=wire.Response)


class Channel:
    """Takes over the reading of the streams. `usable` turns False once and for all.

    Everything but `close` and `ask_aside` belongs inside of a `conversation`. `on_slow` is called when an answer takes
    SLOW_SECONDS. `querying` is True while the node still sends parts of an answer.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, on_slow: Callable[[], None]) -> None:
        self.querying = False
        self._on_slow = on_slow
        self._writer = writer
        self._inbox = Inbox(reader, cast(asyncio.Transport, writer.transport))
        self._loop = asyncio.get_running_loop()
        self._closed = False
        # One asks at a time.
        self._turns = Turns(1)
        # The question that is being asked: since when, until when, and whether that is over. One timer watches
        # over all questions, one after another: setting one for each would cost as much as the question.
        self._since = self._until = 0.0
        self._late = False
        self._slow = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def usable(self) -> bool:
        return not self._closed

    @property
    def waiting(self) -> bool:
        """Whether an answer is awaited."""
        return self._turns.all_taken and not self._closed

    @property
    def received(self) -> int:
        """How many bytes came since the last `send`."""
        return self._inbox.received

    def close(self) -> None:
        """End the conversation; it returns at once. The node rolls an open transaction back."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self.querying:
            farewell.leave(self._writer)
        else:
            # Not close(): that one waits for unsent bytes, for ever if the other side is frozen. A transport that has
            # closed itself, with something left to send, has no loop any more: Python 3.11's abort stumbles over that.
            with contextlib.suppress(AttributeError):
                self._writer.transport.abort()

    async def ask(self, request: bytes, expected: type[_R], seconds: float, *, changes: bool = False) -> _R:
        """Ask for one answer, in a conversation of its own."""
        async with self.conversation(changes, seconds):
            self.send(request)
            return self.expect(await self.receive(), expected, changes=changes)

    def ask_aside(self, request: bytes, expected: type[_R], told: Callable[[_R | None], None], seconds: float) -> bool:
        """Ask without anybody who waits: `told` is called with the answer.

        It is called once, from the event loop, with None where no such answer came; the channel is closed then. False:
        nothing was asked, as the channel is closed or in use.
        """
        if self._closed or self._inbox.ended is not None or not self._turns.take():
            return False
        self._watch(self._loop.time() + seconds)
        self._inbox.on_news = lambda: self._hear_aside(expected, told)
        self.send(request)
        return True

    def _hear_aside(self, expected: type[_R], told: Callable[[_R | None], None]) -> None:
        answer: wire.Response | None = None
        try:
            answer = self._inbox.decoder.next()
            if answer is None and self._inbox.ended is None and not self._late:
                return
        except wire.ProtocolError:
            pass
        self._inbox.on_news = None
        self._turns.give_back()
        if isinstance(answer, expected):
            told(answer)
        else:
            self.close()
            told(None)

    def conversation(self, changes: bool, seconds: float) -> Conversation:
        """Return what must surround a request and the reading of its whole answer."""
        return Conversation(self, changes, seconds)

    def send(self, data: bytes) -> None:
        self._inbox.received = 0
        self._writer.write(data)

    async def receive(self) -> wire.Response:
        """Return the next answer. Raises EOFError, OSError, ProtocolError, and TimeoutError at the deadline."""
        while (response := self._inbox.decoder.next()) is None:
            await self._more()
        return response

    async def until_here(self, count: int) -> None:
        """Wait until so many whole answers can be received at once. Raises what `receive` raises."""
        while not self._inbox.decoder.holds(count):
            await self._more(count)

    async def take(self, count: int) -> bytes:
        """Return so many bytes, undecoded. Raises what `receive` raises."""
        while (taken := self._inbox.decoder.take(count)) is None:
            await self._more()
        return taken

    def put_back(self, data: bytes) -> None:
        """Let bytes that were taken be decoded after all."""
        self._inbox.decoder.put_back(data)

    def expect(self, response: wire.Response, expected: type[_R], *, changes: bool) -> _R:
        """Return the answer if it is of this kind; raise the error that the node answers instead, or ProtocolError."""
        if isinstance(response, expected):
            return response
        if not isinstance(response, wire.Failure):
            raise wire.ProtocolError(f"{type(response).__name__} came instead of {expected.__name__}")
        error = errors.from_failure(response.code, response.message, changes=changes)
        if errors.spoils_connection(response.code) or _ROWS_YIELDED in response.message:
            self.close()
        raise error

    async def _more(self, count: int = 0) -> None:
        """Wait until more is here, and so many answers. Raises EOFError, OSError, and TimeoutError at the deadline."""
        if self._late:
            raise TimeoutError
        if self._inbox.ended is not None:
            raise self._inbox.ended
        news: asyncio.Future[None] = self._loop.create_future()

        def tell() -> None:
            inbox = self._inbox
            if news.done() or (count and inbox.ended is None and not self._late and not inbox.decoder.holds(count)):
                return
            news.set_result(None)

        self._inbox.on_news = tell
        try:
            self._inbox.want_more()
            await news
        finally:
            self._inbox.on_news = None

    def _watch(self, until: float) -> None:
        """Let the question that begins now last until then."""
        self._since, self._until = self._loop.time(), until
        self._late = self._slow = False
        self._set_timer()

    def _set_timer(self) -> None:
        due = self._until if self._slow else min(self._until, self._since + SLOW_SECONDS)
        if self._timer is not None:
            if self._timer.when() <= due:
                return  # It finds out then for how long to wait on.
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._look_at_the_clock)

    def _look_at_the_clock(self) -> None:
        self._timer = None
        if self._closed or not self._turns.all_taken:
            return
        now = self._loop.time()
        if now >= self._until:
            self._late = True
            if self._inbox.on_news is not None:
                self._inbox.on_news()
            return
        if now >= self._since + SLOW_SECONDS and not self._slow:
            self._slow = True
            self._on_slow()
        self._set_timer()


class Conversation:
    """The time from a request to its whole answer: alone on the channel, within a deadline.

    The channel is closed if that ends in any other way than by an answer that the protocol foresees.
    """

    def __init__(self, channel: Channel, changes: bool, seconds: float) -> None:
        self._channel = channel
        self._changes = changes
        self._seconds = seconds

    async def __aenter__(self) -> None:
        channel = self._channel
        until = channel._loop.time() + self._seconds
        if not channel._turns.take():
            try:
                # Waiting for the turn counts as well. Nothing has been sent then, so the connection stays as it is.
                await channel._turns.wait(until)
            except TimeoutError as error:
                raise errors.NotReady(f"the connection was busy for {self._seconds:g} s") from error
        if channel._inbox.ended is not None:
            channel.close()
        if channel._closed:
            channel._turns.give_back()
            raise errors.NotReady("the connection is closed")
        channel._watch(until)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        channel = self._channel
        channel._turns.give_back()
        if error is None or isinstance(error, errors.DbAccessorError):
            return
        channel.close()
        if isinstance(error, TimeoutError) and channel._late:
            ended = f"no answer within {self._seconds:g} s"
        elif isinstance(error, (OSError, EOFError, wire.ProtocolError)):
            ended = str(error) or type(error).__name__
        else:
            return
        if isinstance(error, wire.TooLarge) and not self._changes:
            raise errors.Refused(str(error)) from error
        raise errors.from_ended(ended, changes=self._changes) from error


def encode(request: wire.Request) -> bytes:
    """Return what is sent for a request. Raises Refused for one that cannot be said on the wire."""
    try:
        return wire.encode(request)
    except wire.ProtocolError as error:
        raise errors.Refused(str(error)) from error
