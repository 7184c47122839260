"""A model of raft as Dqlite has it, for what a reader may conclude from it: terms, votes, logs, members, and no time.

Whatever may happen next happens in an order that a seed decides: messages are delivered late, twice, or never, leaders
are cut off, voted out and elected again, hand over, change the voters one at a time, and servers end and start again.
What dbaccessor.terms knows of a server is here as well: the newest term of what has passed on its way in, by whom.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Entry:
    term: int
    write: int | None = None
    voters: frozenset[int] | None = None


@dataclass
class Server:
    """`base` is the length of the log when this was elected last, `downs` how often it stepped down, `starts` how often
    it started again.

    `heard` is the newest term of a message about entries that reached it since its start, or that it started with;
    `led_by` has led it in `led`, the newest term of a leader's message.
    """

    number: int
    log: list[Entry]
    term: int = 1
    voted: int | None = None
    named: int | None = None
    state: str = "follower"
    commit: int = 1
    base: int = 0
    downs: int = 0
    starts: int = 0
    votes: set[int] = field(default_factory=set)
    match: dict[int, int] = field(default_factory=dict)
    heard: int = 1
    led_by: int | None = None
    led: int = 0

    @property
    def voters(self) -> frozenset[int]:
        return next(e.voters for e in reversed(self.log) if e.voters is not None)

    @property
    def newest(self) -> tuple[int, int]:
        return self.log[-1].term, len(self.log)

    def turn(self, state: str) -> None:
        self.downs += self.state == "leader"
        self.state, self.named, self.votes = state, None, set()

    def restart(self, leaves_out: str = "") -> None:
        """End, and start with what the files hold: term, vote and log."""
        self.turn("follower")
        self.starts += 1
        self.match, self.commit = {}, 1
        self.heard = 0 if leaves_out == "the files" else self.term
        self.led_by, self.led = None, 0

    def listen(self, message: Message, leaves_out: str = "") -> None:
        """Let this message be read along, just before it is received."""
        if message.kind == "entries" or (message.kind == "have" and leaves_out != "acknowledgements"):
            self.heard = max(self.heard, message.term)
        if message.kind == "entries" and message.term > self.led:
            self.led_by, self.led = message.source, message.term

    def reach(self, term: int) -> None:
        if term > self.term:
            self.term, self.voted = term, None
            if self.state != "follower":
                self.turn("follower")  # A follower keeps naming whom it named.


@dataclass(frozen=True)
class Message:
    kind: str
    source: int
    target: int
    term: int
    log: tuple[Entry, ...] = ()
    number: int = 0
    disrupts: bool = False


class World:
    """`acknowledged` are the writes that a client was told of."""

    def __init__(self, seed: int, voters: int | None = None, leaves_out: str = "") -> None:
        self.random = random.Random(seed)
        self.leaves_out = leaves_out
        start = Entry(1, voters=frozenset(range(voters or self.random.randint(2, 5))))
        self.servers = [Server(n, [start]) for n in range(5)]
        self.messages: list[Message] = []
        self.acknowledged: set[int] = set()
        self._written = 0
        self._cut_off: set[int] = set()

    def elect(self, server: Server, *voters: Server) -> None:
        """Let these, which have lost their leader, elect this one in its next term."""
        for other in voters:
            other.turn("follower")
        self._stand(server, disrupts=False)
        for message in [m for m in self.messages if m.source == server.number and m.kind == "vote?"]:
            self.messages.remove(message)
            if self.servers[message.target] in voters:
                self._receive(self.servers[message.target], message)
                self._receive(server, self.messages.pop())

    def commit(self, leader: Server, entry: Entry, *others: Server) -> None:
        """Let this leader add an entry, and these accept and acknowledge all that it has."""
        leader.log.append(entry)
        for other in others:
            self._receive(other, self._entries(leader, other))
            self._receive(leader, self.messages.pop())
        self._commit(leader)
        assert leader.commit == len(leader.log)

    def deliver_entries(self, leader: Server, other: Server) -> None:
        """Let this one accept all that the leader has, and its answer be lost."""
        self._receive(other, self._entries(leader, other))
        self.messages.pop()

    def happen(self) -> None:
        """One thing or another."""
        server = self.random.choice(self.servers)
        dice = self.random.random()
        if dice < 0.002:
            server.restart(self.leaves_out)
        elif dice < 0.01:
            self._cut()
        elif dice < 0.04 and server.state != "leader":
            self._stand(server, disrupts=False)
        elif dice < 0.05 and server.named is not None and self.servers[server.named].state == "leader":
            self._stand(server, disrupts=True)  # Its leader hands over.
        elif dice < 0.3 and server.named in self._cut_off - {server.number}:
            server.turn("follower")  # It has not heard of its leader for long enough.
        elif server.state == "leader" and dice < 0.6:
            self._lead(server)
        for _ in range(5):
            self._deliver()

    def _cut(self) -> None:
        """Let a leader, and perhaps a friend with it, hear from nobody else; or everybody from everybody again."""
        leaders = [server.number for server in self.servers if server.state == "leader"]
        if self._cut_off or not leaders:
            self._cut_off = set()
        else:
            self._cut_off = {self.random.choice(leaders), self.random.choice(self.servers).number}

    def _lead(self, leader: Server) -> None:
        dice = self.random.random()
        if dice < 0.15:
            self._written += 1
            leader.log.append(Entry(leader.term, write=self._written))
        elif dice < 0.3 and self._may_change(leader):
            leader.log.append(Entry(leader.term, voters=leader.voters ^ {self.random.choice(self.servers).number}))
            if not leader.voters:
                leader.log.pop()
        else:
            for other in self.servers:
                if other is not leader:
                    self.messages.append(self._entries(leader, other))
        self._commit(leader)

    def _may_change(self, leader: Server) -> bool:
        last = max(n for n, e in enumerate(leader.log, 1) if e.voters is not None)
        return last <= leader.commit and leader.log[leader.commit - 1].term == leader.term

    def _stand(self, server: Server, *, disrupts: bool) -> None:
        if server.number not in server.voters:
            return
        server.turn("candidate")
        server.term += 1
        server.voted = server.number
        server.votes = {server.number}
        for other in server.voters - {server.number}:
            self._send("vote?", server, other, log=tuple(server.log[-1:]), number=len(server.log), disrupts=disrupts)
        self._count(server)

    def _count(self, server: Server) -> None:
        if server.state == "candidate" and 2 * len(server.votes & server.voters) > len(server.voters):
            server.turn("leader")
            server.log.append(Entry(server.term))
            server.base = len(server.log)
            server.match = {}
            self._commit(server)

    def _commit(self, leader: Server) -> None:
        for index in range(len(leader.log), leader.commit, -1):
            have = {n for n, upto in leader.match.items() if upto >= index} | {leader.number}
            if leader.log[index - 1].term == leader.term and 2 * len(have & leader.voters) > len(leader.voters):
                leader.commit = index
                break
        for entry in leader.log[: leader.commit]:
            if entry.write is not None and entry.term == leader.term:
                self.acknowledged.add(entry.write)

    def _entries(self, leader: Server, other: Server) -> Message:
        return Message("entries", leader.number, other.number, leader.term, tuple(leader.log), leader.commit)

    def _send(self, kind: str, source: Server, target: int, **more: object) -> None:
        self.messages.append(Message(kind, source.number, target, source.term, **more))  # type: ignore[arg-type]

    def _deliver(self) -> None:
        if not self.messages:
            return
        index = self.random.randrange(len(self.messages))
        message = self.messages[index]
        if len({message.source, message.target} & self._cut_off) == 1:
            return
        if self.random.random() < 0.9:
            del self.messages[index]
        if self.random.random() < 0.9:
            self._receive(self.servers[message.target], message)
        if len(self.messages) > 60:
            del self.messages[0]

    def _receive(self, server: Server, message: Message) -> None:
        server.listen(message, self.leaves_out)
        led = server.state == "leader" or server.named is not None
        if message.kind == "vote?" and led and not message.disrupts:
            return
        server.reach(message.term)
        current = message.term == server.term
        if message.kind == "vote?":
            fresh = (message.log[-1].term, message.number) >= server.newest
            if current and server.voted in (None, message.source) and fresh and server.state == "follower":
                server.voted = message.source
                self._send("vote", server, message.source)
        elif message.kind == "vote":
            if current and server.state == "candidate":
                server.votes.add(message.source)
                self._count(server)
        elif message.kind == "entries":
            if current:
                self._accept(server, message)
        elif current and server.state == "leader":
            server.match[message.source] = max(server.match.get(message.source, 0), message.number)
            self._commit(server)

    def _accept(self, server: Server, message: Message) -> None:
        if server.state == "candidate":
            server.turn("follower")
        server.named = message.source
        if message.log != tuple(server.log[: len(message.log)]):
            server.log = list(message.log)
        server.commit = max(server.commit, min(message.number, len(message.log)))
        self._send("have", server, message.source, number=len(message.log))


# For how many steps at the most a leader works on what is read.
READING = 41


def needed(voters: frozenset[int], leader: int) -> int:
    return len(voters) // 2 + (leader not in voters)


def read(world: World, leader: Server, leaves_out: str = "") -> Iterator[bool | None]:
    """One read over a connection that this leader has just accepted; each step of it is one `next`.

    Yields None as long as it goes on, and last whether what it read had all that was acknowledged before it began. It
    ends without that where it is not confirmed.
    """
    reader = _Reader(world, leader, leaves_out)
    for server in world.servers:
        if world.random.random() < 0.5:
            reader.learn(server)
    reader.remember()
    for _ in range(world.random.randint(0, 40)):
        reader.learn(world.random.choice(world.servers))
        yield None
    must = set(world.acknowledged)
    parts = [reader.ask_the_voters(), reader.ask_the_leader()]
    if world.random.random() > 0.7:
        # One that knows no term hears it from the voters before it asks the leader.
        reader.forget()
        yield from parts.pop(0)
    while parts:
        part = world.random.choice(parts)
        if next(part, "over") == "over":
            parts.remove(part)
        yield None
    if reader.is_confirmed():
        yield must <= reader.seen


class _Reader:
    """What somebody who reads knows. `guess` are the voters as they were told once, or others."""

    def __init__(self, world: World, leader: Server, leaves_out: str) -> None:
        self.seen: set[int | None] = set()
        self._world = world
        self._leader = leader
        self._leaves_out = leaves_out
        self._opened, self._starts = leader.downs, leader.starts
        self._guess = frozenset(s.number for s in world.servers if world.random.random() < 0.6) or leader.voters
        self._floor = 0
        self._learns = leaves_out == "a term of before"
        self._vouching: set[int] = set()
        self._remembered: set[int] = set()
        self._voters: frozenset[int] = frozenset()

    def learn(self, server: Server) -> None:
        """Hear from this one in which term the leader has led."""
        if server.led_by == self._leader.number:
            self._floor = max(self._floor, server.led)

    def forget(self) -> None:
        self._floor, self._learns = 0, True

    def remember(self) -> None:
        self._remembered = {s.number for s in self._world.servers if s.heard <= self._floor}

    def ask_the_voters(self) -> Iterator[None]:
        for number in sorted(self._guess - {self._leader.number}, key=lambda _: self._world.random.random()):
            for _ in range(self._world.random.randint(1, 15)):
                yield
            server = self._world.servers[number]
            if self._learns:
                self.learn(server)
            if server.heard <= self._floor:
                self._vouching.add(number)
            if len(self._vouching) >= needed(self._guess, self._leader.number):
                break
        if self._leaves_out == "asking again":
            self._vouching = self._remembered

    def ask_the_leader(self) -> Iterator[None]:
        leader, random = self._leader, self._world.random
        for _ in range(random.randint(1, 20)):
            yield
        voters = leader.voters
        for _ in range(random.randint(0, 3)):
            yield
        # The read begins where it leads, and only there. With the first one in a term it waits for what its log had.
        while self._leads() and leader.commit < leader.base and self._leaves_out != "waiting for its log":
            yield
        if self._leaves_out != "that it leads" and not self._leads():
            return
        seen = {entry.write for entry in leader.log[: leader.commit]}
        for _ in range(random.randint(0, READING)):
            yield
        if leader.starts == self._starts:
            self.seen, self._voters = seen, voters

    def is_confirmed(self) -> bool:
        voters = self._voters
        if voters and self._leaves_out == "the voters of now":
            voters = self._guess
        if len(voters) < (1 if self._leaves_out == "three voters" else 3):
            return False
        enough = needed(voters, self._leader.number)
        return self._leaves_out == "asking" or len(self._vouching & voters - {self._leader.number}) >= enough

    def _leads(self) -> bool:
        return self._leader.state == "leader" and self._leader.downs == self._opened
