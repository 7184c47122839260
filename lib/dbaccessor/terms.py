"""Flow 1, hop 7: which term of raft a node has heard of, known without asking the node.

Whatever other nodes say to this one passes the proxy (proxy.py), which reads along. So this process knows a bound that
the library tells nobody: its node has acknowledged nothing in a later term than the newest that has passed on its way
in, or that its files had when it started; nor has it committed anything in one, where that takes somebody else's
acknowledgement. For confirm.py that is the word of a voter, and costs one wake-up of a thread instead of three.

Another process asks over a connection of its own (the preamble's purpose *terms*): each byte that it sends is a
question, and each answer three words, little-endian, as Word has them.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import struct
import threading
from collections.abc import Callable
from typing import Final, NamedTuple, cast

from dbaccessor.dqlite.rafttraffic import Incomprehensible, Traffic
from dbaccessor.tlsstream import NOT_NOW, Stream, forget_failure

log = logging.getLogger(__name__)

_ANSWER: Final = struct.Struct("<3Q")
_QUESTION = b"?"
# Questions that may be on their way at once; whoever asks waits for the answer first.
_MOST_QUESTIONS = 64


class Word(NamedTuple):
    """`newest`: the node has acknowledged nothing in a later term. `leader` (a Dqlite id, 0: nobody) has led in
    term `led`, the newest of which this node has heard from its leader."""

    newest: int
    leader: int = 0
    led: int = 0


class Terms:
    """The terms of one run of one node, which has none before and none after it.

    It listens on the proxy's thread from before the node starts. `word` is None until `begin`, and where nothing can be
    said because the node's files, or what it is sent, are not understood; it is replaced as a whole, and read on any
    thread.
    """

    def __init__(self, dqlite_id: int) -> None:
        self.dqlite_id = dqlite_id
        self.word: Word | None = None
        self._heard: Word | None = Word(0)
        self._begun = False
        self._lock = threading.Lock()

    def begin(self, stored: int | None) -> None:
        """Let it be told. `stored` is the newest term in the node's files before it ran, None where it is not known."""
        with self._lock:
            self._begun = True
            if stored is None or self._heard is None:
                self._heard = None
            else:
                self._heard = self._heard._replace(newest=max(stored, self._heard.newest))
            self.word = self._heard
        if stored is None:
            log.warning("the node's files do not tell its term; reads that ask it are confirmed in three round trips")

    def listen(self, sender: int) -> Callable[[memoryview], None]:
        """Return who must be given all bytes of a connection that `sender` opened, each before the node gets it."""
        traffic = Traffic(lambda term, leads: self._hear(sender, term, leads))

        def feed(data: memoryview) -> None:
            if self._heard is None:
                return
            try:
                traffic.feed(data)
            except Incomprehensible as error:
                log.warning("what raft says is not understood: %s; reads are confirmed in three round trips", error)
                with self._lock:
                    self._heard = self.word = None

        return feed

    def _hear(self, sender: int, term: int, leads: bool) -> None:
        word = self._heard
        if word is None or (term <= word.newest and not (leads and term > word.led)):
            return
        with self._lock:
            if (word := self._heard) is not None:
                led = (sender, term) if leads and term > word.led else (word.leader, word.led)
                self._heard = Word(max(term, word.newest), *led)
                if self._begun:
                    self.word = self._heard


class Informant:
    """Answers the questions that come over one connection, on the proxy's loop, as long as `terms` are `current`."""

    def __init__(self, stream: Stream, terms: Terms, current: Callable[[], Terms | None]) -> None:
        self._stream = stream
        self._terms = terms
        self._current = current
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Return when the connection has ended, closed from here if need be."""
        loop, fd = asyncio.get_running_loop(), self._stream.socket.fileno()
        loop.add_reader(fd, self._answer)
        try:
            self._answer()  # TLS may hold a question already, of which the kernel knows nothing.
            await self._over
        finally:
            loop.remove_reader(fd)
            self._stream.close()

    def _answer(self) -> None:
        if self._over.done():
            return
        stream = self._stream.socket
        try:
            questions = stream.recv(_MOST_QUESTIONS)
        except NOT_NOW:
            return
        except OSError:
            forget_failure()
            questions = b""
        if not self._tell(len(questions)):
            self._over.set_result(None)
        elif isinstance(stream, ssl.SSLSocket) and stream.pending():
            # What TLS holds is nothing that the loop would call for. Raft has its turn before.
            asyncio.get_running_loop().call_soon(self._answer)

    def _tell(self, times: int) -> bool:
        """Answer so many questions. False where there is nobody to tell, or nothing more."""
        word = self._terms.word
        if not times or word is None or self._current() is not self._terms:
            return False
        answers = _ANSWER.pack(*word) * times
        try:
            # Whoever leaves so many answers unread that no more can be sent does not want them.
            return self._stream.socket.send(answers) == len(answers)
        except OSError:
            forget_failure()
            return False


class RemoteTerms(asyncio.BufferedProtocol):
    """Asks an Informant, one question at a time. Takes over the streams, on which the preamble was agreed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer  # It would close the transport with its own end.
        self._transport = cast(asyncio.Transport, writer.transport)
        self._loop = asyncio.get_running_loop()
        # One byte more than an answer has, so that one too many shows.
        self._buffer = memoryview(bytearray(_ANSWER.size + 1))
        self._filled = 0
        self._told: Callable[[Word | None], None] | None = None
        # One timer for all questions, one after another: setting one for each would cost as much as the question.
        self._until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._transport.set_protocol(self)
        if reader.at_eof():
            self.close()

    def ask(self, told: Callable[[Word | None], None], *, deadline_seconds: float) -> bool:
        """Call `told` with the answer, once, from the event loop; with None where none came, and it is closed then.

        False: nothing was asked, as this is closed or in use.
        """
        if self._told is not None or self._transport.is_closing():
            return False
        self._told = told
        self._until = self._loop.time() + deadline_seconds
        if self._timer is None or self._timer.when() > self._until:
            self._look_at_the_clock()
        self._transport.write(_QUESTION)
        return True

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()
        self._tell(None)

    # What asyncio calls.

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if self._filled < _ANSWER.size:
            return
        if self._told is None or self._filled > _ANSWER.size:
            self.close()
            return
        self._filled = 0
        self._tell(Word(*_ANSWER.unpack_from(self._buffer)))

    def connection_lost(self, exc: Exception | None) -> None:
        self.close()

    def _tell(self, word: Word | None) -> None:
        told, self._told = self._told, None
        if told is not None:
            told(word)

    def _look_at_the_clock(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._told is None:
            return
        if self._loop.time() >= self._until:
            self.close()
        else:
            self._timer = self._loop.call_at(self._until, self._look_at_the_clock)


class OwnTerms:
    """Asks the terms of a node in this process, as RemoteTerms asks those of another: the answer is there at once."""

    def __init__(self, terms: Terms, current: Callable[[], Terms | None]) -> None:
        self._terms = terms
        self._current = current

    def ask(self, told: Callable[[Word | None], None], *, deadline_seconds: float) -> bool:
        """As RemoteTerms.ask."""
        word = self._terms.word
        if word is None or self._current() is not self._terms:
            return False
        told(word)
        return True

    def close(self) -> None:
        """Nothing is held."""
