"""One unit's host from the outside: booted, entered, asked for its services, killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from localjuju import home as homes
from localjuju import network, toolfiles

_BOOT_SECONDS = 60.0


class HostFailed(Exception):
    """The host did not come up, or is not up; the text says why."""


class Host:
    """The disk outlives the boots; `pid` is the current boot's first process, 0 while the host is down."""

    def __init__(self, home: homes.Home, machine: int, unit: str, net: network.Network) -> None:
        self.machine = machine
        self.unit = unit
        self.disk = home.machines / str(machine)
        self.volatile = home.volatile / str(machine)
        self.hostname = f"juju-{unit.replace('/', '-')}"
        self.pid = 0
        self._home = home
        self._net = net
        self._process: asyncio.subprocess.Process | None = None

    @property
    def charm_folder(self) -> Path:
        """The charm's place on the disk, seen from here; inside the unit it is charm_inside."""
        return self.disk / self.charm_inside.lstrip("/")

    @property
    def charm_inside(self) -> str:
        return f"/var/lib/juju/agents/unit-{self.unit.replace('/', '-')}/charm"

    @property
    def tools_inside(self) -> str:
        return f"/var/lib/juju/tools/unit-{self.unit.replace('/', '-')}"

    @property
    def agent_socket(self) -> Path:
        return self.disk / "var/lib/juju/agent.socket"

    async def boot(self) -> None:
        """Bring the host up: namespaces, root, network, enabled services. Raises HostFailed."""
        spec = {
            "disk": str(self.disk),
            "volatile": str(self.volatile),
            "hostname": self.hostname,
            "tool": self._install_tool(),
            "visible": _visible(),
        }
        with (self._home.log).open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "localjuju.hostinit", json.dumps(spec)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        try:
            async with asyncio.timeout(_BOOT_SECONDS):
                self.pid = int((await self._expect("pid")).split()[1])
                await self._expect("ready")
                await self._net.connect(self.machine, self.pid)
                assert self._process.stdin
                self._process.stdin.write(b"go\n")
                await self._process.stdin.drain()
                await self._expect("up")
        except (TimeoutError, HostFailed, network.NetworkFailed, ConnectionError) as error:
            await self.kill()
            raise HostFailed(f"host of {self.unit} did not boot: {str(error) or 'no answer in time'}") from None

    def _install_tool(self) -> str:
        """Put what answers as systemctl, and the hook commands, on the disk. Returns the client's path inside."""
        tool, _ = toolfiles.install(self.disk, self.unit)
        return tool

    async def _expect(self, word: str) -> str:
        assert self._process
        assert self._process.stdout
        line = (await self._process.stdout.readline()).decode().strip()
        if not line.startswith(word):
            status = await self._process.wait() if not line else "unknown"
            raise HostFailed(f"it ended (status {status}) before it said {word!r} (see daemon.log)")
        return line

    async def wait_down(self) -> None:
        """Return when the host is down, for whatever reason."""
        if self._process:
            await self._process.wait()

    async def kill(self) -> None:
        """Cut the power: every process of the host is gone when this returns."""
        if self._process is None:
            return
        victim = self.pid or None
        with contextlib.suppress(ProcessLookupError):
            if victim:
                os.kill(victim, signal.SIGKILL)
            else:
                self._process.kill()
        await self._process.wait()
        self.pid, self._process = 0, None

    def enter(self, argv: Sequence[str], folder: str = "/") -> list[str]:
        """The command line that runs *argv* on this host; it dies with whoever runs it."""
        if not self.pid:
            raise HostFailed(f"host of {self.unit} is down")
        return [*enter_pid(self.pid), "env", "-C", folder, *argv]

    async def systemctl(self, *arguments: str, timeout_seconds: float = 120.0) -> tuple[int, str]:
        """Run systemctl there. Returns (exit code, what it printed)."""
        process = await asyncio.create_subprocess_exec(
            *self.enter(["/usr/local/bin/systemctl", *arguments]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(timeout_seconds):
                out, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            return 1, f"systemctl {' '.join(arguments)} did not answer in {timeout_seconds:.0f} s"
        return process.returncode or 0, out.decode(errors="replace").strip()


def enter_pid(pid: int) -> list[str]:
    """Join the namespaces of a process; what runs there is killed when the caller's own process dies."""
    spaces = ("--mount", "--net", "--pid", "--uts", "--ipc")
    return ["nsenter", "--target", str(pid), *spaces, "--", "setpriv", "--pdeathsig", "KILL", "--"]


def _visible() -> list[str]:
    """Folders of the machine that a unit needs and that may lie below /tmp or /run, which its host replaces."""
    wanted = {Path(p).resolve() for p in (sys.prefix, sys.base_prefix, Path(__file__).parent.parent)}
    return [str(p) for p in sorted(wanted) if any(p.is_relative_to(m) for m in ("/tmp", "/run", "/var/tmp"))]
