"""Flow 2, hop 8: what a new machine finds on its disk: agentd's code, its service, and which machine it is.

The code is this controller's own, so an agent is of the version of the controller that started it. A file that every
agent needs is one more `File` here.
"""

from __future__ import annotations

import functools
import io
import tarfile
from pathlib import Path

import msgspec

import controller
from controller import ownmachine
from controller.workers.machines import Machine
from controller.workers.provider import Archive, File, Spec

SERVICE = "ha-agentd.service"
_LIB = "/var/lib/ha-agent/lib"
_UNIT = """\
[Unit]
Description=HA controller's agent of machine {number}
After=network.target
StartLimitIntervalSec=0

[Service]
ExecStart={python} -m controller.agentd --state-dir {state_dir}
Environment="PYTHONPATH={lib}"
Environment="PYTHONUNBUFFERED=1"
Restart=always
RestartSec=0.2
TimeoutStopSec=20
UMask=0077

[Install]
WantedBy=multi-user.target
"""


def spec(machine: Machine, model: str, python: str) -> Spec:
    """Return what the machine is to be. `model` is its model's uuid, `python` the image's interpreter."""
    about = ownmachine.Machine(uuid=machine.uuid, number=machine.number, model=model)
    unit = _UNIT.format(number=machine.number, python=python, state_dir=ownmachine.STATE_DIR, lib=_LIB)
    return Spec(
        hostname=f"machine-{machine.number}",
        files=(
            File(f"{ownmachine.STATE_DIR}/{ownmachine.MACHINE}", msgspec.json.encode(about).decode()),
            File(f"/etc/systemd/system/{SERVICE}", unit, 0o644),
        ),
        archives=(Archive(_LIB, code()),),
        services=(SERVICE,),
    )


@functools.cache
def code() -> bytes:
    """Return our own packages as a tar archive, the same bytes each time."""
    lib = Path(controller.__file__).parents[1]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz", preset=1) as archive:
        for package in ("controller", "dbaccessor"):
            for path in sorted((lib / package).rglob("*.py")):
                entry = tarfile.TarInfo(str(path.relative_to(lib)))
                content = path.read_bytes()
                entry.size, entry.mode = len(content), 0o644
                archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
