"""No flow: controllerd as a service of this machine, and hactl on its PATH.

Everything is made from the charm's own folder, without the network. The service is not enabled: the charm
starts it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shlex
import shutil
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

from charmlibs import systemd

import controllerconf
import paths

logger = logging.getLogger(__name__)

SERVICE = "ha-controller.service"
# In the state folder: the service may run by another unit file, or with other code, than stands on the disk.
RESTART_DUE = "restart-due"
_CODE = re.compile(r'"HA_CONTROLLER_CODE=([^"]*)"')

# It logs five lines for every command, in every hook; what went wrong comes as an exception anyway.
logging.getLogger("charmlibs.systemd").setLevel(logging.INFO)


def install(charm_dir: Path, unit: str) -> bool:
    """Write the service unit and hactl, make the state folder. Return whether the service must be restarted.

    That it must is written down before the unit file changes, and stands until it was done: a hook that fails in
    between leaves nothing else by which the next one could tell.
    """
    paths.STATE_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
    paths.STATE_DIR.chmod(0o700)
    environment = _environment(charm_dir)
    code = code_digest(charm_dir)
    hactl = _rendered("hactl.j2", unit=unit, python=sys.executable, environment=environment)
    service = _rendered(
        "ha-controller.service.j2",
        unit=unit,
        python=sys.executable,
        state_dir=paths.STATE_DIR,
        environment={
            **environment,
            "PYTHONUNBUFFERED": "1",
            # A change of the code is a change of this file, and so a restart.
            "HA_CONTROLLER_CODE": code,
            "HA_CONTROLLER_NOTIFY": notify_command(charm_dir, unit),
        },
    )
    _write(paths.HACTL, hactl, 0o755)
    marker = paths.STATE_DIR / RESTART_DUE
    # The first unit file has no process that could run by an older one.
    if paths.UNIT_FILE.exists() and not controllerconf.holds(paths.UNIT_FILE, service, mode=0o644):
        _write(marker, f"{code}\n", 0o600)
    changed = _write(paths.UNIT_FILE, service, 0o644)
    due = marker.exists()
    if changed:
        logger.info("%s written", paths.UNIT_FILE)
    if changed or due:
        systemd.daemon_reload()
    return due


def due_seconds() -> float | None:
    """Return for how long a restart has been due, by the wall clock; None: none is."""
    try:
        return time.time() - (paths.STATE_DIR / RESTART_DUE).stat().st_mtime
    except FileNotFoundError:
        return None


def installed_code() -> str:
    """Return the digest of the code that the service is meant to run; "" while there is no service."""
    try:
        found = _CODE.search(paths.UNIT_FILE.read_text())
    except FileNotFoundError:
        return ""
    return found[1] if found else ""


def is_running() -> bool:
    return systemd.service_running(SERVICE)


def ensure_running(*, restart: bool) -> bool:
    """Start controllerd if it does not run, restart it if asked. Return whether either was done."""
    running = systemd.service_running(SERVICE)
    if running and not restart:
        return False
    logger.info("%s controllerd", "restarting" if running else "starting")
    systemd.service_restart(SERVICE) if running else systemd.service_start(SERVICE)
    (paths.STATE_DIR / RESTART_DUE).unlink(missing_ok=True)
    return True


def stop() -> None:
    """Stop controllerd, which hands over what it can. Nothing happens where it does not run."""
    if paths.UNIT_FILE.exists() and systemd.service_running(SERVICE):
        systemd.service_stop(SERVICE)


def remove() -> Path | None:
    """Remove the service and hactl, move the data aside. Return where it is now; None: there was none."""
    stop()
    paths.HACTL.unlink(missing_ok=True)
    if paths.UNIT_FILE.exists():
        paths.UNIT_FILE.unlink()
        systemd.daemon_reload()
    if not paths.STATE_DIR.exists():
        return None
    # What is kept is data. The key opened the cluster's doors, and nobody needs it any more.
    shutil.rmtree(paths.STATE_DIR / "tls", ignore_errors=True)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for suffix in ("", *(f".{n}" for n in range(1, 1000))):
        target = paths.STATE_DIR.with_name(f"{paths.STATE_DIR.name}.removed-{stamp}{suffix}")
        if not target.exists():
            paths.STATE_DIR.rename(target)
            return target
    raise FileExistsError(f"{paths.STATE_DIR}.removed-{stamp}")


def notify_command(charm_dir: Path, unit: str) -> str:
    """Return the command that makes Juju run the charm once more, as the event db-state-changed."""
    return f"juju-exec -u {unit} JUJU_DISPATCH_PATH=hooks/db-state-changed {charm_dir}/dispatch"


def ask_for_hook(charm_dir: Path, unit: str) -> None:
    """Make Juju run the charm once more, soon after this hook. Where that cannot be had, update-status comes."""
    inherited = ("JUJU_CONTEXT_ID", "OPERATOR_DISPATCH")  # Of this hook; juju-exec refuses to run inside one.
    environment = {k: v for k, v in os.environ.items() if k not in inherited}
    command = shlex.split(notify_command(charm_dir, unit))
    silent = [(os.POSIX_SPAWN_OPEN, descriptor, os.devnull, os.O_RDWR, 0) for descriptor in range(3)]
    try:
        # It waits for this hook's end, so nobody waits for it: it is left to init.
        os.posix_spawnp(command[0], command, environment, file_actions=silent, setsid=True)
    except OSError as error:
        logger.debug("no juju-exec: %s", error)


def code_digest(charm_dir: Path) -> str:
    """Return a short text that changes with what controllerd runs: modules, libraries, interpreter."""
    digest = hashlib.sha256(sys.version.encode())
    for file in sorted(_modules(charm_dir)):
        digest.update(str(file.relative_to(charm_dir)).encode())
        digest.update(file.read_bytes())
    for folder in (Path(sysconfig.get_paths()["purelib"]), *_library_folders(charm_dir)):
        for name in sorted(p.name for p in folder.glob("*") if p.suffix == ".dist-info" or ".so" in p.name):
            digest.update(name.encode())
    return digest.hexdigest()[:16]


def _environment(charm_dir: Path) -> dict[str, str]:
    found = {"PYTHONPATH": str(charm_dir / "lib")}
    if folders := _library_folders(charm_dir):
        found["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, folders))
    return found


def _library_folders(charm_dir: Path) -> list[Path]:
    """Return the folders of the shared libraries that the charm brought along (none in a source tree)."""
    return sorted({library.parent for library in charm_dir.glob("usr/lib/*/libdqlite.so*")})


def _modules(charm_dir: Path) -> Iterator[Path]:
    for pattern in ("**/*.py", "**/*.sql"):
        yield from (charm_dir / "lib").glob(pattern)


def _rendered(template: str, **values: object) -> str:
    return controllerconf.environment().get_template(template).render(**values)


def _write(path: Path, text: str, mode: int) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    return controllerconf.replace(path, text, mode=mode)
