"""Put the hook commands on a unit's disk: the one client, and a link to it for every name."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from localjuju import hooktools

_CLIENT = Path(__file__).with_name("toolclient.py")


def install(disk: Path, unit: str) -> tuple[str, str]:
    """Write them below /var/lib/juju/tools of that disk. Returns (the client, the folder), as paths inside the unit."""
    client = install_client(disk)
    folder = disk / "var/lib/juju/tools" / f"unit-{unit.replace('/', '-')}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*hooktools.names(), "juju-exec", "juju-run"):
        link = folder / name
        if not link.is_symlink():
            link.symlink_to("../client")
    return client, str(Path("/var/lib/juju/tools") / folder.name)


def install_client(disk: Path) -> str:
    """Write the one client alone: what answers as systemctl is on every host. Returns its path inside."""
    tools = disk / "var/lib/juju/tools"
    tools.mkdir(parents=True, exist_ok=True)
    client = tools / "client"
    client.write_text(f"#!{_python()} -IS\n{_CLIENT.read_text()}")
    client.chmod(0o755)
    return "/var/lib/juju/tools/client"


def _python() -> str:
    """The machine's own python where it has one: it starts faster than a venv's."""
    if os.access("/usr/bin/python3", os.X_OK):
        return "/usr/bin/python3"
    return os.path.realpath(sys.executable)
