"""Flow 2, hop 8: what a single-instance worker may ask of a cloud, whichever it is.

Everything is asked by the machine's uuid and may be asked again: whoever asks may be killed between asking and writing
down what came of it, and somebody else asks again then. A provider promises

- a uuid has at most one instance at a time, however often and by however many it is started at once;
- `stop` of a uuid that was never started is remembered: a start that arrives late finds it stopped;
- a uuid that was stopped never starts again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class ProviderError(Exception):
    """Base of what a provider says no with, named after what the caller can do about it."""


class TryAgain(ProviderError):
    """It was not done, or may have been done: there was no answer, or no room. Ask again, later."""


class NotDone(TryAgain):
    """It was certainly not done: nothing was sent, or there was no room. Ask again, later, or ask another provider."""


class Gone(ProviderError):
    """This uuid was stopped, or its instance died. It never starts again: another machine is needed."""


class Refused(ProviderError):
    """The request is wrong, and stays wrong when repeated. It was not done."""


@dataclass(frozen=True)
class File:
    """One file of a new instance. It goes below /var/lib or /etc/systemd/system."""

    path: str
    text: str
    mode: int = 0o600


@dataclass(frozen=True)
class Archive:
    """A tar archive that a new instance finds unpacked in `folder`."""

    folder: str
    content: bytes


@dataclass(frozen=True)
class Spec:
    """What a new instance is to be: its name, what is on its disk, and the services that every boot starts."""

    hostname: str
    files: tuple[File, ...] = ()
    archives: tuple[Archive, ...] = ()
    services: tuple[str, ...] = ()


@dataclass(frozen=True)
class Instance:
    """What the provider has for a uuid. `id` is the provider's own name for it."""

    uuid: str
    id: str
    address: str = ""


class Provider(Protocol):
    """One model's part of a cloud. No call waits longer than the deadline the provider was made with.

    `name` says which cloud: it stands in the row of each machine that this one was asked to start, and no provider of
    another name is asked about that machine.
    """

    @property
    def name(self) -> str: ...

    async def start(self, uuid: str, spec: Spec) -> Instance:
        """Return the uuid's running instance, made now if there is none. Raises TryAgain, Gone or Refused."""
        ...

    async def stop(self, uuid: str) -> None:
        """Return when the uuid has no instance; it will never have one again. Raises TryAgain or Refused."""
        ...

    async def list(self) -> tuple[Instance, ...]:
        """Return this model's instances, those that are starting or stopping included. Raises TryAgain or Refused."""
        ...
