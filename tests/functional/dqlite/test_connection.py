"""What a real node answers, and what this client never lets it be asked."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from dbaccessor import errors
from dbaccessor.dqlite import wire
from dbaccessor.dqlite.connection import Connection
from dbaccessor.dqlite.results import Rows
from dqlitenodes import InProcess, Processes, until


def on_one_node(nodes: InProcess, play: Callable[[Connection], Awaitable[None]]) -> None:
    """Run `play` with a connection to a cluster of one that has a database open."""

    async def run() -> None:
        await asyncio.to_thread(nodes.found)
        await nodes.wait_for_leader()
        async with nodes.connect(0) as connection:
            await connection.open_database("data")
            await play(connection)

    asyncio.run(run())


VALUES = [0, -1, 2**63 - 1, -(2**63), 0.0, -1.5, 1e300, "", "é🙂", "x" * 5000, b"", b"\0\xff", b"y" * 5001, None]


def test_values_come_back_as_they_were_stored(nodes: InProcess):
    async def play(connection: Connection) -> None:
        await connection.execute("CREATE TABLE t(n INTEGER PRIMARY KEY, v)")
        for value in VALUES:
            await connection.execute("INSERT INTO t(v) VALUES(?)", (value,))

        rows = await connection.query("SELECT v FROM t ORDER BY n")

        assert rows == Rows(("v",), tuple((value,) for value in VALUES))
        assert [type(v) for (v,) in rows.rows] == [type(v) for v in VALUES]
        many = ",".join("?" * 300)
        assert (await connection.query(f"SELECT {many}", tuple(range(300)))).rows == (tuple(range(300)),)

    on_one_node(nodes, play)


def test_an_answer_of_many_parts_is_one_result(nodes: InProcess):
    async def play(connection: Connection) -> None:
        numbers = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x<5000)"
        rows = await connection.query(f"{numbers} SELECT x, 'some text to fill a page' FROM c")
        assert [x for x, _ in rows.rows] == list(range(1, 5001))

    on_one_node(nodes, play)


def test_a_failure_behind_rows_is_told_by_its_own_code_and_no_row_is_seen(nodes: InProcess):
    async def play(connection: Connection) -> None:
        # The first row is fine, the second overflows: the failure's body begins with the column and the first row.
        for prefix in ("1", "1, 2, 3, 4, 5", "'busy'"):
            nulls = ", NULL" * prefix.count(",")
            with pytest.raises(errors.Refused) as caught:
                await connection.query(f"SELECT {prefix} UNION ALL SELECT abs(-9223372036854775808){nulls}")
            assert caught.value.code == 1
            assert "integer overflow" in str(caught.value)
        assert connection.usable

    on_one_node(nodes, play)


def test_what_could_kill_the_node_is_refused_before_a_byte_is_sent(nodes: InProcess):
    async def play(connection: Connection) -> None:
        await connection.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
        written: list[bytes] = []
        write = connection._channel._writer.write
        connection._channel._writer.write = written.append  # type: ignore[method-assign]
        for sql, params in (
            ("INSERT INTO t(b) VALUES(?) RETURNING a", (1,)),
            ("INSERT INTO t(b) VALUES(1)/**/returning/**/a", ()),
            ("WITH x AS (SELECT 1) INSERT INTO t(b) SELECT * FROM x RETURNING\n*", ()),
            ("CREATE TABLE u(a BOOLEAN)", ()),
            ("ALTER TABLE t ADD COLUMN c 'datetime'", ()),
            ("SELECT 1; DROP TABLE t", ()),
            ("INSERT INTO t(b) VALUES(?)", ()),
            ("INSERT INTO t(b) VALUES(?)", (1, 2)),
            ("INSERT INTO t(b) VALUES(?)", ("a\0b",)),
            ("", ()),
        ):
            for send in (connection.execute, connection.query):
                with pytest.raises(errors.Refused):
                    await send(sql, params)
        for name in ("", ":memory:", "a" * 600, "x\0y"):
            with pytest.raises(errors.Refused):
                await connection.open_database(name)
        assert written == []
        connection._channel._writer.write = write  # type: ignore[method-assign]
        assert (await connection.execute("INSERT INTO t(b) VALUES(1)")).last_insert_id == 1

    on_one_node(nodes, play)


def test_an_answer_without_end_ends(three: Processes):
    """A node that cannot fit the columns' names into a page sends them for ever (and aborts at its next stop)."""

    async def play() -> None:
        three.ids = {0: three.ids[0]}
        await three.grow()
        await three.wait_for_leader()
        async with three.connect(0) as connection:
            await connection.open_database("data")
            names = ", ".join(f"1 AS a_rather_long_name_number_{n}" for n in range(200))
            with pytest.raises(errors.Refused, match="names of the columns"):
                await connection.query(f"SELECT * FROM (SELECT {names})")
            assert not connection.usable

    asyncio.run(play())


