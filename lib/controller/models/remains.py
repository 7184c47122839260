"""What a model may still have in it when it is destroyed, and who has to end it first.

Each kind of things in a model (machines, …) adds one `Remains` to the list in `manifolds.py` here. The undertaker asks
all of them, in transactions on the model's own database that are fenced by its responsibility.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from dbaccessor.database import Transaction


@dataclass(frozen=True)
class Remains:
    """One kind of things. `what` is its plural.

    `wind_up` tells their own workers to end them (as by letting each one's life go to dying), and is called again and
    again: what is told already stays as it is. `left` counts those that are there still. When all kinds count zero, the
    database is emptied.
    """

    what: str
    wind_up: Callable[[Transaction], Awaitable[None]]
    left: Callable[[Transaction], Awaitable[int]]
