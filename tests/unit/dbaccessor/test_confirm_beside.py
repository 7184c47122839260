"""A read whose voters are asked beside it: one round trip, and each condition of its proof."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest

import fakevoters
from dbaccessor import confirm, errors, witness
from dbaccessor.confirm import Confirmer
from dbaccessor.database import Database
from dbaccessor.dqlite.channel import Channel
from dbaccessor.dqlite.connection import Connection, Member, Question, Role
from dbaccessor.dqlite.results import Rows
from dbaccessor.terms import Word
from dbaccessor.witness import Round
from fakenode import END, SILENCE, FakeNode, FakeTerms, failure, members, rows
from fakevoters import SPARE, VOTER, Play, cluster_of, naming, noting, unconfirmed

SQL = "SELECT n FROM t"
READ = ["members", SQL]
BESIDE = ["terms", *READ]
AFTER = ["voter", "still?"]


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is, no other voter is asked because the first takes its time."""
    monkeypatch.setattr(witness, "_PATIENCE_SECONDS", 1.0)


def hold(play: Play, voters: int = 3) -> None:
    """Play on voters that tell their terms: a leader that has led in term 1, and nothing later."""

    async def play_with_terms(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        telling(rest, Word(1, 7, 1))
        await play(node, rest, database)

    fakevoters.hold(play_with_terms, voters)


def answering(node: FakeNode, rest: list[FakeNode], **answers: object) -> None:
    """Let the leader answer the query and the members as told, each once."""
    told = cluster_of(node, rest)
    of = {(9, SQL): "query", (16, ""): "members"}
    left = dict(answers)
    node.script = lambda asked: left.pop(of.get((asked.type, asked.text), ""), None) or told(asked)


def naming_these(node: FakeNode, voters: list[FakeNode], others: list[FakeNode] = []) -> bytes:  # noqa: B006
    """What a leader tells that has these other voters, and these spares."""
    return members(
        (7, node.name, VOTER),
        *((int(n.name[-1]), n.name, VOTER) for n in voters),
        *((int(n.name[-1]), n.name, SPARE) for n in others),
    )


def telling(nodes: list[FakeNode], word: object) -> None:
    for node in nodes:
        node.word = (lambda: word) if word is not None else None


def denying(nodes: list[FakeNode]) -> None:
    """Let these follow another, also for who asks after the read."""
    for node in nodes:
        node.script = naming(1, "controller-1-1")


def naming_nine(node: FakeNode, rest: list[FakeNode]) -> tuple[Member, ...]:
    others = (Member(int(n.name[-1]), n.name, Role.VOTER) for n in rest)
    return (Member(9, "controller-9-9", Role.VOTER), *others)


async def met(database: Database) -> None:
    """Let the database know its leader, the voters, and a term in which it led: as it does in its first reads."""
    for _ in range(2):
        await database.read(SQL)
        await asyncio.sleep(0.01)


def test_whoever_knows_the_voters_and_a_term_of_the_leader_reads_in_one_round_trip():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        order = noting(node, rest)
        for _ in range(3):
            await database.read(SQL)
        assert order == BESIDE * 3

    hold(play)


def test_the_first_read_asks_after_it_and_the_second_hears_the_term_before_it_is_sent():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        order = noting(node, rest)
        await database.read(SQL)
        assert order == ["open", *READ, *AFTER]
        order.clear()
        telling(rest, Word(4, 7, 4))
        await database.read(SQL)
        assert order == READ
        assert sum(other.terms_asked for other in rest) == 1

    hold(play)


def test_of_two_voters_one_could_lead_alone_and_is_always_asked_after_the_read():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        order = noting(node, rest)
        await database.read(SQL)
        assert order == [*READ, *AFTER]

    hold(play, 2)


def test_the_only_voter_is_asked_everything_at_once():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        order = noting(node, rest)
        await database.read(SQL)
        assert order == ["open", *READ]

    hold(play, 1)


def test_what_a_voter_said_for_an_earlier_read_never_counts():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        telling(rest, Word(2, 1, 2))
        denying(rest)
        with unconfirmed():
            await database.read(SQL, deadline_seconds=0.1)

    hold(play)


def test_a_voter_that_has_heard_of_a_later_term_does_not_vouch_and_the_others_are_asked():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        rest[0].word = lambda: Word(2)
        order = noting(node, rest)
        await database.read(SQL)
        assert sorted(order) == sorted([*BESIDE, "terms"])

    hold(play)


def test_a_term_that_the_voters_tell_of_counts_from_the_next_read_on():
    """The leader may have read in an earlier term, and have been elected again between the read and the word."""

    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        telling(rest, Word(3, 7, 3))
        order = noting(node, rest)
        await database.read(SQL)
        assert [word for word in order if word != "terms"] == [*READ, *AFTER]
        order.clear()
        await database.read(SQL)
        assert order == BESIDE

    hold(play)


@pytest.mark.parametrize("word", [Word(3, 1, 3), Word(3, 7, 2), Word(3)])
def test_a_term_in_which_somebody_else_led_or_nobody_is_none_in_which_the_leader_is_known_to_have_led(word: Word):
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        telling(rest, word)
        for _ in range(2):
            await database.read(SQL)
        denying(rest)
        with unconfirmed():
            await database.read(SQL, deadline_seconds=0.1)

    hold(play)


def test_what_is_known_of_one_leaders_terms_is_not_believed_of_the_next():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        for connection in node.connections:
            connection.close()
        node.name = "controller-9-9"
        node.script = cluster_of(node, rest)
        for other in rest:
            other.script = naming(9, "controller-9-9")
        order = noting(node, rest)
        await database.read(SQL)
        assert order == ["open", *READ, *AFTER]
        await database.read(SQL)
        denying(rest)
        with unconfirmed():
            await database.read(SQL, deadline_seconds=0.1)
        assert node.statements.count(SQL) >= 3

    hold(play)


@pytest.mark.parametrize("nothing", [SILENCE, END, None])
def test_voters_that_tell_no_terms_cost_the_shorter_way_and_nothing_else(nothing: object):
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        telling(rest, nothing)
        for _ in range(3):
            assert (await database.read(SQL, deadline_seconds=2)).rows == ((1,),)

    hold(play)


def test_where_voters_are_too_far_to_be_waited_for_no_read_asks_them_beside_it_again(monkeypatch: pytest.MonkeyPatch):
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        telling(rest, SILENCE)
        with monkeypatch.context() as patch:
            patch.setattr(confirm, "_BESIDE_SECONDS", 0.0)
            await database.read(SQL)
        telling(rest, Word(1, 7, 1))
        order = noting(node, rest)
        await database.read(SQL)
        assert order == [*READ, *AFTER]
        database._confirmer.close()  # Those who are still silent for a second.
        monkeypatch.setattr(database._confirmer, "_beside_from", 0.0)  # Some time later.
        order.clear()
        await database.read(SQL)
        assert [word for word in order if word != "terms"] == READ

    hold(play)


def test_voters_that_came_after_the_question_need_more_that_vouch():
    """Of three voters one other is enough, of five it takes two: the word of one is no majority of those."""

    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        three, five = naming_these(node, rest[:2], rest[2:]), naming_these(node, rest)
        told = node.script
        node.script = lambda asked: three if asked.type == 16 else told(asked)
        await met(database)
        node.script = lambda asked: five if asked.type == 16 else told(asked)
        denying(rest[1:])
        with unconfirmed():
            await database.read(SQL, deadline_seconds=0.1)
        rest[3].script = naming(7, node.name)
        assert (await database.read(SQL, deadline_seconds=2)).rows == ((1,),)

    hold(play, 5)


def test_the_word_of_one_that_is_no_voter_any_more_does_not_count():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        before, after = naming_these(node, rest[:2], rest[2:]), naming_these(node, rest[2:], rest[:2])
        told = node.script
        node.script = lambda asked: before if asked.type == 16 else told(asked)
        await met(database)
        node.script = lambda asked: after if asked.type == 16 else told(asked)
        denying(rest[2:])
        with unconfirmed():
            await database.read(SQL, deadline_seconds=0.1)

    hold(play, 5)


@pytest.mark.parametrize("count", [2, 3])
def test_a_leader_that_leaves_the_voters_needs_a_majority_without_itself(count: int):
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        gone = members((7, node.name, SPARE), *((i, n.name, VOTER) for i, n in enumerate(rest[:count], 1)))
        told = node.script
        node.script = lambda asked: gone if asked.type == 16 else told(asked)
        denying(rest)
        rest[1].script = naming(7, node.name)
        telling([rest[0], rest[2]], Word(2))
        with unconfirmed():
            await database.read(SQL, deadline_seconds=0.1)

    hold(play, 4)


@pytest.mark.parametrize("stepped_down", [failure(12, "no database opened"), failure(10250, "not leader")])
def test_the_members_that_one_tells_who_stepped_down_before_it_was_to_read_are_not_believed(stepped_down: bytes):
    """They may be those of a newer leader's log, of which the voters that vouched are a majority."""

    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        del node.asked[:]
        answering(node, rest, query=stepped_down, members=naming_these(node, rest[:1]))
        assert (await database.read(SQL)).rows == ((1,),)
        assert node.statements.count(SQL) == 2
        assert not node.connections[0].usable

    hold(play, 4)


@pytest.mark.parametrize("first", [failure(1, "unrecognized cluster format"), rows(5)])
def test_a_node_that_tells_no_members_is_not_read_from(first: bytes):
    """What it says then would be taken for the answer to something else: this connection is not used again."""

    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        answering(node, rest, members=first)
        with contextlib.suppress(errors.Refused):
            await database.read(SQL)
        assert not node.connections[0].usable

    hold(play)


def test_a_read_whose_rows_never_come_ends_at_its_deadline_though_the_members_were_told():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        answering(node, rest, query=SILENCE)
        began = asyncio.get_running_loop().time()
        with pytest.raises(errors.NotReady):
            await database.read(SQL, deadline_seconds=0.1)
        assert asyncio.get_running_loop().time() - began < 5
        assert not node.connections[0].usable

    hold(play)


def test_of_two_voters_that_are_left_when_the_answer_comes_one_could_lead_alone():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        two = naming_these(node, rest[:1], rest[1:])
        told = node.script
        node.script = lambda asked: two if asked.type == 16 else told(asked)
        denying(rest)
        with unconfirmed():
            await database.read(SQL, deadline_seconds=0.1)

    hold(play)


def test_a_late_word_of_the_last_leader_s_term_is_not_believed_of_the_next():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        confirmer = await knowing(node)
        old = await node.connect()
        late: list[asyncio.Future[Word]] = []

        class Slow:
            def ask(self, told: Callable[[Word | None], None], *, deadline_seconds: float) -> bool:
                late.append(asyncio.get_running_loop().create_future())
                late[-1].add_done_callback(lambda done: told(done.result()))
                return True

            def close(self) -> None:
                pass

        for informant in confirmer._terms.values():
            informant._link = Slow()
        round_ = await asked(confirmer, old)
        node.name = "controller-9-9"
        new = await node.connect()
        node.script = cluster_of(node, rest)
        for other in rest:
            other.script = naming(9, "controller-9-9")
        deadline = asyncio.get_running_loop().time() + 5
        await confirmer.confirm(new, naming_nine(node, rest), deadline=deadline)
        late[0].set_result(Word(5, 7, 5))
        await asyncio.sleep(0.01)
        assert round_ is not None
        assert confirmer._led == 0
        confirmer.close()

    hold(play)


def test_a_term_that_is_heard_of_once_the_read_is_sent_is_not_taken_for_known():
    """Also where the first term was heard of just before: the leader may have read in that."""

    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        confirmer = Confirmer(node)
        connection = await node.connect()
        await confirmer.confirm(connection, await connection.cluster(), deadline=soon())
        round_ = await asked(confirmer, connection)
        assert round_ is not None
        assert round_.vouching == {rest[0].name}
        round_.heard(confirmer._terms[rest[1].name], Word(5, 7, 5), "")
        assert confirmer._led == 5
        assert round_.vouching == {rest[0].name}
        confirmer.close()

    hold(play)


def test_what_is_learnt_of_the_next_leader_while_a_term_of_the_last_is_asked_for_is_not_taken_for_the_last_one_s():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        confirmer = Confirmer(node)
        old = await node.connect()
        await confirmer.confirm(old, await old.cluster(), deadline=soon())
        telling(rest, SILENCE)
        asking = asyncio.create_task(confirmer.ask_beside(old, deadline=soon()))
        while not any(other.terms_asked for other in rest):
            await asyncio.sleep(0)
        waiting = [round_ for informant in confirmer._terms.values() for round_ in informant._asked]
        node.name = "controller-9-9"
        new = await node.connect()
        for other in rest:
            other.script = naming(9, "controller-9-9")
        await confirmer.confirm(new, naming_nine(node, rest), deadline=soon())
        confirmer._led = 5
        for round_ in waiting:
            round_.heard(confirmer._terms[rest[0].name], Word(5, 9, 5), "")
            assert not round_.vouching
        assert await asking is None
        confirmer.close()

    hold(play)


def test_a_read_waits_for_no_voter_longer_than_its_own_deadline():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        confirmer = await knowing(node)
        connection = await node.connect()
        telling(rest, SILENCE)
        round_ = await asked(confirmer, connection)
        said = await connection.answer_as_leader(Question(SQL), lambda: None)
        began = asyncio.get_running_loop().time()
        assert not await confirmer.vouched(round_, connection, said[1], deadline=began)
        assert asyncio.get_running_loop().time() < began + confirm._BESIDE_SECONDS
        assert confirmer._beside_from < began, "the voters had no time; that says nothing of them"
        confirmer.close()

    hold(play)


def test_voters_that_do_not_tell_a_term_in_time_are_not_waited_for_by_every_read():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await database.read(SQL)
        telling(rest, SILENCE)
        for _ in range(10):
            await database.read(SQL)
        assert [other.terms_asked for other in rest] == [1, 0]

    hold(play)


def test_the_own_node_is_asked_first_and_no_other_then():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        node.own_name = rest[1].name
        await met(database)
        before = [other.terms_asked for other in rest]
        for _ in range(5):
            await database.read(SQL)
        assert [other.terms_asked for other in rest] == [before[0], before[1] + 5]

    hold(play)


def test_the_link_to_one_that_is_no_voter_any_more_is_not_kept():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        links = {name: w._link for name, w in database._confirmer._terms.items()}
        fewer = naming_these(node, rest[1:], rest[:1])
        told = node.script
        node.script = lambda asked: fewer if asked.type == 16 else told(asked)
        for _ in range(2):
            await database.read(SQL)
        gone = links[rest[0].name]
        assert isinstance(gone, FakeTerms)
        assert gone.closed
        assert rest[0].name not in database._confirmer._terms

    hold(play, 4)


def test_one_that_tells_no_terms_is_not_dialled_by_every_read(monkeypatch: pytest.MonkeyPatch):
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        telling(rest, None)
        dialled: list[str] = []
        real = node.to_terms

        async def count(name: str, *, deadline: float) -> FakeTerms:
            dialled.append(name)
            return await real(name, deadline=deadline)

        node.to_terms = count  # type: ignore[method-assign]
        for _ in range(10):
            await database.read(SQL)
            await asyncio.sleep(0.005)
        assert len(dialled) <= 2

    hold(play)


def test_a_refusal_is_an_answer_that_the_voters_vouch_for():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        answering(node, rest, query=failure(1, "no such table"))
        order = noting(node, rest)
        with pytest.raises(errors.Refused, match="no such table"):
            await database.read(SQL)
        assert order == BESIDE
        assert node.connections[0].usable

    hold(play)


def test_a_leader_that_is_busy_with_a_checkpoint_is_asked_again():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        answering(node, rest, query=failure(5, "checkpoint in progress"))
        assert (await database.read(SQL)).rows == ((1,),)

    hold(play)


def test_rows_of_several_parts_are_read_in_the_same_round_trip():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        answering(node, rest, query=rows(1, 2, done=False) + rows(3))
        order = noting(node, rest)
        assert (await database.read(SQL)).rows == ((1,), (2,), (3,))
        assert order == BESIDE

    hold(play)


def test_a_read_is_sent_before_its_voters_are_asked(monkeypatch: pytest.MonkeyPatch):
    """They are quicker than the node, which would wait for the question to them as well."""

    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        order: list[str] = []
        send = Channel.send
        monkeypatch.setattr(Channel, "send", lambda channel, data: order.append("sent") or send(channel, data))
        for other in rest:
            other.word = lambda: order.append("asked") or Word(1, 7, 1)  # type: ignore[func-returns-value]
        await database.read(SQL)
        assert order == ["sent", "asked"]

    hold(play)


def test_a_voter_that_was_late_is_not_asked_first_again_though_the_order_was_worked_out_just_before(
    monkeypatch: pytest.MonkeyPatch,
):
    class Slow:
        def ask(self, told: Callable[[Word | None], None], *, deadline_seconds: float) -> bool:
            asyncio.get_running_loop().call_later(0.05, told, Word(1, 7, 1))
            return True

        def close(self) -> None:
            pass

    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        confirmer = await knowing(node)
        connection = await node.connect()
        first = confirmer._informants(asyncio.get_running_loop().time())[0]
        first._link = Slow()
        monkeypatch.setattr(witness, "_PATIENCE_SECONDS", 0.001)
        round_ = await asked(confirmer, connection)
        assert round_ is not None
        await round_.outcome(soon())
        assert round_.vouching == {other.name for other in rest} - {first.name}
        assert confirmer._informants(asyncio.get_running_loop().time())[-1] is first
        confirmer.close()

    hold(play)


async def knowing(node: FakeNode) -> Confirmer:
    """Another confirmer that knows the voters and a term, for what happens between its question and the read."""
    confirmer = Confirmer(node)
    connection = await node.connect()
    await confirmer.confirm(connection, await connection.cluster(), deadline=soon())
    await asked(confirmer, connection)
    assert confirmer._led == 1
    return confirmer


async def asked(confirmer: Confirmer, connection: Connection) -> Round[Word] | None:
    """Whom a read that is sent now over this connection asks."""
    round_ = await confirmer.ask_beside(connection, deadline=soon())
    if round_ is not None:
        round_.begin()
    return round_


def soon() -> float:
    return asyncio.get_running_loop().time() + 5


def test_an_epoch_that_changes_between_the_question_and_the_answer_leaves_nothing_confirmed():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        confirmer = await knowing(node)
        connection = await node.connect()
        round_ = await asked(confirmer, connection)
        said, told = await connection.answer_as_leader(Question(SQL), lambda: None)
        assert isinstance(said, Rows)
        until = asyncio.get_running_loop().time() + 5
        assert await confirmer.vouched(round_, connection, told, deadline=until)
        round_ = await asked(confirmer, connection)
        node.identity = "epoch 2"
        assert not await confirmer.vouched(round_, connection, told, deadline=until)
        # Nor does anybody ask for a connection that was made under the earlier one, nor believe its terms.
        assert await asked(confirmer, connection) is None
        assert confirmer._led == 0
        confirmer.close()

    hold(play)


def test_a_question_that_was_under_way_when_the_read_began_does_not_count():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        confirmer = await knowing(node)
        first, second = await node.connect(), await node.connect()
        early = await asked(confirmer, first)
        # The first question is answered already; whoever comes now needs another.
        telling(rest, Word(2))
        late = await asked(confirmer, second)
        assert early is not None
        assert late is not None
        until = asyncio.get_running_loop().time() + 1
        await early.outcome(until)
        with pytest.raises(errors.NotReady, match="has heard of term 2"):
            await late.outcome(until)
        confirmer.close()

    hold(play)


def test_a_metric_hears_of_each_read_once():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        heard: list[str] = []
        confirmer = Confirmer(node)
        confirmer.on_round = heard.append
        shared = Database(node, "data", confirmer)
        for _ in range(4):
            await shared.read(SQL)
            await asyncio.sleep(0.01)
        assert heard == ["after", "beside", "beside", "beside"]
        denying(rest)
        telling(rest, Word(2, 1, 2))
        with unconfirmed(), contextlib.suppress(errors.NotLeader):
            await shared.read(SQL, deadline_seconds=0.1)
        assert set(heard[4:]) == {"unconfirmed"}
        shared.close()
        confirmer.close()

    hold(play)
