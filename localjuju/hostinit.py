"""One unit's host from the inside: its root as the unit sees it, then pid 1 with the service manager.

The machine's own root is shown read-only, so that a charm can leave nothing behind on it. What a charm writes to is
the unit's own: /var/lib is a real folder on the home's disk (true fsync, true rename), /etc, /usr/local and the like
are layers over the machine's, /run and /tmp are memory and empty after each boot.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from localjuju import home as homes
from localjuju import namespaces, supervisor, systemctl, toolwire

_LAYERED = ("/etc", "/usr/local", "/opt", "/srv", "/var/log")
_EMPTY = ("/run", "/tmp", "/var/tmp")
# Never shown from the machine: a real Juju or a real controller there is not this unit's.
_NOT_SHOWN = ("juju", "ha-controller")
_KERNELS = ("/proc", "/sys", "/dev")


def main() -> int:
    spec = json.loads(sys.argv[1])
    pid, is_child = namespaces.fork_pid1()
    if not is_child:
        print(f"pid {pid}", flush=True)
        _, status = os.waitpid(pid, 0)
        namespaces.exit_as(status)
    disk = Path(spec["disk"])
    _make_root(disk, Path(spec["volatile"]), [Path(p) for p in spec["visible"]])
    namespaces.set_hostname(spec["hostname"])
    _install_commands(spec["tool"])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    print("ready", flush=True)
    if sys.stdin.readline() != "go\n":  # The daemon connects the network first, as a machine has it before services.
        return 1
    asyncio.run(_serve())
    return 0


def _make_root(disk: Path, volatile: Path, visible: list[Path]) -> None:
    shown = [(p, os.open(p, os.O_PATH)) for p in visible]
    machine = _mounts()
    _mirror(Path("/var/lib"), disk / "var/lib")
    for folder in _LAYERED:
        if Path(folder).is_dir():
            _layer(folder, disk / "layers", volatile)
    units = disk / "etc/systemd/system"
    units.mkdir(parents=True, exist_ok=True)
    supervisor.UNIT_FOLDER.mkdir(parents=True, exist_ok=True)
    namespaces.bind(units, supervisor.UNIT_FOLDER)
    for folder in _EMPTY:
        namespaces.mount("tmpfs", folder, "tmpfs", namespaces.NO_SUID | namespaces.NO_DEV, "mode=1777")
    for path, fd in shown:
        _show(path, fd)
    for point in machine:
        # Best effort on the machine's own mounts: those now covered cannot be reached, which is as good.
        if not any(Path(point).is_relative_to(k) for k in (*_KERNELS, *_EMPTY, *_LAYERED, "/var/lib")):
            namespaces.mount(None, point, flags=namespaces.REMOUNT | namespaces.BIND | namespaces.READ_ONLY)
    namespaces.mount("proc", "/proc", "proc")
    namespaces.mount("sysfs", "/sys", "sysfs", namespaces.READ_ONLY)
    namespaces.mount("tmpfs", "/dev/shm", "tmpfs", namespaces.NO_SUID | namespaces.NO_DEV, "mode=1777")


def _mounts() -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4].encode().decode("unicode_escape") for line in lines]


def _mirror(folder: Path, backing: Path) -> None:
    """Put *backing*, a plain folder on disk, in the place of *folder*, with the machine's entries shown in it."""
    backing.mkdir(parents=True, exist_ok=True)
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        target = backing / entry.name
        if entry.name in _NOT_SHOWN or target.is_symlink():
            continue
        if entry.is_symlink():
            target.symlink_to(Path(entry.path).readlink())
        elif entry.is_dir():
            target.mkdir(exist_ok=True)
            namespaces.bind(entry.path, target, read_only=True)
        elif entry.is_file():
            target.touch()
            namespaces.bind(entry.path, target, read_only=True)
    namespaces.mount(str(backing), folder, flags=namespaces.BIND | namespaces.RECURSIVE)


def _layer(folder: str, disk: Path, volatile: Path) -> None:
    """An overlay over the machine's folder; its upper layer is on disk, or in memory if that disk cannot carry one."""
    name = folder.strip("/").replace("/", "-")
    for base in (disk, volatile):
        upper, work = base / name / "upper", base / name / "work"
        upper.mkdir(parents=True, exist_ok=True)
        work.mkdir(exist_ok=True)
        try:
            namespaces.mount("overlay", folder, "overlay", data=f"lowerdir={folder},upperdir={upper},workdir={work}")
            return
        except OSError:
            if base is volatile:
                raise


def _show(path: Path, fd: int) -> None:
    """Show again, read-only, a folder of the machine that an empty one of the unit's has covered."""
    path.mkdir(parents=True, exist_ok=True)
    namespaces.bind(f"/proc/self/fd/{fd}", path, read_only=True)
    os.close(fd)


def _install_commands(tool: str) -> None:
    commands = Path("/usr/local/bin")
    commands.mkdir(parents=True, exist_ok=True)
    for name in ("systemctl", "journalctl", "juju-exec", "juju-run"):
        link = commands / name
        if link.is_symlink():
            link.unlink()
        link.symlink_to(tool)
    for name in ("systemctl", "journalctl"):
        real = Path("/usr/bin") / name
        if real.exists():  # By its full path, too, nobody reaches the machine's own service manager.
            namespaces.bind(tool, real)
    # A client that reads its name from argv[0] works for both: a bind keeps the name of its place.


async def _serve() -> None:
    """Be pid 1: supervise, answer systemctl, reap, until the host is killed."""
    services = supervisor.Supervisor()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGCHLD, services.reap)
    Path("/run/systemd").mkdir()
    listener = homes.listen(Path("/run/systemd/localjuju.socket"))
    async with await toolwire.serve(listener, systemctl.Systemctl(services).answer):
        await services.boot()
        print("up", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
