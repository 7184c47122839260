"""Flow 3, hop 5: what a client remembers between two commands, in files that many commands share.

controllers.yaml and accounts.yaml lie in a folder of the user's own, and the lock that guards both lies beside them.
Whoever changes something takes the lock, reads what is there *now*, changes that and nothing else, and replaces the
file as a whole. So fifty commands at once lose nothing, and a reader, who needs no lock, never sees half a file.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import filelock
import platformdirs

from controller.api.client import entries
from controller.api.client.entries import Account, Accounts, Controllers, Entry
from controller.api.messages import Epoch, Servers

ENVIRONMENT = "HA_CONTROLLER_DATA"
CONTROLLERS = "controllers.yaml"
ACCOUNTS = "accounts.yaml"
LOCK = "store.lock"
# One file a controller. Nothing of ours is in it; python-libjuju does not begin without one.
COOKIES = "cookies"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}")

_MOST_BYTES = 16 << 20
_LOCK_SECONDS = 15.0
_LOOK_SECONDS = 0.03

_T = TypeVar("_T")


class StoreError(Exception):
    """The store cannot do this; it is as it was. The message says what to do."""


class Unknown(StoreError):
    """There is no controller of this name in the store."""


@dataclass(frozen=True)
class Known:
    """One controller of the store with its name, and who we are there."""

    name: str
    entry: Entry
    account: Account | None


def default_directory() -> Path:
    """Return where the store is: HA_CONTROLLER_DATA, else the user's data folder."""
    told = os.environ.get(ENVIRONMENT)
    return Path(told) if told else Path(platformdirs.user_data_dir("ha-controller"))


