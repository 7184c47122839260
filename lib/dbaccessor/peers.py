"""The watch over every other controller this node ever knew: who answers, in which epoch, and for how long not.

This is where "has been unreachable without a break" is measured, so it must not be fooled by its own pauses: when a
round comes much later than it should (the process was stopped, the machine suspended), all silences start anew.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dbaccessor.dial import Conversation, Dialer, DialError, Distrusted
from dbaccessor.dqlite.nodedir import LastEntry
from dbaccessor.preamble import Answer
from dbaccessor.situation import Peer
from dbaccessor.timing import Timing

# An answer older than this many rounds no longer counts as "answers".
_FRESH_ROUNDS = 3
# Silence is at least this many questions without an answer, however long they took.
_QUESTIONS = 3
# A question that took this much longer than its limit was held up on our side, and proves nothing.
_OWN_DELAY_SECONDS = 0.25


@dataclass
class _Record:
    conversation: Conversation
    answer: Answer | None = None
    answered_at: float = float("-inf")
    silent_since: float | None = None
    unanswered: int = 0
    problem: str = ""
    distrusted: bool = False


class PeerWatch:
    """Asks everybody in `targets()` (controller id -> IP) who they are, round after round.

    `on_news` is called after each round that brought another answer than the one before, or none.
    """

    def __init__(
        self,
        dialer: Dialer,
        timing: Timing,
        targets: Callable[[], Mapping[str, str]],
        on_news: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._dialer = dialer
        self.timing = timing
        self._targets = targets
        self._on_news = on_news
        self._records: dict[str, _Record] = {}
        self._asked_all: frozenset[tuple[str, str]] = frozenset()
        self._last_round = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._urgent = asyncio.Event()
        self._begun = self._ended = 0
        self._round_ended = asyncio.Event()

    async def run(self) -> None:
        """Ask for ever. Ends only by cancellation."""
        try:
            while True:
                self._begun += 1
                news = await self.round()
                self._ended = self._begun
                self._round_ended.set()
                if news:
                    self._on_news()
                self._urgent.clear()
                due = self._loop.call_later(self.timing.watch_seconds, self._urgent.set)
                try:
                    await self._urgent.wait()
                finally:
                    due.cancel()
        finally:
            for record in self._records.values():
                record.conversation.close()

    def hurry(self) -> None:
        """Let the next round begin now."""
        self._urgent.set()

    async def anew(self) -> None:
        """Return once everybody was asked again, from now on. It takes two rounds at the most, and needs `run`."""
        wanted = self._begun + 1  # A round that is under way may have had its answers a while ago.
        while self._ended < wanted:
            self.hurry()
            self._round_ended.clear()
            await self._round_ended.wait()

    async def round(self) -> bool:
        """Ask everybody once, in parallel; takes `ask_seconds` at the most.

        Return whether anything is new: not so where all gave the answers that they had given before.
        """
        self._forgive_own_pause()
        before, asked_before = self.answers(), self._asked_all
        targets = dict(self._targets())
        for gone in set(self._records) - set(targets):
            self._records.pop(gone).conversation.close()
        await asyncio.gather(*(self._ask(i, ip) for i, ip in targets.items()))
        self._asked_all = frozenset(targets.items())
        unanswered = any(record.unanswered for record in self._records.values())
        return unanswered or self._asked_all != asked_before or self.answers() != before

    def asked(self, targets: Mapping[str, str]) -> bool:
        """Whether each of these was asked at its present address at least once."""
        return set(targets.items()) <= self._asked_all

    def answers(self) -> dict[str, Answer]:
        """The fresh answers by controller id."""
        now = time.monotonic()
        limit = _FRESH_ROUNDS * (self.timing.watch_seconds + self.timing.ask_seconds)
        return {
            i: r.answer
            for i, r in self._records.items()
            if r.answer is not None and r.silent_since is None and now - r.answered_at < limit
        }

    def peers(self, cluster_uuid: str) -> tuple[Peer, ...]:
        """What decide is to know of them."""
        now = time.monotonic()
        fresh = self.answers()
        return tuple(self._peer(i, r, fresh.get(i), cluster_uuid, now) for i, r in sorted(self._records.items()))

    def heard(self, controller_id: str) -> None:
        """Note that this one called: whoever calls is not silent, even if it cannot be reached from here.

        Callable from any thread; the loop wakes only where this one was silent.
        """
        record = self._records.get(controller_id)
        if record is not None and record.silent_since is not None:
            self._loop.call_soon_threadsafe(_begin_anew, record)

    def distrusted(self) -> dict[str, str]:
        """Who is there and has another authority than this controller, or is somebody else: id -> one sentence."""
        return {i: r.problem for i, r in sorted(self._records.items()) if r.distrusted}

    def problem(self, controller_id: str) -> str:
        """Why this one does not answer, "" when it does."""
        record = self._records.get(controller_id)
        return record.problem if record is not None else "not asked yet"

    def _peer(self, controller_id: str, record: _Record, answer: Answer | None, uuid: str, now: float) -> Peer:
        if answer is None:
            silent = None if record.silent_since is None else now - record.silent_since
            if silent is not None and record.unanswered < _QUESTIONS:
                silent = 0.0
            return Peer(controller_id, silent_seconds=silent)
        same = bool(answer.cluster_uuid) and answer.cluster_uuid == uuid
        return Peer(
            controller_id,
            answers=True,
            holds_data=answer.holds_data and same,
            same_cluster=same,
            leader=answer.leader,
            epoch=answer.epoch,
            superseded=answer.superseded,
            running=answer.running,
            last=LastEntry(answer.last_term, answer.last_index),
            empty=answer.empty and answer.last_index == 0,
        )

    async def _ask(self, controller_id: str, ip: str) -> None:
        record = self._records.get(controller_id)
        if record is None or record.conversation.ip != ip:
            if record is not None:
                record.conversation.close()
            record = self._records[controller_id] = _Record(Conversation(self._dialer, ip))
        asked_at = time.monotonic()
        try:
            answer = await record.conversation.ask()
        except DialError as error:
            if time.monotonic() - asked_at > self.timing.ask_seconds + _OWN_DELAY_SECONDS:
                record.silent_since, record.unanswered = None, 0
                asked_at = time.monotonic()
            self._silent(record, asked_at, str(error))
            record.distrusted = isinstance(error, Distrusted)
            return
        record.distrusted = False
        if answer.controller_id != controller_id:
            # Somebody else has that address now, or had it when this connection was made: the next question dials anew.
            record.conversation.close()
            self._silent(record, asked_at, f"{ip} is controller {answer.controller_id or '(unknown)'} now")
            return
        record.answer, record.answered_at = answer, time.monotonic()
        record.silent_since, record.unanswered, record.problem = None, 0, ""

    @staticmethod
    def _silent(record: _Record, since: float, problem: str) -> None:
        record.problem = problem
        record.unanswered += 1
        if record.silent_since is None:
            record.silent_since = since

    def _forgive_own_pause(self) -> None:
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        expected = self.timing.watch_seconds + self.timing.ask_seconds
        paused = now - self._last_round > expected + max(1.0, self.timing.election_seconds)
        self._last_round = now
        if paused:
            for record in self._records.values():
                _begin_anew(record)


def _begin_anew(record: _Record) -> None:
    """Let a silence count from now on."""
    if record.silent_since is not None:
        record.silent_since, record.unanswered = time.monotonic(), 0
