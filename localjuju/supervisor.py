"""A unit's service manager, inside its pid 1: starts, watches, restarts and stops services as systemd would.

What a service left behind is found by session, where systemd has a control group: each service leads its own session.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from localjuju import unitfile

UNIT_FOLDER = Path("/etc/systemd/system")
WANTS = UNIT_FOLDER / "multi-user.target.wants"
JOURNAL = Path("/var/log/localjuju-journal")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Refused(Exception):
    """systemctl's error text."""


@dataclass
class Running:
    """One service as it is now: active, activating, deactivating, inactive or failed, and why."""

    name: str
    spec: unitfile.Service
    state: str = "inactive"
    sub: str = "dead"
    result: str = "success"
    pid: int = 0
    restarts: int = 0
    exit_code: int = 0
    since: float = field(default_factory=time.time)
    starts: deque[float] = field(default_factory=deque)
    stopping: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    keeper: asyncio.Task[None] | None = None
    frozen: bool = False

    def become(self, state: str, sub: str) -> None:
        if state != self.state:
            self.since = time.time()
        self.state, self.sub = state, sub


class Supervisor:
    """Owns every process of this host's services. As pid 1 it also reaps whatever else is orphaned here."""

    def __init__(self) -> None:
        self.services: dict[str, Running] = {}
        self._specs: dict[str, unitfile.Service] = {}
        self._exits: dict[int, Callable[[int], None]] = {}

    # Processes

    def reap(self) -> None:
        """On SIGCHLD: tell the owners of those that ended; the rest were orphans."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            told = self._exits.pop(pid, None)
            if told:
                told(status)

    def _spawn(self, running: Running, argv: tuple[str, ...], extra: dict[str, str]) -> tuple[int, asyncio.Future[int]]:
        spec = running.spec
        environment = self._environment(spec) | extra
        JOURNAL.mkdir(exist_ok=True)
        out = os.open(JOURNAL / f"{running.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        user = pwd.getpwnam(spec.user) if spec.user and spec.user != "root" else None

        def prepare() -> None:
            # pid 1 itself has these blocked or handled; a service starts with the defaults.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            for name, value in spec.limits.items():
                kind = getattr(resource, name, None)
                if kind is not None:
                    hard = resource.getrlimit(kind)[1]
                    value = value if hard == resource.RLIM_INFINITY or 0 <= value <= hard else hard
                    resource.setrlimit(kind, (value, value))
            if spec.nice is not None:
                with contextlib.suppress(PermissionError):  # As systemd does where it is not allowed to.
                    os.setpriority(os.PRIO_PROCESS, 0, spec.nice)

        try:
            process = subprocess.Popen(
                unitfile.expand(argv, environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=spec.folder,
                env=environment,
                start_new_session=True,
                umask=spec.umask,
                user=user.pw_uid if user else None,
                group=user.pw_gid if user else None,
                preexec_fn=prepare,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise Refused(f"cannot run {argv[0]}: {error}") from None
        finally:
            os.close(out)
        # reap() collects the status; subprocess must not look for this child again.
        process.returncode = 0
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def ended(status: int) -> None:
            if not done.done():
                done.set_result(status)

        self._exits[process.pid] = ended
        return process.pid, done

    def _environment(self, spec: unitfile.Service) -> dict[str, str]:
        values = {"PATH": _PATH, "LANG": "C.UTF-8", "HOME": "/root", "USER": spec.user or "root"} | dict(
            spec.environment
        )
        for path, optional in spec.environment_files:
            try:
                values |= unitfile.environment_file(Path(path).read_text())
            except OSError as error:
                if not optional:
                    raise Refused(f"Failed to load environment file {path}: {error.strerror}") from None
        return values

    async def _run_all(self, running: Running, commands: tuple[unitfile.Command, ...], limit: float) -> None:
        extra = {"MAINPID": str(running.pid)} if running.pid else {}
        for command in commands:
            pid, done = self._spawn(running, command.argv, extra)
            try:
                async with asyncio.timeout(limit):
                    status = await done
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise Refused(f"{command.argv[0]} timed out") from None
            if status != 0 and not command.may_fail:
                raise Refused(f"{command.argv[0]} failed (wait status {status})")

    # Services

    def load(self, name: str) -> Running:
        """The service by name, read from its file when first used, and again after daemon-reload."""
        name = name if "." in name.rpartition("/")[2] else name + ".service"
        path = UNIT_FOLDER / name
        if name not in self._specs:
            if not path.exists():
                if name in self.services and self.services[name].state != "inactive":
                    return self.services[name]  # Its file is gone, its process is not: it can still be stopped.
                raise Refused(f"Unit {name} not found.")
            if os.path.realpath(path) == "/dev/null":
                raise Refused(f"Unit {name} is masked.")
            self._specs[name] = unitfile.parse(name, path.read_text())
        spec = self._specs[name]
        running = self.services.setdefault(name, Running(name, spec))
        running.spec = spec
        return running

    def forget_files(self) -> None:
        """daemon-reload: the next use reads each file again."""
        self._specs.clear()

    async def start(self, running: Running) -> None:
        """Return once started as its Type= says; raise Refused with the reason."""
        if running.state in ("active", "activating", "reloading") and not running.stopping:
            return
        if running.keeper and not running.keeper.done():
            await asyncio.wait([running.keeper], timeout=running.spec.stop_seconds + 1)
        running.stopping, running.restarts = False, 0
        running.ready = asyncio.Event()
        running.become("activating", "start")
        running.keeper = asyncio.create_task(self._keep(running))
        limit = running.spec.start_seconds
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if limit == float("inf") else limit):
                await running.ready.wait()
        if running.state not in ("active",) and not (running.spec.kind == "oneshot" and running.result == "success"):
            raise Refused(
                f"Job for {running.name} failed because the service did not start: {running.result}.\n"
                f'See "journalctl -u {running.name}" for details.'
            )

    async def _keep(self, running: Running) -> None:
        """One service's life: start, wait for the end, restart if its Restart= says so."""
        while True:
            now = time.monotonic()
            spec = running.spec
            while running.starts and now - running.starts[0] > spec.limit_interval:
                running.starts.popleft()
            if spec.limit_burst and spec.limit_interval and len(running.starts) >= spec.limit_burst:
                self._settle(running, "start-limit-hit")
                return
            running.starts.append(now)
            clean, by_signal = await self._once(running)
            if running.stopping:
                self._settle(running, "success" if clean or by_signal else running.result)
                return
            if not spec.restarts_after(clean=clean, by_signal=by_signal, timed_out=running.result == "timeout"):
                if not (clean and spec.remain):
                    self._settle(running, running.result)
                return
            running.become("activating", "auto-restart")
            running.ready.set()  # Whoever waits for the start learns that it failed; the restart goes on behind it.
            running.restarts += 1
            await asyncio.sleep(spec.restart_seconds)  # stop() cancels us here.

    def _settle(self, running: Running, result: str) -> None:
        running.result = result
        running.become("inactive" if result == "success" else "failed", "dead" if result == "success" else "failed")
        running.pid, running.frozen = 0, False
        running.ready.set()
        for name in running.spec.run_folders:
            shutil.rmtree(Path("/run") / name, ignore_errors=True)

    async def _once(self, running: Running) -> tuple[bool, bool]:
        """Run the service once. Returns (ended cleanly, ended by a signal)."""
        spec = running.spec
        for base, names in (("/var/lib", spec.state_folders), ("/run", spec.run_folders)):
            for name in names:
                (Path(base) / name).mkdir(parents=True, exist_ok=True)
        running.ended = asyncio.Event()
        status = 1 << 8
        try:
            await self._run_all(running, spec.start_pre, spec.start_seconds)
            with self._notify_socket(running) as extra:
                for command in spec.start:
                    running.pid, done = self._spawn(running, command.argv, extra)
                    if spec.kind in ("simple", "exec"):
                        self._is_up(running)
                        await self._run_all(running, spec.start_post, spec.start_seconds)
                    status = await done
                    self._sweep(running.pid, signal.SIGKILL)
                    if status != 0 and not command.may_fail:
                        break
        except (Refused, unitfile.BadUnitFile) as error:
            self._note(running, str(error))
        code = os.waitstatus_to_exitcode(status)
        by_signal = code < 0
        polite = by_signal and -code in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE)
        clean = code == 0 or code in spec.exit_ok or polite
        running.exit_code = code
        running.result = "success" if clean else "signal" if by_signal else "exit-code"
        self._note(running, f"Main process exited, {'signal ' + str(-code) if by_signal else 'status ' + str(code)}")
        running.pid = 0
        with contextlib.suppress(Refused):
            await self._run_all(running, spec.stop_post, spec.stop_seconds)
        if clean and spec.kind == "oneshot":
            running.become("active" if spec.remain else "inactive", "exited" if spec.remain else "dead")
            running.ready.set()
        running.ended.set()
        return clean, by_signal

    def _is_up(self, running: Running) -> None:
        running.become("active", "running")
        running.result = "success"
        running.ready.set()

    @contextlib.contextmanager
    def _notify_socket(self, running: Running) -> Iterator[dict[str, str]]:
        """For Type=notify: READY=1 on this socket makes the service active."""
        if running.spec.kind != "notify":
            yield {}
            return
        address = f"/run/systemd/notify-{running.name}"
        Path(address).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listener.bind(address)
        listener.setblocking(False)
        loop = asyncio.get_running_loop()

        def hear() -> None:
            with contextlib.suppress(BlockingIOError):
                if b"READY=1" in listener.recv(4096).splitlines():
                    self._is_up(running)

        loop.add_reader(listener, hear)
        try:
            yield {"NOTIFY_SOCKET": address}
        finally:
            loop.remove_reader(listener)
            listener.close()
            Path(address).unlink(missing_ok=True)

    async def stop(self, running: Running) -> None:
        """ExecStop, then the kill signal, then SIGKILL after TimeoutStopSec."""
        running.stopping = True
        keeper = running.keeper
        if keeper is None or keeper.done():
            if running.state == "active":  # A oneshot that remains.
                self._settle(running, "success")
            return
        if running.sub == "auto-restart":
            keeper.cancel()
            await asyncio.wait([keeper])
            self._settle(running, "success")
            return
        running.become("deactivating", "stop-sigterm")
        spec = running.spec
        if running.pid:
            with contextlib.suppress(Refused):
                await self._run_all(running, spec.stop, spec.stop_seconds)
        if running.pid:
            number = getattr(signal, spec.kill_signal)
            main_only = spec.kill_mode in ("mixed", "process")
            self.thaw(running)
            self._sweep(running.pid, number, main_only=main_only)
        limit = None if spec.stop_seconds == float("inf") else spec.stop_seconds
        done, _ = await asyncio.wait([keeper], timeout=limit)
        if not done:
            running.result = "timeout"
            self._sweep(running.pid, signal.SIGKILL)
            await asyncio.wait([keeper], timeout=10)

    async def reload(self, running: Running) -> None:
        if not running.spec.reload or not running.pid:
            raise Refused(f"Job type reload is not applicable for unit {running.name}.")
        await self._run_all(running, running.spec.reload, running.spec.start_seconds)

    def kill(self, running: Running, number: int, *, main_only: bool) -> None:
        if not running.pid:
            raise Refused(f"{running.name} has no process to kill")
        self._sweep(running.pid, number, main_only=main_only)

    def freeze(self, running: Running) -> None:
        if running.pid:
            running.frozen = True
            self._sweep(running.pid, signal.SIGSTOP)

    def thaw(self, running: Running) -> None:
        if running.frozen and running.pid:
            self._sweep(running.pid, signal.SIGCONT)
        running.frozen = False

    def _sweep(self, leader: int, number: int, *, main_only: bool = False) -> None:
        """Signal a service's main process, and unless main_only every process of its session."""
        targets = {leader} if main_only else {leader, *_session(leader)}
        for pid in targets:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _note(self, running: Running, text: str) -> None:
        with (JOURNAL / f"{running.name}.log").open("a") as file:
            file.write(f"systemd[1]: {running.name}: {text}\n")

    async def boot(self) -> None:
        """Start what is enabled, as multi-user.target would."""
        JOURNAL.mkdir(parents=True, exist_ok=True)
        for link in sorted(WANTS.iterdir()) if WANTS.is_dir() else []:
            with contextlib.suppress(Refused, unitfile.BadUnitFile):
                await self.start(self.load(link.name))


def _session(leader: int) -> list[int]:
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == leader:
                    members.append(int(entry.name))
    return members