class Store:
    """The files of one folder. Its methods may wait for another process's change, at most a few seconds."""

    def __init__(self, directory: Path | None = None, *, lock_seconds: float = _LOCK_SECONDS) -> None:
        self.directory = directory or default_directory()
        self._lock_seconds = lock_seconds

    def controllers(self) -> Controllers:
        """Return what controllers.yaml says now. Raises StoreError."""
        return self._parse(CONTROLLERS, entries.parse_controllers)

    def accounts(self) -> Accounts:
        """Return what accounts.yaml says now. Raises StoreError."""
        return self._parse(ACCOUNTS, entries.parse_accounts)

    def find(self, name: str | None = None) -> Known:
        """Return the controller of this name, or the current one. Raises Unknown, which names those there are."""
        controllers = self.controllers()
        chosen = name or controllers.current
        if not chosen:
            raise Unknown("no controller is chosen: hactl register one, or hactl switch to one")
        if chosen not in controllers.entries:
            there = ", ".join(sorted(controllers.entries)) or "none"
            raise Unknown(f"there is no controller {chosen} in {self.directory}; there are: {there}")
        return Known(chosen, controllers.entries[chosen], self.accounts().entries.get(chosen))

    def add(self, name: str, entry: Entry, account: Account) -> None:
        """Remember a new cluster and make it the current one; a known one is brought up to date.

        Raises StoreError if the name is another cluster's, or the cluster has another name here.
        """
        with self._locked():
            self.require_free(name, entry.uuid)
            controllers, accounts = self.controllers(), self.accounts()
            there = controllers.entries.get(name)
            # The account first: a controller without one only asks for a password.
            self._write_accounts(accounts, replace(accounts, entries={**accounts.entries, name: account}))
            fresh = replace(entry, extra={**(there.extra if there else {}), **entry.extra})
            changed = replace(controllers, entries={**controllers.entries, name: fresh}, current=name)
            self._make_cookies(name)
            self._write_controllers(controllers, changed)

    def require_free(self, name: str, uuid: str) -> None:
        """Raise StoreError if the name is none, or another cluster's, or this cluster has another name here."""
        if not _NAME.fullmatch(name):
            raise StoreError(f"{name!r} is no name for a controller: letters, digits, and . _ @ - after the first")
        for there, entry in self.controllers().entries.items():
            if there == name and entry.uuid != uuid:
                raise StoreError(f"{name} is another cluster ({entry.uuid}) here: choose another name")
            if there != name and entry.uuid == uuid:
                raise StoreError(f"this cluster is known here as {there}: use that name")

    def require_writable(self) -> None:
        """Raise StoreError where nothing can be written, before something is used up that cannot be kept."""
        with self._locked():
            fd, temporary = tempfile.mkstemp(prefix=f".{CONTROLLERS}.", dir=self.directory)
            os.close(fd)
            Path(temporary).unlink()

    def remember_login(
        self, name: str, uuid: str, servers: Servers, connected: str, epoch: Epoch | None = None, **told: str
    ) -> bool:
        """Remember where the cluster `uuid` let us in and where it says it is. Return whether that changed anything.

        What is compared is what the file says now: if the name has become another cluster's meanwhile, or is gone, or
        the file knows a newer epoch, nothing is changed. See `entries.after_login`.
        """

        def change(controllers: Controllers) -> Controllers:
            there = controllers.entries.get(name)
            if there is None or there.uuid != uuid or (epoch is not None and epoch.number < there.epoch.number):
                return controllers
            fresh = entries.after_login(there, servers, connected, epoch, **told)
            return replace(controllers, entries={**controllers.entries, name: fresh})

        # Most logins change nothing, and then there is nothing to wait for.
        now = self.controllers()
        if change(now) == now:
            return False
        with self._locked():
            now = self.controllers()
            return self._write_controllers(now, change(now))

    def set_account(self, name: str, account: Account) -> None:
        """Remember who we are at a controller. Raises Unknown."""
        with self._locked():
            self.find(name)
            accounts = self.accounts()
            self._write_accounts(accounts, replace(accounts, entries={**accounts.entries, name: account}))

    def forget_account(self, name: str) -> bool:
        """Forget who we are at a controller, password and all. Return whether there was anything to forget."""
        with self._locked():
            self.find(name)
            accounts = self.accounts()
            left = {n: a for n, a in accounts.entries.items() if n != name}
            return self._write_accounts(accounts, replace(accounts, entries=left))

    def forget(self, name: str) -> None:
        """Forget a cluster. Raises Unknown."""
        with self._locked():
            self.find(name)
            accounts, controllers = self.accounts(), self.controllers()
            kept = {n: a for n, a in accounts.entries.items() if n != name}
            self._write_accounts(accounts, replace(accounts, entries=kept))
            left = {n: e for n, e in controllers.entries.items() if n != name}
            current = "" if controllers.current == name else controllers.current
            self._write_controllers(controllers, replace(controllers, entries=left, current=current))
            self._cookies(name).unlink(missing_ok=True)

    def switch(self, name: str) -> str:
        """Make a controller the current one. Return which was it before. Raises Unknown."""
        with self._locked():
            self.find(name)
            controllers = self.controllers()
            self._write_controllers(controllers, replace(controllers, current=name))
            return controllers.current

    def _parse(self, name: str, parse: Callable[[str], _T]) -> _T:
        path = self.directory / name
        try:
            with path.open("rb") as file:
                raw = file.read(_MOST_BYTES + 1)
            if len(raw) > _MOST_BYTES:
                raise StoreError(f"{path} is larger than {_MOST_BYTES} bytes")
            return parse(raw.decode())
        except FileNotFoundError:
            return parse("")
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{path} cannot be read: {error}") from error
        except entries.BadStore as error:
            raise StoreError(f"{path} is not a file of this store: {error}; mend it, or move it away") from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = filelock.FileLock(self.directory / LOCK, mode=0o600, poll_interval=_LOOK_SECONDS)
            with lock.acquire(timeout=self._lock_seconds):
                yield
        except filelock.Timeout as error:
            raise StoreError(
                f"{self.directory / LOCK} is held by another command for more than {self._lock_seconds:g} s; "
                "nothing was changed"
            ) from error
        except OSError as error:
            raise StoreError(f"{self.directory} cannot be changed: {error}") from error

    def _cookies(self, name: str) -> Path:
        return self.directory / COOKIES / f"{name}.json"

    def _make_cookies(self, name: str) -> None:
        path = self._cookies(name)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text("[]\n")

    def _write_controllers(self, before: Controllers, after: Controllers) -> bool:
        return before != after and self._replace(CONTROLLERS, entries.render_controllers(after))

    def _write_accounts(self, before: Accounts, after: Accounts) -> bool:
        return before != after and self._replace(ACCOUNTS, entries.render_accounts(after))

    def _replace(self, name: str, text: str) -> bool:
        fd, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=self.directory)  # For its owner only.
        try:
            with os.fdopen(fd, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).rename(self.directory / name)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return True
