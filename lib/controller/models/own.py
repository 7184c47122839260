"""A model's life, as its own database knows it: for transactions there, which cannot look at the controller database.

Two databases never share a transaction. So whoever begins something in a model asks here, in the same transaction; and
the undertaker writes here first, so that what it counts afterwards cannot grow again.
"""

from __future__ import annotations

from controller.models.model import ALIVE, DYING
from dbaccessor import errors
from dbaccessor.database import Transaction


async def require_alive(tx: Transaction) -> None:
    """Raise Refused if the model of this database is being destroyed. For transactions that begin something in it."""
    rows = (await tx.query("SELECT life FROM model_life")).rows
    if not rows or rows[0][0] != ALIVE:
        raise errors.Refused("the model is being destroyed")


async def close(tx: Transaction) -> None:
    """Let nothing begin in the model of this database from here on. Idempotent."""
    await tx.execute("UPDATE model_life SET life = ? WHERE life = ?", (DYING, ALIVE))
