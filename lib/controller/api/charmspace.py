"""Flow 3, hop 2: which space is the charm's, and what nobody else may do to it meanwhile.

The charm's option juju-mgmt-space comes in by controller.conf, and the primary controller brings the rows in line with
it (workers/spacekeeper.py). So there is one truth for every reader, and a mark beside it: one row of controller_config
that says whose the space is. While it is the charm's, whoever else would set it is refused, and told who can.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from controller.api import nodes
from controller.api.nodes import MANAGEMENT_SPACE, Asks
from dbaccessor import errors
from dbaccessor.database import Transaction

# Beside the settings in their table, and none of them: hactl and the API neither show nor set it.
_KEY: Final = "charm-space"


class Mark(msgspec.Struct, frozen=True, rename="kebab"):
    """What the charm last said: the space, "" for none, and in which configuration of which cluster.

    `application` is what Juju calls the charm, "" where it did not say.
    """

    space: str = ""
    generation: int = 0
    cluster_uuid: str = ""
    application: str = ""

    @property
    def how(self) -> str:
        """How the one who may sets the space."""
        return f"run `juju config {self.application or '<application>'} {MANAGEMENT_SPACE}=…`"

    @property
    def how_subnets(self) -> str:
        """How the subnets of the space are set."""
        return f"{self.how}; its subnets follow `juju bind {self.application or '<application>'} management=<space>`"


async def mark(tx: Asks) -> Mark:
    """Return the mark; where the charm never set a space it names none."""
    found = await tx.query('SELECT value FROM controller_config WHERE "key" = ?', (_KEY,))
    return msgspec.json.decode(str(found.rows[0][0]), type=Mark) if found.rows else Mark()


async def put_mark(tx: Transaction, new: Mark) -> None:
    """Replace the mark."""
    await tx.execute(
        'INSERT INTO controller_config ("key", value) VALUES (?, ?)'
        ' ON CONFLICT ("key") DO UPDATE SET value = excluded.value',
        (_KEY, msgspec.json.encode(new).decode()),
    )


async def refuse_setting(tx: Asks) -> None:
    """Raise Refused where the charm sets the management space."""
    found = await mark(tx)
    if found.space:
        raise errors.Refused(
            f"{MANAGEMENT_SPACE} is {found.space}, and the charm's option {MANAGEMENT_SPACE} owns it: {found.how}"
        )


async def refuse_space(tx: Asks, name: str, subnets: Iterable[str] = ()) -> None:
    """Raise Refused for a change of the charm's space, and for subnets that would take addresses away from it.

    Raises BadSpace for what is no subnet.
    """
    found = await mark(tx)
    own = found.space
    if not own:
        return
    if name == own:
        raise errors.Refused(f"the charm's option {MANAGEMENT_SPACE} owns space {name}: {found.how_subnets}")
    inside = (await nodes.spaces(tx)).within(own, nodes.networks(subnets))
    if inside:
        raise errors.Refused(
            f"{inside[0]} is of space {own}, which the charm's option {MANAGEMENT_SPACE} owns: {found.how_subnets}"
        )
