"""The worker's book of itself: its state and its waits, each with its reason and since when, and what befell it so far.

`report` makes the status document of it. What the last process knew of its handover is kept in a file.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dbaccessor import actions
from dbaccessor.identity import replace_file
from dbaccessor.tlsfiles import BadCredentials

log = logging.getLogger(__name__)

# In the state directory: whoever stops is gone before anybody can ask how its handover went.
LAST_HANDOVER = "last-handover.json"


@dataclass(frozen=True)
class Waiting:
    """One wait: its topic, since when (seconds since 1970), why, and what would end it."""

    topic: str
    since: float
    reason: str
    remedy: str


class Handover(msgspec.Struct, frozen=True):
    """How giving leadership and voting right away ended: "done", "kept-vote" (nobody could take it) or "too-late"."""

    result: str
    seconds: float
    at: str = ""


class Accounts:
    """The worker's state and its waits, each with its reason and since when; and what happened to it so far."""

    def __init__(self, state_dir: Path) -> None:
        self._state = "starting"
        self._reason = "just started"
        self._since = time.time()
        self._waits: dict[str, Waiting] = {}
        self._leader = ""
        self._leader_changes = 0
        self._not_serving_since: float | None = time.monotonic()
        self._ready_seconds: float | None = None
        self._handover_file = state_dir / LAST_HANDOVER
        self._handover = self._load_handover()

    @property
    def state(self) -> str:
        return self._state

    def set_state(self, state: str, reason: str) -> None:
        if state != self._state:
            log.info("state %s: %s", state, reason)
            self._since = time.time()
        self._state, self._reason = state, reason
        if state != "serving":
            self._not_serving_since = self._not_serving_since or time.monotonic()
        elif self._not_serving_since is not None:
            self._ready_seconds = time.monotonic() - self._not_serving_since
            self._not_serving_since = None

    def decided(
        self, action: actions.Action, troubles: Troubles, *, leader: bool, running: bool, announced: bool
    ) -> None:
        """Show what was decided, what troubles there are, and the state that follows where nothing is to be done.

        `announced`: the own row stands in the database, which is when this controller serves.
        """
        wait = action if isinstance(action, actions.Wait) else getattr(action, "notice", None)
        self.show([*([] if wait is None else [(wait.topic, wait.reason, wait.remedy)]), *troubles.waits()])
        if troubles.certificate is not None and not running:
            self.set_state("waiting", str(troubles.certificate))
        elif isinstance(action, actions.Wait):
            if not running or not leader:
                self.set_state("waiting", action.reason)
            elif announced:
                self.set_state("serving", action.reason)
        elif isinstance(action, actions.Serve):
            if announced:
                self.set_state("serving", action.reason)
            else:
                self.set_state("starting", "writes its row into the database" if leader else action.reason)

    def heed(self, leader: str) -> None:
        """Take note of the leader that is known now ("": none). The same one after a gap is no change."""
        if leader and leader != self._leader:
            self._leader_changes += bool(self._leader)
            self._leader = leader

    def handed_over(self, handover: Handover | None) -> None:
        """Take note of how a handover ended, and keep it for the next process. None: there was none."""
        if handover is None:
            return
        self._handover = msgspec.structs.replace(handover, at=stamp(time.time()))
        try:
            replace_file(self._handover_file, msgspec.json.encode(self._handover) + b"\n")
        except OSError as error:
            log.warning("how the handover ended cannot be kept: %s", error)

    def _load_handover(self) -> Handover | None:
        try:
            return msgspec.json.decode(self._handover_file.read_bytes(), type=Handover)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            log.warning("%s cannot be read: %s", self._handover_file, error)
            return None

    def show(self, waits: Iterable[tuple[str, str, str]]) -> None:
        """Show exactly these waits: (topic, reason, remedy). One topic keeps its beginning, whatever it says now."""
        fresh: dict[str, Waiting] = {}
        for topic, reason, remedy in waits:
            before = self._waits.get(topic)
            log.log(logging.INFO if before is None else logging.DEBUG, "waiting (%s): %s", topic, reason)
            fresh[topic] = Waiting(topic, before.since if before is not None else time.time(), reason, remedy)
        self._waits = fresh

    def section(self) -> dict[str, Any]:
        waits = [
            {"for": w.topic, "since": stamp(w.since), "reason": w.reason, "remedy": w.remedy}
            for w in self._waits.values()
        ]
        return {
            "state": self._state,
            "reason": self._reason,
            "since": stamp(self._since),
            "waits": waits,
            "leader-changes": self._leader_changes,
            "ready-seconds": None if self._ready_seconds is None else round(self._ready_seconds, 3),
            "last-handover": None if self._handover is None else msgspec.to_builtins(self._handover),
        }


@dataclass(frozen=True)
class Troubles:
    """What keeps this controller from its work, beside what was decided: "" or None or empty where there is none."""

    listen: str | None
    disk: str
    certificate: BadCredentials | None
    distrusted: Mapping[str, str]

    def waits(self) -> list[tuple[str, str, str]]:
        """Return (topic, reason, remedy) of each."""
        waits = []
        if self.listen is not None:
            waits.append(("listen", self.listen, "see the unit's addresses; it is tried again by itself"))
        if self.disk:
            waits.append(("disk", self.disk, "free space there; it goes on by itself"))
        if self.certificate is not None:
            waits.append(("certificate", str(self.certificate), self.certificate.remedy))
        for controller_id, problem in self.distrusted.items():
            remedy = "compare the clocks, and the authorities in ca.pem, of the two machines"
            waits.append((f"certificate of {controller_id}", f"controller {controller_id}: {problem}", remedy))
        return waits


def stamp(seconds: float) -> str:
    """Return this moment (seconds since 1970) as ISO 8601 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
