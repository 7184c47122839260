"""Many small writes of one kind, from many callers, in one transaction: each caller gets its own outcome.

Dqlite lets one writer in at a time and keeps it until raft has replicated what it wrote, so writers that come one by
one only fight. A committer takes everything that waits into one batch, sent as JSON: two statements and one round of
replication for all of them. Each controller has a committer of its own; they take turns by the database's lock.

A `Batch` says what its table does with requests. For a lease that is taken over only by who has seen its counter:

    INSERT INTO lease (name, holder, counter)
        SELECT value->>0, value->>1, value->>2 + 1 FROM json_each(?) WHERE true
        ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, counter = excluded.counter
        WHERE lease.counter = excluded.counter - 1
    SELECT j.key, l.holder, l.counter FROM json_each(?) AS j JOIN lease AS l ON l.name = j.value->>0
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from dbaccessor import confirm, errors, retry, statements
from dbaccessor.confirm import Confirmer
from dbaccessor.dqlite.connection import Connection, Value
from dbaccessor.pool import Pool

Given = int | str | None

MAX_WAITING = 4096
MAX_REQUESTS = 512
# The JSON travels twice; one send must stay well below 64 KiB, beyond which it would wait for acknowledgements.
MAX_BYTES = 28 * 1024


@dataclass(frozen=True)
class Batch:
    """What one table does with many requests at once. Checked when it is made; raises Refused.

    Each request is an array of values. `write` gets the array of requests as its only parameter; so does `ask`,
    whose first column is the ordinal of the request that the row belongs to (`key` of json_each). The first
    `key_width` values of a request are its key: a batch holds one request for each key. A `write` that fails must
    leave nothing of itself: no OR FAIL, and none in the table's constraints or triggers, which are not seen here.
    """

    write: str
    ask: str
    key_width: int = 1
    rising: bool = False
    """Whether a request that is accepted always changes its row (a counter rises). It saves a round of questions."""

    def __post_init__(self) -> None:
        for sql, kind in ((self.write, statements.Kind.WRITE), (self.ask, statements.Kind.READ)):
            found = statements.check(sql, ("[]",))
            if found.kind is not kind:
                raise errors.Refused(f"{found.verb} cannot be the {kind.value} statement of a batch")
        if statements.fails_in_part(self.write):
            # COMMIT is sent along: it would make lasting what stands in front of the row that is refused.
            raise errors.Refused("OR FAIL cannot be in a batch, of which all is done or nothing")


@dataclass(eq=False)
class _Request:
    key: tuple[Given, ...]
    json: bytes
    deadline: float
    outcome: asyncio.Future[tuple[Value, ...] | None]
    sent: bool = field(default=False)


class GroupCommit:
    """The committer of one table on this controller. Made by `Database.group_commit`."""

    def __init__(self, connections: Pool, confirmer: Confirmer, batch: Batch) -> None:
        self._connections = connections
        self._confirmer = confirmer
        self._batch = batch
        self._waiting: deque[_Request] = deque()
        self._taken: list[_Request] = []
        self._task: asyncio.Task[None] | None = None
        # One for all deadlines, due with the first of them: a timer for each request would cost as much as its share
        # of the batch.
        self._timer: asyncio.TimerHandle | None = None
        self._problem = "it was not tried yet"
        # The batch under way, with all its tries. Before there is one nothing is counted.
        self._measured = connections.measured.request()

    async def submit(self, *values: Given, deadline_seconds: float = 10) -> tuple[Value, ...] | None:
        """Write one request and return what `ask` says of it in the same transaction, without the ordinal.

        None when it has no row. The answer is linearizable, also where nothing changed. Raises Refused when the
        request is wrong, its row breaks a constraint, or too many wait; NotReady when nothing was done until the
        deadline; Indefinite when it may have been done. Cancelling one caller disturbs no other.
        """
        loop = asyncio.get_running_loop()
        request = _Request(
            values[: self._batch.key_width], _encode(values), loop.time() + deadline_seconds, loop.create_future()
        )
        if self._connections.closed:
            raise errors.NotReady("the database is closed")
        if len(self._waiting) >= MAX_WAITING:
            raise errors.Refused(f"{len(self._waiting)} requests wait already")
        self._waiting.append(request)
        if self._task is None:
            self._task = loop.create_task(self._work())
        self._set_timer(request.deadline)
        return await request.outcome

    def close(self) -> None:
        """End. What was sent is Indefinite, what waits is NotReady."""
        self._connections.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        # Here and not where the task ends: one that is cancelled before its first step never gets there.
        self._fail_all()

    def _fail_all(self) -> None:
        for request in (*self._taken, *self._waiting):
            self._fail(request, errors.Indefinite if request.sent else errors.NotReady, "the database was closed")
        self._taken = []
        self._waiting.clear()

    def _set_timer(self, deadline: float) -> None:
        """Let those be told whose deadline passes, from this one on."""
        if self._timer is not None:
            if self._timer.when() <= deadline:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(deadline, self._tell_the_late)

    def _tell_the_late(self) -> None:
        now = asyncio.get_running_loop().time()
        self._timer = None
        left: list[float] = []
        for request in (*self._taken, *self._waiting):
            if request.outcome.done():
                continue
            if request.deadline > now:
                left.append(request.deadline)
            elif request.sent:
                self._fail(request, errors.Indefinite, "no answer in time; it may be committed")
            else:
                self._fail(request, errors.NotReady, f"the batch could not be committed in time: {self._problem}")
        if left:
            self._set_timer(min(left))

    async def _work(self) -> None:
        pauses = _pauses()
        try:
            while self._waiting:
                self._taken = self._take()
                if not self._taken:
                    continue
                with self._connections.measured.request() as self._measured:
                    if await self._work_off(pauses):
                        pauses = _pauses()
                    if not self._measured.heard:
                        # All callers gave up, unless one of them was told an error, which counts then.
                        self._measured.fail(asyncio.CancelledError())
        finally:
            self._task = None
            self._fail_all()

    async def _work_off(self, pauses: Iterator[float]) -> bool:
        """Commit what is taken, again and again while provably nothing was done. Return whether it came to an end.

        It does not where nobody waits any more, nor where somebody was told an error meanwhile: what failed is to be
        counted then, and not at the end of an outage. Who waits still is taken as another batch.
        """
        while self._taken:
            try:
                await self._commit(self._taken)
                return True
            except (errors.NotReady, errors.NotLeader) as error:
                # They wait again, at the front, together with whoever came meanwhile.
                self._problem = str(error)
                for request in self._taken:
                    request.sent = False
                self._waiting.extendleft(reversed([r for r in self._taken if not r.outcome.done()]))
                self._taken = []
            await asyncio.sleep(next(pauses))
            if self._measured.failed:
                break
            self._taken = self._take()
        return False

    def _take(self) -> list[_Request]:
        """Take from the front what one batch holds: one request for each key, those of one key in their order."""
        taken: list[_Request] = []
        passed: list[_Request] = []
        keys: set[tuple[Given, ...]] = set()
        size = 0
        while self._waiting and len(taken) < MAX_REQUESTS:
            request = self._waiting[0]
            if not request.outcome.done() and request.key not in keys and size and size + len(request.json) > MAX_BYTES:
                break
            self._waiting.popleft()
            if request.outcome.done():
                continue  # Its caller gave up before anything was sent.
            if request.key in keys:
                passed.append(request)
                continue
            keys.add(request.key)
            taken.append(request)
            size += len(request.json) + 1
        self._waiting.extendleft(reversed(passed))
        return taken

    async def _commit(self, requests: Sequence[_Request]) -> None:
        """Write these and give each its outcome. Raises NotReady, NotLeader when nothing was done."""
        try:
            self._measured.attempt()
            written, rows = await self._write(requests)
        except errors.Indefinite as error:
            for request in requests:
                self._fail(request, errors.Indefinite, str(error), error.code)
        except errors.Refused as error:
            if len(requests) == 1:
                self._fail(requests[0], errors.Refused, str(error), error.code)
                return
            # One of them is wrong, and must not spoil it for the others. None of them is done.
            for request in requests:
                request.sent = False
            half = len(requests) // 2
            await self._commit_part(requests[:half])
            await self._commit_part(requests[half:])
        else:
            if written and not self._measured.heard:
                self._measured.answered()
            found = {row[0]: row[1:] for row in rows}
            for ordinal, request in enumerate(written):
                if not request.outcome.done():
                    request.outcome.set_result(found.get(ordinal))

    async def _commit_part(self, requests: Sequence[_Request]) -> None:
        left = [r for r in requests if not r.outcome.done()]
        if left:
            await self._commit(left)

    async def _write(self, requests: Sequence[_Request]) -> tuple[Sequence[_Request], Sequence[tuple[Value, ...]]]:
        """Return what was written, which is less than `requests` if some gave up meanwhile, and what `ask` says."""
        deadline = max(request.deadline for request in requests)
        connection = await self._connections.take(deadline)
        try:
            # To find the leader may have taken long. Whose deadline passed was told that nothing was done, and may
            # have done something else since: it must stay undone.
            requests = [request for request in requests if not request.outcome.done()]
            if not requests:
                return (), ()
            for request in requests:
                request.sent = True
            result, rows = await connection.group(
                self._batch.write,
                self._batch.ask,
                (b"[" + b",".join(request.json for request in requests) + b"]").decode(),
                deadline_seconds=retry.left(deadline),
            )
            if not (self._batch.rising and result.rows_affected):
                try:
                    await self._confirm(connection, deadline)
                except (errors.NotReady, errors.NotLeader) as error:
                    if not result.rows_affected:
                        raise
                    raise errors.Indefinite(f"committed by a leader that is not confirmed: {error}") from error
            return requests, rows.rows
        except errors.Refused:
            await self._confirm(connection, deadline)  # A constraint that old data broke is no verdict.
            raise
        except BaseException:
            connection.close()
            raise
        finally:
            self._connections.give_back(connection)

    def _fail(self, request: _Request, kind: type[errors.DbAccessorError], message: str, code: int = 0) -> None:
        if not request.outcome.done():
            error = kind(message, code=code)
            request.outcome.set_exception(error)
            self._measured.fail(error)

    async def _confirm(self, connection: Connection, deadline: float) -> None:
        members = await connection.cluster(deadline_seconds=retry.left(deadline))
        await self._confirmer.confirm(connection, members, deadline=deadline)
        await confirm.still_leads(connection, deadline=deadline)


def _encode(values: tuple[Given, ...]) -> bytes:
    for position, value in enumerate(values, 1):
        if value is not None and not isinstance(value, (int, str)):
            # JSON has no blobs, and SQLite reads its fractions with an error in the last digit.
            raise errors.Refused(f"value {position}: a {type(value).__name__} cannot be in a batch; give int or text")
        problem = statements.value_problem(value)
        if problem:
            raise errors.Refused(f"value {position}: {problem}")
    encoded = msgspec.json.encode([int(value) if isinstance(value, bool) else value for value in values])
    if len(encoded) > MAX_BYTES:
        raise errors.Refused(f"a request of {len(encoded)} bytes is larger than the {MAX_BYTES} of a batch")
    return encoded


def _pauses() -> Iterator[float]:
    pause = retry.FIRST_PAUSE_SECONDS
    while True:
        yield pause * random.uniform(0.5, 1.5)
        pause = min(2 * pause, retry.LONGEST_PAUSE_SECONDS)
