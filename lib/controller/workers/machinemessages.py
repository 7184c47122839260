"""What goes over control.socket about machines and settings, for controllerd and for hactl, which loads no database."""

from __future__ import annotations

import msgspec

from controller.models import model as models


class Listed(msgspec.Struct, frozen=True):
    """The body of POST /machines: a model's name or uuid."""

    model: str = models.CONTROLLER


class Added(msgspec.Struct, frozen=True):
    """The body of POST /machines/add. Whoever asks chooses the uuids, so that asking again means the same machines."""

    uuids: tuple[str, ...]
    model: str = models.CONTROLLER
    manual: bool = False


class Removed(msgspec.Struct, frozen=True):
    """The body of POST /machines/remove."""

    numbers: tuple[int, ...]
    model: str = models.CONTROLLER


class Retried(msgspec.Struct, frozen=True):
    """The body of POST /machines/retry."""

    numbers: tuple[int, ...]
    model: str = models.CONTROLLER


class Enrolled(msgspec.Struct, frozen=True):
    """The body of POST /machines/enrol."""

    number: int
    model: str = models.CONTROLLER


class Changed(msgspec.Struct, frozen=True):
    """The body of POST /controller-config."""

    key: str
    value: str


class Shown(msgspec.Struct, frozen=True, rename="kebab"):
    """One machine in an answer."""

    number: int
    uuid: str
    state: str
    reason: str
    manual: bool
    attempts: int
    retry_seconds: int | None
    instance: str
    address: str


class Answer(msgspec.Struct, frozen=True):
    """What every request about machines is answered with."""

    machines: tuple[Shown, ...]
