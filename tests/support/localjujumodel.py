"""A charm and units for tests of localjuju's model, without any process."""

from pathlib import Path

from localjuju.charmfiles import Charm
from localjuju.model import Model, Unit

CHARM = Charm(
    name="pulse",
    summary="",
    peers={"peer": "peers"},
    endpoints=("peer", "management"),  # The second is an extra binding: there is no relation of that name.
    options={"level": {"type": "int", "default": 1}, "name": {"type": "string"}},
    actions={},
    folder=Path("/nowhere"),
    origin=Path("/nowhere"),
    revision=0,
)


def add(model: Model, *extra: str) -> Unit:
    """A unit of `app` that is installed and whose agent runs."""
    unit = model.add_unit(model.app("app"), list(extra))
    model.enter_scope(unit)
    unit.alive = True
    return unit
