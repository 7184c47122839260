"""What the node is told to do by somebody, and not by `decide`: stop, leave for good, be the only member, step down.

Each comes from outside (the service manager, the charm, an operator, a watchdog) at any moment, so all of them and the
worker's own steps take one lock, `acting`. While `leaving` or `stopping`, the worker decides nothing.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from dbaccessor import errors, goodbye, rebuild
from dbaccessor.accounts import Accounts
from dbaccessor.dial import Dialer
from dbaccessor.dqlite.connection import Role
from dbaccessor.executor import Executor
from dbaccessor.identity import Store
from dbaccessor.outlook import Outlook
from dbaccessor.ownnode import OwnNode
from dbaccessor.preamble import Outcome
from dbaccessor.sight import Sight

log = logging.getLogger(__name__)

_LEAVE_SECONDS = 25.0
# The library asks each member for five seconds before a handover comes back that nobody answers.
_FINISH_SECONDS = 30.0


class Orders:
    """Carries out one order at a time. Call on the worker's loop."""

    def __init__(
        self, store: Store, sight: Sight, own: OwnNode, dialer: Dialer, executor: Executor, accounts: Accounts
    ) -> None:
        self._store = store
        self._sight = sight
        self._own = own
        self._dialer = dialer
        self._executor = executor
        self._accounts = accounts
        self.acting = asyncio.Lock()
        self.leaving = self.stopping = False
        # What an order met that only a new process can mend, None so far. The worker ends with it.
        self.failure: RuntimeError | None = None

    async def stop(self) -> None:
        """Hand over what the node holds, then stop it for good."""
        self.stopping = True
        async with self.acting:
            self._accounts.set_state("stopped", "controllerd was told to stop")
            outlook = self._sight.outlook()
            if outlook.leader and len(outlook.members) > 1:
                await self._hand_over(outlook)
            await self._own.stop()
            self._executor.on_change()

    async def finish(self) -> None:
        """Wait for a node that `stop` left behind as stuck. For a process that is to live on."""
        self._dialer.stop()
        await self._own.finish(_FINISH_SECONDS)

    async def leave(self) -> Outcome:
        """Say goodbye for good, so that the others need not wait for this node. Idempotent; the reason is inside."""
        identity, local = self._sight.identity, self._own.local
        if identity is not None and identity.state == "left":
            return Outcome(True, "left already")
        if identity is None or local is None:
            return Outcome(False, "this node is no member, or does not run")
        if len(self._sight.outlook().members) < 2:
            return Outcome(False, "this is the last controller")
        self.leaving = True
        outcome = Outcome(False, "it was not done")
        try:
            self._accounts.set_state("leaving", "saying goodbye to the other members")
            outcome = await goodbye.say(identity, local, self._sight.outlook, self._dialer, _LEAVE_SECONDS)
            async with self.acting:
                identity = self._sight.identity
                if outcome.done and identity is not None:
                    left = msgspec.structs.replace(identity, state="left")
                    self._store.save_identity(left)
                    self._executor.become(left)
                    await self._executor.stop_node()
        except TimeoutError:
            outcome = Outcome(False, f"no leader removed this node within {_LEAVE_SECONDS:g} s")
        except (errors.DbAccessorError, OSError) as error:
            outcome = Outcome(False, f"{type(error).__name__}: {error}")
        except RuntimeError as error:
            self.failure = error  # It has left, and says so; what runs here still ends with the process.
        finally:
            self.leaving = False
        log.info("leaving: %s", outcome.reason)
        return outcome

    async def rebuild(self, force: bool) -> Outcome:
        """Make this node the only member on an operator's word; the others join again. The reason is in the outcome."""
        async with self.acting:
            outlook = await self._sight.look()
            voters = frozenset(m.name for m in outlook.members if m.role == Role.VOTER)
            planned = rebuild.plan(self._sight.view(outlook), voters, force=force)
            if isinstance(planned, str):
                outcome = Outcome(False, planned)
            else:
                before = self._sight.identity
                left = ", ".join(sorted(planned.dropping)) or "nobody"
                done = f"this node is the only member now, left behind: {left}"
                try:
                    await self._executor.go_on_alone(planned)
                    outcome = Outcome(True, done)
                except (errors.DbAccessorError, OSError) as error:
                    problem = f"{type(error).__name__}: {error}"
                    now = self._sight.identity
                    if before is not None and now is not None and now.epoch != before.epoch:
                        # There is no way back from the new epoch. What is left to do is an ordinary start.
                        outcome = Outcome(
                            True,
                            f"{done} (epoch {now.epoch}), but it does not run yet: {problem}; hactl status says more",
                        )
                    else:
                        outcome = Outcome(False, problem)
                except RuntimeError as error:
                    self.failure = error
                    outcome = Outcome(False, f"{error}; controllerd ends, and its next start goes on")
        log.warning("rebuild-cluster%s: %s", " with force" if force else "", outcome.reason)
        return outcome

    async def give_leadership_away(self) -> str:
        """Give leadership to another voter. Return its name, "" if there is none. Raises DbAccessorError, OSError."""
        identity, local = self._sight.identity, self._own.local
        if identity is None or local is None or self.stopping:
            return ""
        return await goodbye.hand_leadership_over(identity, local, self._sight.outlook())

    async def restart_node(self) -> None:
        """Stop the node; the worker's next step finds it stopped and starts it again."""
        async with self.acting:
            # While it leaves, nobody would start it again, and a member without a node can say no goodbye.
            if not (self.stopping or self.leaving):
                await self._executor.stop_node()

    async def _hand_over(self, outlook: Outlook) -> None:
        """Give away leadership, then the voting right. The first alone is what keeps the others writing.

        Without a vote there is nothing to give, and the library's handover must not be asked: it makes another member
        a voter all the same, and on a spare that knows no configuration yet it never comes back.
        """
        identity, local = self._sight.identity, self._own.local
        if outlook.own_role != "voter":
            log.info("nothing to hand over: this node has no vote")
            return
        if outlook.leading and identity is not None and local is not None:
            try:
                await goodbye.hand_leadership_over(identity, local, outlook)
            except (errors.DbAccessorError, OSError) as error:
                log.warning("leadership could not be handed over: %s", error)
        limit = self._executor.timing.handover_seconds
        self._accounts.handed_over(await self._own.hand_over(limit, self._sight.quorum_answers))
