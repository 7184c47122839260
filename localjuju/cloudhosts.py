"""The cloud's hosts: each has a root, a network card and a service manager of its own, as a unit has, and no charm.

What runs there comes with the spec, as user data does in other clouds: files, and services to start at every boot.
The image offers one thing: `/var/lib/cloud/python3`, the Python that runs localjuju, with what is installed for it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import io
import shutil
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from localjuju import home as homes
from localjuju import network, spaces, toolfiles
from localjuju.cloud import BadSpec, Full, LaunchFailed
from localjuju.host import Host, HostFailed

PYTHON = "/var/lib/cloud/python3"
# Machine numbers and addresses that no unit of a small model gets.
_FIRST_MACHINE = 1000
_PLACES = range(100, 251)
_WRITABLE = ("/var/lib", "/etc/systemd/system")
_WANTS = "/etc/systemd/system/multi-user.target.wants"


class InstanceHost(Host):
    """A host by the name of its instance."""

    def __init__(self, home: homes.Home, machine: int, name: str, hostname: str, net: network.Network) -> None:
        super().__init__(home, machine, name, net)
        self.hostname = hostname

    def _install_tool(self) -> str:
        return toolfiles.install_client(self.disk)


class HostLauncher:
    """Makes the instances' hosts in the run's own network."""

    def __init__(self, home: homes.Home, topology: spaces.Topology, net: network.Network) -> None:
        self._home = home
        self._topology = topology
        self._net = net
        self._machines = 0
        self._hosts: dict[str, InstanceHost] = {}

    async def launch(self, instance: str, spec: Mapping[str, Any]) -> str:
        """Return the address of a new host that has booted. Raises BadSpec, Full or LaunchFailed."""
        machine, self._machines = _FIRST_MACHINE + self._machines, self._machines + 1
        try:
            address = self._topology.add_address_among(machine, _PLACES)
        except spaces.BadNetwork as error:
            raise Full(str(error)) from None
        host = self._hosts[instance] = InstanceHost(self._home, machine, instance, str(spec["hostname"]), self._net)
        writing = asyncio.ensure_future(asyncio.to_thread(write_files, host.disk, spec))
        done = False
        try:
            await asyncio.shield(writing)
            await host.boot()
            done = True
        except HostFailed as error:
            raise LaunchFailed(str(error)) from None
        finally:
            if not done:
                await asyncio.wait([writing])  # A thread cannot be cancelled; what it writes is removed after it.
                await self.destroy(instance)
        return address

    async def wait_down(self, instance: str) -> None:
        await self._hosts[instance].wait_down()

    async def destroy(self, instance: str) -> None:
        """Return when the host, its disk and its address are gone."""
        host = self._hosts.pop(instance, None)
        if host is None:
            return
        await host.kill()
        with contextlib.suppress(network.NetworkFailed):  # Without its host the cable goes by itself.
            await self._net.disconnect(host.machine)
        self._topology.devices.pop(host.machine, None)
        for folder in (host.disk, host.volatile):
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def pid(self, instance: str) -> int:
        """Return the host's first process, as the run numbers it; 0 when there is no such host."""
        host = self._hosts.get(instance)
        return host.pid if host else 0


def write_files(disk: Path, spec: Mapping[str, Any]) -> None:
    """Put the spec's files on the disk of a host that has never booted. Raises BadSpec, which names the culprit."""
    python = disk / PYTHON.lstrip("/")
    python.parent.mkdir(parents=True, exist_ok=True)
    # Not a link: a Python finds the packages of its environment by the path it was started with.
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    for file in _entries(spec, "files"):
        path = _place(disk, file.get("path"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_decoded(file["base64"]) if "base64" in file else str(file.get("text", "")).encode())
        path.chmod(int(file.get("mode", 0o600)) & 0o777)
    for archive in _entries(spec, "archives"):
        folder = _place(disk, archive.get("folder"))
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with tarfile.open(fileobj=io.BytesIO(_decoded(archive.get("base64", "")))) as packed:
                _unpack(packed, folder)
        except (tarfile.TarError, EOFError) as error:
            raise BadSpec(f"the archive for {archive.get('folder')}: {error}") from None
    wants = _place(disk, f"{_WANTS}/x").parent
    wants.mkdir(parents=True, exist_ok=True)
    for name in spec.get("services", []):
        if "/" in str(name):
            raise BadSpec(f"{name!r} is no service's name")
        (wants / str(name)).symlink_to(f"/etc/systemd/system/{name}")


def _unpack(packed: tarfile.TarFile, folder: Path) -> None:
    """Write the archive's plain files below the folder. Raises BadSpec for whatever else it holds.

    Not `extractall(filter="data")`: Debian 12's Python is older than that.
    """
    for member in packed:
        pure = PurePosixPath(member.name)
        if pure.is_absolute() or ".." in pure.parts or not (member.isreg() or member.isdir()):
            raise BadSpec(f"an archive holds {member.name}: only plain files below its folder are unpacked")
        path = folder / pure
        (path if member.isdir() else path.parent).mkdir(parents=True, exist_ok=True)
        content = packed.extractfile(member)  # None for a folder.
        if content is not None:
            path.write_bytes(content.read())
            path.chmod(member.mode & 0o777)


def _entries(spec: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = spec.get(key, [])
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise BadSpec(f"{key} is no list of objects")
    return found


def _place(disk: Path, path: object) -> Path:
    pure = PurePosixPath(str(path))
    if ".." in pure.parts or not any(pure.is_relative_to(w) and str(pure) != w for w in _WRITABLE):
        raise BadSpec(f"{path}: an instance's files go below {' or '.join(_WRITABLE)}")
    return disk / str(pure).lstrip("/")


def _decoded(text: object) -> bytes:
    try:
        return base64.b64decode(str(text), validate=True)
    except binascii.Error as error:
        raise BadSpec(f"not base64: {error}") from None