@pytest.mark.parametrize("patience", [0.0, 0.001, 0.01, 0.1])
def test_a_node_survives_that_its_clients_leave_in_the_middle_of_an_answer(nodes: InProcess, patience: float):
    """Closing the socket there would leave a lock behind, and the stop of the node would abort this process."""

    async def all_closed() -> bool:
        return not asyncio.get_running_loop()._selector.get_map().keys() - before

    before: set[int] = set()

    async def play(connection: Connection) -> None:
        before.update(asyncio.get_running_loop()._selector.get_map())
        numbers = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x<200000)"
        async with nodes.connect(0) as other:
            await other.open_database("data")
            with pytest.raises(errors.NotReady, match="no answer within"):
                await other.query(f"{numbers} SELECT x, 'some text to fill a page' FROM c", deadline_seconds=patience)
            assert not other.usable
        await connection.execute("CREATE TABLE t(a)")
        await until(all_closed, "the node ending the connection that was left")
        await asyncio.to_thread(nodes.stop, 0)

    on_one_node(nodes, play)


def test_plain_errors_leave_the_connection_usable(nodes: InProcess):
    async def play(connection: Connection) -> None:
        await connection.execute("CREATE TABLE t(a INTEGER PRIMARY KEY)")
        await connection.execute("INSERT INTO t VALUES(1)")
        with pytest.raises(errors.Refused) as caught:
            await connection.execute("INSERT INTO t VALUES(1)")
        assert caught.value.code == 1555  # SQLITE_CONSTRAINT_PRIMARYKEY
        with pytest.raises(errors.Refused, match="no such table"):
            await connection.query("SELECT * FROM nowhere")
        with pytest.raises(errors.Refused, match="already in use"):
            await connection.add(2, (await connection.cluster())[0].name)
        assert connection.usable
        assert (await connection.query("SELECT a FROM t")).rows == ((1,),)

    on_one_node(nodes, play)


def test_a_second_database_on_one_connection_is_not_ready(nodes: InProcess):
    async def play(connection: Connection) -> None:
        with pytest.raises(errors.NotReady) as caught:
            await connection.open_database("other")
        assert caught.value.code == errors.BUSY

    on_one_node(nodes, play)


def test_a_closed_connection_rolls_its_transaction_back(nodes: InProcess):
    async def play(connection: Connection) -> None:
        await connection.execute("CREATE TABLE t(a)")
        async with nodes.connect(0) as other:
            await other.open_database("data")
            await other.execute("BEGIN IMMEDIATE")
            await other.execute("INSERT INTO t VALUES(1)")

        async def written() -> bool:
            await connection.execute("INSERT INTO t VALUES(2)")
            return True

        # Libraries without a busy timeout say "busy" until they have noticed.
        await until(written, "the lock being given up", 5)
        assert (await connection.query("SELECT a FROM t")).rows == ((2,),)

    on_one_node(nodes, play)


def test_a_second_writer_is_busy_and_that_is_not_ready(nodes: InProcess):
    async def play(connection: Connection) -> None:
        await connection.execute("BEGIN IMMEDIATE")
        async with nodes.connect(0) as other:
            await other.open_database("data")
            with pytest.raises(errors.NotReady) as caught:
                await other.execute("BEGIN IMMEDIATE")
            assert caught.value.code == errors.BUSY
            assert other.usable
            await connection.execute("ROLLBACK")
            await other.execute("BEGIN IMMEDIATE")

    on_one_node(nodes, play)


@pytest.mark.parametrize(
    "statements",
    [
        ("INSERT INTO t VALUES(1) RETURNING a", "INSERT INTO t VALUES(2)"),
        ("CREATE TABLE u(a BOOLEAN)", "INSERT INTO u VALUES('x')", "SELECT a FROM u"),
    ],
    ids=["returning", "boolean"],
)
def test_the_defects_that_the_check_guards_against_are_still_there(three: Processes, statements: tuple[str, ...]):
    """Sends what `Connection` refuses, as bytes. When this fails, the engine was mended: the check may be relaxed."""

    async def play() -> None:
        three.ids = {0: three.ids[0]}
        await three.grow()
        await three.wait_for_leader()
        with socket.create_connection(("127.0.0.1", three.ports[0]), timeout=10) as stream:
            stream.sendall(wire.HELLO)
            _tell(stream, wire.RequestType.OPEN, ("data", 0, ""))
            _tell(stream, wire.RequestType.EXEC_SQL, (0, "CREATE TABLE t(a)"))
            for sql in statements:
                kind = wire.RequestType.QUERY_SQL if sql.startswith("SELECT") else wire.RequestType.EXEC_SQL
                _tell(stream, kind, (0, sql))
        await asyncio.to_thread(three.children[0].wait, 30)
        assert three.children[0].returncode == -6

    asyncio.run(play())


def _tell(stream: socket.socket, kind: wire.RequestType, fields: tuple[int | str, ...]) -> None:
    stream.sendall(wire.encode(wire.Request(kind, fields)))
    decoder = wire.Decoder()
    while decoder.next() is None:
        data = stream.recv(4096)
        if not data:
            return
        decoder.feed(data)
