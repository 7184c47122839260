"""What the charm is to hear from controllerd: the db-state for its unit bag, that its map names somebody gone, and that
there is a leader again.

Hooks run on events only, and none of these is an event of Juju's. So `notify` asks for a hook; whoever gives it limits
the rate. A lost question is repaired by update-status.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec

from dbaccessor import report
from dbaccessor.conf import ControllerConf
from dbaccessor.dqlite import nodedir
from dbaccessor.identity import DbState, Identity, Store, controller_of
from dbaccessor.outlook import Outlook

log = logging.getLogger(__name__)

# In which a disk that keeps up has written what the node tells of already.
_WRITTEN_SECONDS = 0.1
_FIRST_PAUSE_SECONDS = 3.0
_LONGEST_PAUSE_SECONDS = 300.0
# An election takes less; no hook can have told anybody of it.
_UNNOTICED_SECONDS = 1.0


class CharmNews:
    """`db_state` is what the charm is to publish, None while this node is no member."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pause = _FIRST_PAUSE_SECONDS
        self._due = 0.0
        self._idle_since: float | None = None
        self.db_state: DbState | None = None
        self.notify: Callable[[], None] = lambda: None

    def load(self) -> None:
        self.db_state = self._store.db_state()

    async def update(self, identity: Identity, outlook: Outlook) -> None:
        """Make a new db-state if the cluster's shape changed. Raises OSError, changing nothing.

        Its last entry is that of the change, or a later one: whoever has a newer log has the change.
        """
        fresh = report.db_state(identity, outlook.members, self.db_state)
        if fresh is None or fresh == self.db_state:
            return
        # The node tells of a change that it may still be writing.
        await asyncio.sleep(_WRITTEN_SECONDS)
        last = nodedir.last_entry_on_disk(self._store.data_dir)
        fresh = msgspec.structs.replace(fresh, last_index=last.index, last_term=last.term)
        self._store.save_db_state(fresh)
        self.db_state = fresh
        log.info("db-state: %s of voters %s, index %d", fresh.role, ", ".join(fresh.voters), last.index)
        self.notify()

    def tell_whether_it_serves(self, serves: bool) -> None:
        """Ask for a hook when this node serves again: the last one may have said in the status that it does not."""
        now = time.monotonic()
        if not serves:
            self._idle_since = now if self._idle_since is None else self._idle_since
            return
        if self._idle_since is not None and now - self._idle_since >= _UNNOTICED_SECONDS:
            self.notify()
        self._idle_since = None

    def ask_for_a_newer_map(self, conf: ControllerConf | None, outlook: Outlook) -> None:
        """Ask for a hook while the configuration names somebody who left: no event tells the charm so.

        A unit is still named while it says goodbye, and no hook runs anywhere when it is finally gone. The pauses
        between the questions grow, so that a name that stays for another reason costs little.
        """
        members = {controller_of(m.name) for m in outlook.members}
        gone = set() if conf is None or not outlook.leader else set(conf.others) - members - set(outlook.answers)
        now = time.monotonic()
        if not gone:
            self._pause, self._due = _FIRST_PAUSE_SECONDS, now + _FIRST_PAUSE_SECONDS
        elif now >= self._due:
            log.info("the configuration still names %s; asking for a newer one", ", ".join(sorted(gone)))
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
            self._due = now + self._pause
            self.notify()
