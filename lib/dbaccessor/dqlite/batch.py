"""Many small writes as one transaction, and what came of each, in one round trip: what groupcommit.py needs."""

from __future__ import annotations

import contextlib

from dbaccessor import errors
from dbaccessor.dqlite import wire
from dbaccessor.dqlite.channel import Channel, encode
from dbaccessor.dqlite.results import Result, Rows, read_rows
from dbaccessor.dqlite.wire import RequestType

_BEGIN = wire.encode(wire.Request(RequestType.EXEC_SQL, (0, "BEGIN IMMEDIATE")))
_COMMIT = wire.encode(wire.Request(RequestType.EXEC_SQL, (0, "COMMIT")))
_ROLLBACK = wire.encode(wire.Request(RequestType.EXEC_SQL, (0, "ROLLBACK")))


class Batches:
    """The batches of one channel, which remembers what its node cannot do."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._begins_apart = False

    async def commit(self, write: str, ask: str, argument: str, seconds: float) -> tuple[Result, Rows]:
        """BEGIN IMMEDIATE, `write`, `ask`, COMMIT in one send; both statements get `argument` as their parameter.

        A BEGIN that fails must keep `write` from running on its own, so the two are one request, which stops at its
        first error; `ask` and COMMIT then find nothing to do. A node of 1.18.1 binds the parameter to the first
        statement of a request, BEGIN, and refuses: there BEGIN goes ahead by itself, one round trip more. Raises
        NotReady, NotLeader or Refused when nothing was done, Indefinite when it may have been.
        """
        channel = self._channel
        following = encode(wire.Request(RequestType.QUERY_SQL, (0, ask), (argument,))) + _COMMIT
        async with channel.conversation(True, seconds):
            if not self._begins_apart:
                begun = wire.Request(RequestType.EXEC_SQL, (0, f"BEGIN IMMEDIATE; {write}"), (argument,))
                try:
                    return await _carry_out(channel, encode(begun) + following)
                except errors.Refused as error:
                    if error.code != errors.RANGE or not channel.usable:
                        raise
            channel.send(_BEGIN)
            channel.expect(await channel.receive(), wire.Result, changes=False)
            after = wire.Request(RequestType.EXEC_SQL, (0, write), (argument,))
            committed = await _carry_out(channel, encode(after) + following)
            self._begins_apart = True
            return committed


async def _carry_out(channel: Channel, requests: bytes) -> tuple[Result, Rows]:
    channel.send(requests)
    written = await channel.receive()
    if isinstance(written, wire.Failure):
        # Nothing is there to be committed. So whatever becomes of the rest, this is what came of the batch.
        await _pass_over_the_rest(channel)
        channel.expect(written, wire.Result, changes=True)
    rows: Rows | errors.DbAccessorError
    try:
        rows = await read_rows(channel)
    except errors.DbAccessorError as error:
        rows = error
        if not channel.usable:
            raise errors.Indefinite(f"the batch may have been committed: {error}", code=error.code) from error
    ended = await channel.receive()
    if isinstance(ended, wire.Failure):
        if ended.code == errors.ERROR:
            # There was no transaction any more. If BEGIN went ahead by itself, the write may have lasted without one.
            channel.close()
            raise errors.Indefinite(f"the batch may have been committed: {ended.message}", code=ended.code)
        await _end_open(channel, ended)
    channel.expect(ended, wire.Result, changes=True)
    if isinstance(rows, errors.DbAccessorError):
        raise errors.Indefinite(f"the batch was committed, and not what came of it told: {rows}") from rows
    result = channel.expect(written, wire.Result, changes=True)
    return Result(result.last_insert_id, result.rows_affected), rows


async def _pass_over_the_rest(channel: Channel) -> None:
    """Take the answers to `ask` and COMMIT, after a write that failed. Where they do not come the channel is closed."""
    try:
        with contextlib.suppress(errors.DbAccessorError):
            await read_rows(channel)
        if not channel.usable:
            return
        ended = await channel.receive()
    except (EOFError, OSError, wire.ProtocolError):
        channel.close()
        return
    # Where BEGIN failed there is no transaction to end, and that is an error as well. After any other it is open still.
    if not isinstance(ended, wire.Result) and not (isinstance(ended, wire.Failure) and ended.code == errors.ERROR):
        channel.close()


async def _end_open(channel: Channel, refusal: wire.Failure) -> None:
    """End the transaction that COMMIT left open. The channel stays usable only where that is known to have worked."""
    if not errors.is_plain(refusal.code):
        channel.close()  # A checkpoint was in progress, or leadership is lost.
        return
    # A deferred constraint, as a rule: it is looked at by COMMIT only. Another batch can follow on this connection,
    # without the request that broke it.
    channel.send(_ROLLBACK)
    with contextlib.suppress(EOFError, OSError, wire.ProtocolError):
        if isinstance(await channel.receive(), wire.Result):
            return
    channel.close()
