"""What the cluster looks like from here at one moment: the leader, the members, the own role. Pure.

Three sources are put together: the own node's word (a voter's and a stand-by's log holds the configuration), the other
controllers' answers (a leader's word outranks everything), and the memory of earlier times (for the role only).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from dbaccessor import report
from dbaccessor.dqlite.connection import Member
from dbaccessor.identity import Identity
from dbaccessor.localnode import Probe
from dbaccessor.preamble import Answer


@dataclass(frozen=True)
class Outlook:
    """`answers` are the fresh ones by controller id; `probe` is None while the own node does not answer."""

    identity: Identity | None = None
    probe: Probe | None = None
    answers: Mapping[str, Answer] = field(default_factory=dict)
    remembered_role: str = ""
    own_ailing: str = ""

    @cached_property
    def leader(self) -> str:
        """The leader's raft name, "" while this node is in touch with none.

        A voter's raft knows. A stand-by or a spare is told no leader by its own library; it believes one that says
        of itself that it leads, in this epoch, with this node among its members.
        """
        if self.probe is None or self.identity is None:
            return ""
        if self.probe.leader or self.own_role == "voter":
            return self.probe.leader
        word = self._leaders_word
        return word.name if word is not None and self._is_in(word) else ""

    @property
    def leading(self) -> bool:
        return self.identity is not None and self.probe is not None and self.probe.leader == self.identity.name

    @cached_property
    def alive(self) -> frozenset[int]:
        """The Dqlite ids of the nodes that run, in this cluster and epoch, this one included.

        A daemon that answers is not yet a member that does: its node may be stopped, wiped, or of another epoch.
        """
        own = self.identity
        if own is None:
            return frozenset()
        others = {
            a.dqlite_id
            for a in self.answers.values()
            if a.running and a.cluster_uuid == own.cluster_uuid and a.epoch == own.epoch
        }
        return frozenset(others | ({own.dqlite_id} if self.probe is not None else set()))

    @property
    def ailing(self) -> dict[int, str]:
        """What those of `alive` say that keeps them from doing their part, by Dqlite id."""
        told = {a.dqlite_id: a.ailing for a in self.answers.values() if a.ailing and a.dqlite_id in self.alive}
        if self.identity is not None and self.own_ailing:
            told[self.identity.dqlite_id] = self.own_ailing
        return told

    @property
    def removed(self) -> bool:
        """Whether a leader says that this node is none of its members."""
        word = None if self.leading else self._leaders_word
        return word is not None and not self._is_in(word)

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """The members by the leader's word, else by this node's own log (which is empty on a spare)."""
        word = None if self.leading else self._leaders_word
        if word is not None:
            return report.members_of(word.members)
        return report.members_of(self.probe.members) if self.probe is not None else ()

    @cached_property
    def own_role(self) -> str:
        """This node's role, from memory when nobody can tell it now; "" when it never had one."""
        if self.identity is None:
            return ""
        for member in self.members:
            if member.dqlite_id == self.identity.dqlite_id:
                return str(member.role)
        return self.remembered_role

    @cached_property
    def _leaders_word(self) -> Answer | None:
        for answer in self.answers.values():
            own = self.identity
            if own is None or not answer.leading or not answer.members:
                continue
            if answer.cluster_uuid == own.cluster_uuid and answer.epoch == own.epoch:
                return answer
        return None

    def _is_in(self, answer: Answer) -> bool:
        return self.identity is not None and any(m.dqlite_id == self.identity.dqlite_id for m in answer.members)
