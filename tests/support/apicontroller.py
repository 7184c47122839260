"""One controller as agents see it, in a process that can be killed: the real API server over a file of the test's.

    python apicontroller.py FOLDER ID ADDRESS PORT

`FOLDER/tls-ID` has its certificate, `FOLDER/world.json` what all controllers know: the published list, the agents'
passwords, the epoch of each controller, and whether there is a quorum.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from controller.api import passwords
from controller.api.certificate import ServerCertificate
from controller.api.limits import Limits
from controller.api.messages import Epoch
from controller.api.pages import Sources
from controller.api.server import Server
from dbaccessor import errors
from dbaccessor.tls import Keyring
from fakedomain import Fakes, servers

ROOT = Path(__file__).parents[2]
_LOOK_SECONDS = 0.02


class World(msgspec.Struct, kw_only=True):
    """What all controllers know."""

    published: list[list[str]] = []
    secrets: dict[str, str] = {}
    epochs: dict[str, tuple[int, str]] = {}
    quorum: bool = True

    def write(self, folder: Path) -> None:
        new = folder / ".world.json.new"
        new.write_bytes(msgspec.json.encode(self))
        new.rename(folder / "world.json")


class _Agents:
    """The agents' passwords, kept where all controllers see them."""

    def __init__(self, folder: Path, world: list[World]) -> None:
        self._folder = folder
        self._world = world

    async def secret_hash(self, model_uuid: str, tag: str) -> str | None:
        if not self._world[0].quorum:
            raise errors.NotReady("there is no leader")
        changed = self._folder / f"secret-{tag}"
        if changed.exists():
            return changed.read_text()
        given = self._world[0].secrets.get(tag)
        return None if given is None else passwords.hashed_secret(given)

    async def set_secret_hash(self, model_uuid: str, tag: str, hash: str, place: str, *, instead_of: str) -> bool:
        if await self.secret_hash(model_uuid, tag) not in (instead_of, hash):
            return False
        new = self._folder / f".secret-{tag}.{os.getpid()}"
        new.write_text(hash)
        new.rename(self._folder / f"secret-{tag}")
        return True


async def main(folder: Path, controller_id: str, address: str, port: int) -> None:
    certificate = ServerCertificate(Keyring(folder / f"tls-{controller_id}", controller_id))
    fakes = Fakes(certificate.authorities())
    world = [msgspec.json.decode((folder / "world.json").read_bytes(), type=World)]
    domain = dataclasses.replace(fakes.domain, agents=_Agents(folder, world))
    sources = Sources(lambda: "", _nothing, _nothing, _nothing)
    limits = Limits(strangers_from_one_place=512)
    server = Server(domain, sources, certificate.context, (address,), port, limits)
    server.bind()

    async def follow() -> None:
        seen: World | None = None
        while True:
            found = msgspec.json.decode((folder / "world.json").read_bytes(), type=World)
            if found != seen:
                world[0] = found
                fakes.about.own = Epoch(*found.epochs.get(controller_id, (1, "a")))
                if seen is None or found.published != seen.published:
                    fakes.addresses.agents = servers(*found.published)
                    fakes.addresses.subject.changed()
                seen = found
            await asyncio.sleep(_LOOK_SECONDS)

    async with asyncio.TaskGroup() as group:
        group.create_task(follow())
        group.create_task(server.run())


async def _nothing() -> Any:
    return {}


class Controllers:
    """Starts and kills such processes. A context manager that ends what it started."""

    def __init__(self, folder: Path, block: int = 78) -> None:
        # Here, because it needs the charm's modules, which the processes themselves do not.
        from testauthority import TestAuthority

        self.folder = folder
        self.block = block
        self.world = World()
        self.authority = TestAuthority()
        self.addresses: dict[int, str] = {}
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._hosts = 9

    def __enter__(self) -> Controllers:
        return self

    def __exit__(self, *_: object) -> None:
        for n in list(self._processes):
            self.kill(n)

    @property
    def living(self) -> set[int]:
        return set(self._processes)

    def start(self, n: int, *, at: str = "") -> None:
        """Start controller `n` at a new address, and wait until it takes connections."""
        self._hosts += 1
        address = at or f"127.{self.block}.{os.getpid() % 250}.{self._hosts}:17070"
        if not (self.folder / f"tls-{n}").exists():
            self.authority.write(self.folder / f"tls-{n}", str(n))
        self.addresses[n] = address
        self.write()
        host, _, port = address.rpartition(":")
        search = os.pathsep.join(str(ROOT / part) for part in ("lib", "tests/support"))
        self._processes[n] = subprocess.Popen(
            [sys.executable, __file__, str(self.folder), str(n), host, port],
            env={**os.environ, "PYTHONPATH": search},
        )

    def wait_for(self, n: int, seconds: float = 30) -> None:
        """Until the process listens. Blocks."""
        host, _, port = self.addresses[n].rpartition(":")
        deadline = time.monotonic() + seconds
        while True:
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
                return
            except OSError:
                assert self._processes[n].poll() is None, f"controller {n} ended"
                assert time.monotonic() < deadline, f"controller {n} does not listen at {self.addresses[n]}"
                time.sleep(0.02)

    def kill(self, n: int) -> None:
        process = self._processes.pop(n)
        process.kill()
        process.wait()

    def publish(self, *numbers: int) -> None:
        """Publish the list of these controllers, at the addresses they have now."""
        self.world.published = [[self.addresses[n]] for n in numbers]
        self.write()

    def write(self) -> None:
        self.world.write(self.folder)

    @property
    def cacert(self) -> str:
        return "".join(self.authority.trusted)


def agent_conf(
    path: Path, tag: str, cacert: str, addresses: list[str], password: str, key: str = "apipassword", *, more: str = ""
) -> Path:
    """Write an agent's first agent.conf. `key`: which password it is; `more`: further lines."""
    indented = "".join(f"  {line}\n" for line in cacert.splitlines())
    listed = "".join(f"- {address}\n" for address in addresses)
    head = f"# format 2.0\ntag: {tag}\ncacert: |\n{indented}apiaddresses:\n{listed}"
    path.write_text(f"{head}{key}: {password}\n{more}later: [kept]\n")
    path.chmod(0o600)
    return path


if __name__ == "__main__":
    logging.basicConfig(level="ERROR")
    try:
        asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])))
    except KeyboardInterrupt:
        pass
