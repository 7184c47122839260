"""The rows of models in the controller database: statements, each for the inside of a transaction.

The name decides races: it is unique, and whoever comes second with another uuid is Refused. A change raises the counter
that the model-worker-managers watch (changes.py).
"""

from __future__ import annotations

import datetime
from typing import Final

from controller import changes
from controller.models.model import ALIVE, CONTROLLER, DEAD, DYING, Model, new_uuid
from dbaccessor import errors
from dbaccessor.database import Transaction
from dbaccessor.dqlite.results import Rows

SUBJECT: Final = "model"

_COLUMNS = "uuid, name, owner, life, created"
ALL: Final = f"SELECT {_COLUMNS} FROM model ORDER BY name"


def models(found: Rows) -> tuple[Model, ...]:
    """Return the models in the answer to ALL."""
    return tuple(Model(*map(str, row)) for row in found.rows)


async def find(tx: Transaction, name_or_uuid: str) -> Model | None:
    """Return the model of this name or uuid."""
    found = models(
        await tx.query(f"SELECT {_COLUMNS} FROM model WHERE name = ? OR uuid = ?", (name_or_uuid, name_or_uuid))
    )
    return found[0] if found else None


async def add(tx: Transaction, uuid: str, name: str, owner: str) -> Model:
    """Make the row; idempotent for the pair of name and uuid. Raises Refused when either is another model's."""
    for found in (await find(tx, name), await find(tx, uuid)):
        if found is None:
            continue
        if (found.uuid, found.name) != (uuid, name):
            raise errors.Refused(f"there is a model {found.name} already ({found.uuid}, {found.life})")
        return found
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    model = Model(uuid, name, owner, ALIVE, created)
    await tx.execute(f"INSERT INTO model ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)", (uuid, name, owner, ALIVE, created))
    await changes.bump(tx, SUBJECT)
    return model


async def make_controller_model(tx: Transaction) -> None:
    """Make the model of the controllers themselves, if it is not there yet."""
    if await find(tx, CONTROLLER) is None:
        await add(tx, new_uuid(), CONTROLLER, "")


async def begin_to_destroy(tx: Transaction, name_or_uuid: str) -> Model:
    """Let the model's life go to dying; idempotent. Raises Refused for one that is not there, or must stay."""
    model = await find(tx, name_or_uuid)
    if model is None:
        raise errors.Refused(f"there is no model {name_or_uuid}")
    if model.name == CONTROLLER:
        raise errors.Refused("the model controller is the controllers' own: it is there as long as they are")
    if model.life == ALIVE:
        await tx.execute("UPDATE model SET life = ? WHERE uuid = ? AND life = ?", (DYING, model.uuid, ALIVE))
        await changes.bump(tx, SUBJECT)
    return (await find(tx, model.uuid)) or model


async def bury(tx: Transaction, uuid: str) -> None:
    """Let the life of a dying model, empty by now, go to dead. From here on its database is never made again."""
    await tx.execute("UPDATE model SET life = ? WHERE uuid = ? AND life = ?", (DEAD, uuid, DYING))
    await changes.bump(tx, SUBJECT)


async def forget(tx: Transaction, uuid: str) -> None:
    """Delete the row of a dead model."""
    await tx.execute("DELETE FROM model WHERE uuid = ? AND life = ?", (uuid, DEAD))
    await changes.bump(tx, SUBJECT)


async def require_database(tx: Transaction, uuid: str) -> None:
    """Raise Refused unless the model is one whose database may be made."""
    model = await find(tx, uuid)
    if model is None or model.life == DEAD:
        raise errors.Refused(f"the model {uuid} is gone")
