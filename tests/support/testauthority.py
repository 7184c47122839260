"""Certificates for tests: an authority of the test's own, made by the code that the charm's leader runs."""

from __future__ import annotations

import datetime
from pathlib import Path

import signing
from dbaccessor import tlsfiles

NOW = datetime.datetime.now(datetime.UTC)


class TestAuthority:
    """One authority, and the ones it replaced. `write` makes a folder that a controller can use."""

    __test__ = False

    def __init__(self, now: datetime.datetime = NOW) -> None:
        self.now = now
        self.current = signing.found(now)
        self.trusted = [self.current.certificate]
        self.retired: list[str] = []

    def rotate(self, *, retire: bool = False) -> None:
        """Make a new authority. `retire`: those before it are no longer trusted."""
        self.current = signing.succeed(self.current, self.now, 8)
        if retire:
            self.retired = [*self.trusted, *self.retired]
            self.trusted = []
        self.trusted = [self.current.certificate, *self.trusted]

    def files(self, controller_id: str, now: datetime.datetime | None = None) -> dict[str, bytes]:
        """Return the files of a controller with a new key. `now`: when it is signed."""
        key = signing.new_key()
        leaf = signing.sign(self.current, signing.request(key), controller_id, now or self.now)
        texts = {
            tlsfiles.CA: "".join(self.trusted),
            tlsfiles.CERTIFICATE: leaf + "".join(self.current.chain),
            tlsfiles.KEY: key,
            tlsfiles.RETIRED: "".join(self.retired),
        }
        return {name: text.encode() for name, text in texts.items()}

    def write(self, directory: Path, controller_id: str, now: datetime.datetime | None = None) -> Path:
        """Write, or replace, the files of a controller. Return the folder."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, content in self.files(controller_id, now).items():
            put(directory / name, content)
        return directory


def put(path: Path, content: bytes) -> None:
    """Replace one file as the charm does: whole, and for its owner only."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.touch(mode=0o600)
    temporary.chmod(0o600)
    temporary.write_bytes(content)
    temporary.rename(path)
