"""One process a hook: its environment, exactly as Juju sets it, and the run itself with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Sequence

from localjuju.hookcontext import HookContext
from localjuju.host import Host

JUJU_VERSION = "3.6.11"


def environment(context: HookContext, host: Host, dispatch_path: str) -> dict[str, str]:
    """Nothing of the daemon's own environment is in it: OPERATOR_DISPATCH, say, would make ops exit 0 at once."""
    model, unit, hook, action = context.model, context.unit, context.hook, context.action
    values = {
        "PATH": f"{host.tools_inside}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "DEBIAN_FRONTEND": "noninteractive",
        "JUJU_DISPATCH_PATH": dispatch_path,
        "JUJU_HOOK_NAME": hook.name if hook else "",
        "JUJU_UNIT_NAME": unit.name,
        "JUJU_MODEL_NAME": model.name,
        "JUJU_MODEL_UUID": model.uuid,
        "JUJU_VERSION": JUJU_VERSION,
        "JUJU_CHARM_DIR": host.charm_inside,
        "CHARM_DIR": host.charm_inside,
        "JUJU_MACHINE_ID": str(unit.machine),
        "JUJU_PRINCIPAL_UNIT": "",
        "JUJU_AVAILABILITY_ZONE": "",
        "JUJU_METER_STATUS": "AMBER",
        "JUJU_CONTEXT_ID": context.id,
        "JUJU_AGENT_SOCKET_ADDRESS": "/var/lib/juju/agent.socket",
        "JUJU_AGENT_SOCKET_NETWORK": "unix",
    }
    if hook and hook.relation_id is not None:
        values |= {
            "JUJU_RELATION": hook.endpoint,
            "JUJU_RELATION_ID": f"{hook.endpoint}:{hook.relation_id}",
            "JUJU_REMOTE_APP": hook.remote_app,
            "JUJU_REMOTE_UNIT": hook.remote_unit,
        }
        if hook.departing_unit:
            values["JUJU_DEPARTING_UNIT"] = hook.departing_unit
    if hook and hook.secret_id:
        tracked = model.secrets.secrets.get(hook.secret_id)
        values |= {
            "JUJU_SECRET_ID": f"secret:{hook.secret_id}",
            "JUJU_SECRET_LABEL": _label(context, hook.secret_id) if tracked else "",
        }
        if hook.secret_revision:
            values["JUJU_SECRET_REVISION"] = str(hook.secret_revision)
    if action:
        values |= {"JUJU_ACTION_NAME": action.name, "JUJU_ACTION_UUID": action.id}
    return values


def _label(context: HookContext, secret_id: str) -> str:
    secret = context.model.secrets.secrets[secret_id]
    tracking = secret.trackers.get(context.unit.name)
    return (tracking.label if tracking else "") or (
        secret.label if secret.owner in (context.unit.name, context.unit.app) else ""
    )


async def run(
    argv: Sequence[str], env: dict[str, str], say: Callable[[bool, str], None], timeout_seconds: float
) -> int | None:
    """Run to its end; each line it prints goes to say(is_stderr, line).

    Returns the exit code (negative for a signal), or None if it was too slow and got killed.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=1024 * 1024,
    )
    assert process.stdout
    assert process.stderr
    readers = [
        asyncio.create_task(_lines(process.stdout, functools.partial(say, False))),
        asyncio.create_task(_lines(process.stderr, functools.partial(say, True))),
    ]
    code: int | None = None
    try:
        async with asyncio.timeout(timeout_seconds):
            code = await process.wait()
    except TimeoutError:
        pass
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        # A child left in the background may keep the pipes open for ever; what came until now is enough.
        _, late = await asyncio.wait(readers, timeout=1)
        for reader in late:
            reader.cancel()
    return code


async def _lines(stream: asyncio.StreamReader, say: Callable[[str], None]) -> None:
    while True:
        try:
            line = await stream.readline()
        except ValueError:  # A line longer than the limit: it is dropped, the rest goes on.
            continue
        if not line:
            return
        say(line.decode(errors="replace").rstrip("\n"))
