"""One unit's agent, as Juju's: boots the host, runs a hook at a time, retries a failed one, ends with the unit."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import signal
from collections import deque
from dataclasses import dataclass, field

from localjuju import charmfiles, events, hookrun, hooktools, toolwire
from localjuju import home as homes
from localjuju.debuglog import DebugLog
from localjuju.hookcontext import ActionRun, HookContext, ToolError
from localjuju.host import Host, HostFailed
from localjuju.model import Model, Refused, Unit


@dataclass
class Job:
    """An action or a juju-exec command that waits for its turn among the hooks."""

    action: ActionRun | None
    command: str
    done: asyncio.Future[tuple[int, str, str]]
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)


_MOST_JOBS = 100
# What is killed along with its host ends a moment before the host is known to be gone.
_GOING_DOWN_SECONDS = 0.5


class Agent:
    """Owns the unit's host while it runs. run() returns when the unit has left in order."""

    def __init__(self, model: Model, unit: Unit, host: Host, log: DebugLog) -> None:
        self.unit = unit
        self.host = host
        self._model = model
        self._log = log
        self._tools = hooktools.Tools(log)
        self._poked = asyncio.Event()
        self._jobs: deque[Job] = deque()
        self._context: HookContext | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._reboot_wanted = False

    def poke(self) -> None:
        """Something changed somewhere: look again."""
        self._poked.set()

    def retry_now(self) -> None:
        self._retry_at = 0.0
        self.poke()

    def submit(self, job: Job) -> None:
        """Queue it. Raises Refused when too much waits already."""
        if len(self._jobs) >= _MOST_JOBS:
            raise Refused(f"{_MOST_JOBS} actions and commands wait on {self.unit.name} already")
        self._jobs.append(job)
        self.poke()

    async def run(self) -> None:
        """Boot and serve the unit until it is removed; boot again whenever the host goes down."""
        try:
            while True:
                await self._boot()
                work = asyncio.create_task(self._work())
                down = asyncio.create_task(self.host.wait_down())
                try:
                    await asyncio.wait({work, down}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    await stop(work, down)
                if self.unit.seen.removed:
                    return
                if not work.cancelled() and (error := work.exception()) is not None:
                    raise error
                self.unit.alive = False
                self._log.add(self.unit.name, "WARNING", "machine", "host went down; booting it again")
                await self.host.kill()
                self.unit.seen.reboot()
                self._reboot_wanted = False
        finally:
            self.unit.alive = False
            for job in self._jobs:
                if not job.done.done():
                    job.done.set_result((1, "", f"ERROR {self.unit.name} went away\n"))

    async def _boot(self) -> None:
        unit, host = self.unit, self.host
        if not host.charm_folder.exists():
            host.charm_folder.parent.mkdir(parents=True, exist_ok=True)
            charmfiles.install(self._model.apps[unit.app].charm, host.charm_folder)
        while True:
            try:
                await host.boot()
                break
            except HostFailed as error:
                # Said in the status, tried again: a machine that does not come up is not a reason to hang.
                unit.agent = self._model.status("error", str(error))
                self._log.add(unit.name, "ERROR", "machine", str(error))
                self._model.touch()
                await asyncio.sleep(1)
        unit.alive = True
        if not unit.seen.installed:
            unit.workload = self._model.status("waiting", "agent initialising")
        self._idle()

    async def _work(self) -> None:
        server = await toolwire.serve(homes.listen(self.host.agent_socket), self._answer)
        async with server:
            while not self.unit.seen.removed and not self._reboot_wanted:
                self._poked.clear()
                if not await self._step():
                    await self._wait()

    async def _step(self) -> bool:
        """Do the next thing. False when there is nothing to do now."""
        unit, seen = self.unit, self.unit.seen
        facts = self._model.facts(unit)
        events.stand_down(seen, facts)
        if self._jobs and (seen.started or seen.failed or unit.dying):
            await self._run_job(self._jobs.popleft(), facts)
            return True
        hook = events.next_hook(seen, facts)
        if hook is None:
            if unit.dying and not seen.installed:
                seen.removed = True
                return True
            return False
        if seen.failed is not None and asyncio.get_running_loop().time() < self._retry_at:
            return False
        await self._run_hook(hook, facts)
        return True

    async def _wait(self) -> None:
        timeout = None
        if self.unit.seen.failed is not None:
            timeout = max(0.01, self._retry_at - asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(timeout):
                await self._poked.wait()
        except TimeoutError:
            pass

    # Hooks

    async def _run_hook(self, hook: events.Hook, facts: events.Facts) -> None:
        unit, model, settings = self.unit, self._model, self._model.settings
        if hook.kind == "install":
            unit.workload = model.status("maintenance", "installing charm software")
        if hook.kind == "upgrade-charm":
            charmfiles.install(model.apps[unit.app].charm, self.host.charm_folder)
        # From here on it counts as begun: whatever interrupts it, the same hook is next again.
        unit.seen.failed = hook
        unit.agent = model.status("executing", f"running {hook.name} hook")
        model.touch()
        context = HookContext(_context_id(unit, hook.name), model, unit, facts, hook=hook)
        problem = await self._execute(context, f"hooks/{hook.name}", settings.hook_seconds)
        self._reboot_wanted = bool(context.reboot)
        if context.reboot == "now":
            return  # Not done: nothing is written, and the same hook runs again after the boot.
        if problem is None:
            try:
                context.commit()
            except ToolError as error:
                problem = str(error)
        if problem is not None:
            self._failures += 1
            delay = min(settings.retry_seconds * 2 ** (self._failures - 1), settings.retry_most_seconds)
            self._retry_at = asyncio.get_running_loop().time() + delay
            unit.hook_error = f'hook failed: "{hook.name}"'
            unit.error_since = model.clock()
            text = f'hook "{hook.name}" failed: {problem}; trying again in {delay:.0f} s'
            self._log.add(unit.name, "ERROR", "operation", text)
        else:
            self.settle(hook, facts)
        self._idle()

    def settle(self, hook: events.Hook, facts: events.Facts) -> None:
        """The charm was told (or `resolve --no-retry` says so)."""
        unit = self.unit
        events.commit(unit.seen, hook, facts)
        self._failures, self._retry_at, unit.hook_error = 0, 0.0, ""
        if hook.kind == "install":
            self._model.enter_scope(unit)
        if hook.kind == "relation-broken" and hook.relation_id is not None:
            self._model.leave_scope(unit, hook.relation_id)
        if hook.kind == "start" and unit.workload.message == "installing charm software":
            unit.workload = self._model.status("unknown")
        self.poke()

    def _idle(self) -> None:
        self.unit.agent = self._model.status("idle")
        self._model.touch()

    async def _execute(
        self, context: HookContext, dispatch_path: str, timeout_seconds: float, job: Job | None = None
    ) -> str | None:
        """Run the charm's entry point. Returns None, or what went wrong."""
        host, unit = self.host, self.unit
        name = context.hook.name if context.hook else dispatch_path.partition("/")[2]
        entry = "dispatch" if (host.charm_folder / "dispatch").exists() else dispatch_path
        if not (host.charm_folder / entry).exists():
            return None  # A charm without that hook: Juju skips it.

        def say(is_error: bool, line: str) -> None:
            self._log.add(unit.name, "WARNING" if is_error else "INFO", name, line)
            if job:
                (job.err if is_error else job.out).append(line)

        env = hookrun.environment(context, host, dispatch_path)
        self._context = context
        try:
            argv = host.enter([f"{host.charm_inside}/{entry}"], host.charm_inside)
            code = await hookrun.run(argv, env, say, timeout_seconds)
        except HostFailed as error:
            return str(error)
        finally:
            self._context = None
        if code is None:
            return f"it took longer than {timeout_seconds:.0f} s and was killed"
        if code == -signal.SIGKILL:
            # Perhaps not by somebody, but with the whole host: then this is about to be cancelled, and until then
            # nothing else must be tried on it.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GOING_DOWN_SECONDS):
                    await asyncio.Event().wait()
        if code:
            return f"exit status {code}" if code > 0 else f"killed by signal {-code}"
        return None

    # Actions and juju-exec

    async def _run_job(self, job: Job, facts: events.Facts) -> None:
        if job.done.done():
            return  # Whoever asked is gone.
        try:
            await self._do_job(job, facts)
        finally:
            if not job.done.done():  # Its host went down in the middle.
                job.done.set_result((1, "", f"ERROR {self.unit.name} went down\n"))

    async def _do_job(self, job: Job, facts: events.Facts) -> None:
        unit, model = self.unit, self._model
        what = f"action {job.action.name}" if job.action else "juju-exec commands"
        unit.agent = model.status("executing", f"running {what}")
        model.touch()
        name = job.action.name if job.action else "juju-exec"
        context = HookContext(_context_id(unit, name), model, unit, facts, action=job.action)
        problem: str | None
        if job.action:
            problem = await self._execute(context, f"actions/{job.action.name}", model.settings.hook_seconds, job)
        else:
            problem = await self._run_command(job, context)
        if problem is None:
            try:
                context.commit()
            except ToolError as error:
                problem = str(error)
        self._idle()
        if problem:
            self._log.add(unit.name, "ERROR", "operation", f"{what} failed: {problem}")
        code = 0 if problem is None else int(problem.rpartition(" ")[2]) if problem.startswith("exit status") else 1
        if not job.done.done():
            tail = f"ERROR {problem}\n" if problem and not problem.startswith("exit status") else ""
            job.done.set_result((code, _text(job.out), _text(job.err) + tail))

    async def _run_command(self, job: Job, context: HookContext) -> str | None:
        """The words of a juju-exec, read by a shell as Juju does, in a context of this unit."""

        def say(is_error: bool, line: str) -> None:
            (job.err if is_error else job.out).append(line)

        env = hookrun.environment(context, self.host, "")
        del env["JUJU_DISPATCH_PATH"]
        limit = self._model.settings.hook_seconds
        self._context = context
        try:
            argv = self.host.enter(["/bin/bash", "-c", job.command], self.host.charm_inside)
            code = await hookrun.run(argv, env, say, limit)
        except HostFailed as error:
            return str(error)
        finally:
            self._context = None
        if code is None:
            return f"it took longer than {limit:.0f} s and was killed"
        return None if code == 0 else f"exit status {code if code > 0 else 128 - code}"

    async def _answer(self, call: toolwire.Call) -> toolwire.Answer:
        """A hook command, or juju-exec from anywhere on this host."""
        if call.name in ("juju-exec", "juju-run"):
            return await self._juju_exec(call)
        if self._context is None or call.context != self._context.id:
            return toolwire.Answer(1, "", f'ERROR bad request: bad context: unknown context ID "{call.context}"\n')
        return self._tools.run(self._context, call)

    async def _juju_exec(self, call: toolwire.Call) -> toolwire.Answer:
        if call.context:
            return toolwire.Answer(1, "", "ERROR juju-exec cannot be called from within a hook, have context\n")
        words, unit = list(call.arguments), ""
        while words and words[0].startswith("-"):
            option, _, value = words.pop(0).partition("=")
            if option in ("--no-context", "--force-remote-unit", "--"):
                continue
            value = value or (words.pop(0) if words else "")
            if option in ("-u", "--unit"):
                unit = value
            else:
                return toolwire.Answer(2, "", f"ERROR juju-exec {option} is not supported by localjuju\n")
        if not unit and words and "/" in words[0] and not words[0].startswith("/"):
            unit = words.pop(0)  # The old form: juju-run <unit> <commands>.
        if unit and unit.replace("unit-", "").replace("/", "-") != self.unit.name.replace("/", "-"):
            return toolwire.Answer(1, "", f"ERROR unit {unit} not found on this machine\n")
        if not words:
            return toolwire.Answer(2, "", "ERROR missing commands\n")
        done = asyncio.get_running_loop().create_future()
        try:
            self.submit(Job(None, " ".join(words), done))
            async with asyncio.timeout(self._model.settings.hook_seconds * 2):
                code, out, err = await done
        except Refused as error:
            return toolwire.Answer(1, "", f"ERROR {error}\n")
        except TimeoutError:
            return toolwire.Answer(1, "", f"ERROR {self.unit.name} did not get to it in time\n")
        return toolwire.Answer(code, out, err)

    async def bury(self) -> None:
        """Remove the host and its disk."""
        await self.host.kill()
        for folder in (self.host.disk, self.host.volatile):
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def stop(*tasks: asyncio.Task[None]) -> None:
    """Cancel until they have ended. Once may not do: a cancellation can get lost where a wait ends at that moment."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=1)


def _context_id(unit: Unit, name: str) -> str:
    return f"{unit.name}-{name}-{secrets.token_hex(8)}"


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
