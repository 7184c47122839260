"""What a model is, and what it may be called. Pure."""

from __future__ import annotations

import re
import uuid as uuids
from dataclasses import dataclass
from typing import Final

from dbaccessor import errors

# The model of the controllers themselves. It is there from the beginning, and stays.
CONTROLLER: Final = "controller"

ALIVE: Final = "alive"
DYING: Final = "dying"  # It is being wound up: nothing new may begin in it.
DEAD: Final = "dead"  # It is empty. Its database goes, then its row.

# Juju's rule, and a length.
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True)
class Model:
    """One row. `created` is UTC, `owner` whoever asked for it ("": an operator on a controller)."""

    uuid: str
    name: str
    owner: str
    life: str
    created: str

    @property
    def database(self) -> str:
        """The name of the model's own database."""
        return f"model-{self.uuid}"


def check_name(name: str) -> str:
    """Return the name if a model may be called so. Raises Refused."""
    if not _NAME.fullmatch(name):
        raise errors.Refused(f"{name!r} is no name for a model: up to 63 of a-z, 0-9 and '-', a letter or digit first")
    if _is_uuid(name):
        raise errors.Refused(f"{name!r} is no name for a model: it looks like a uuid, and verbs take either")
    return name


def check_uuid(uuid: str) -> str:
    """Return the uuid if it is one, in its usual form. Raises Refused."""
    if not _is_uuid(uuid):
        raise errors.Refused(f"{uuid!r} is no uuid: 32 lower-case hexadecimal digits and four hyphens")
    return uuid


def new_uuid() -> str:
    """Return a random uuid."""
    return str(uuids.uuid4())


def _is_uuid(text: str) -> bool:
    try:
        return str(uuids.UUID(text)) == text
    except ValueError:
        return False
