"""systemctl and journalctl on a unit: arguments -> what the supervisor does -> text and exit code as systemd's."""

from __future__ import annotations

import signal
import time

from localjuju import supervisor, toolwire, unitfile

_SWITCHES = {
    "--quiet",
    "-q",
    "--now",
    "--no-pager",
    "--no-block",
    "--value",
    "--system",
    "--full",
    "-l",
    "--no-legend",
    "-f",
    "--force",
}


class Systemctl:
    """Answers the calls of one unit's systemctl and journalctl."""

    def __init__(self, services: supervisor.Supervisor) -> None:
        self._services = services

    async def answer(self, call: toolwire.Call) -> toolwire.Answer:
        values: dict[str, str] = {}
        words: list[str] = []
        arguments = list(call.arguments)
        switches: set[str] = set()
        while arguments:
            word = arguments.pop(0)
            if word in _SWITCHES:
                switches.add(word)
            elif word.startswith("--"):
                key, found, value = word.partition("=")
                values[key] = value if found or not arguments else arguments.pop(0)
            elif word.startswith("-") and len(word) > 1:
                values[word[:2]] = word[2:] or (arguments.pop(0) if arguments else "")
            else:
                words.append(word)
        try:
            if call.name == "journalctl":
                return self._journal(values)
            return await self._verb(words, values, switches)
        except (supervisor.Refused, unitfile.BadUnitFile, OSError) as error:
            code = 5 if "not found" in str(error) else 1
            return toolwire.Answer(code, "", f"{error}\n")

    async def _verb(self, words: list[str], values: dict[str, str], switches: set[str]) -> toolwire.Answer:
        verb, names = (words[0] if words else "list-units"), words[1:]
        match verb:
            case "daemon-reload" | "daemon-reexec":
                self._services.forget_files()
                return toolwire.Answer()
            case "list-units":
                rows = [f"{s.name} loaded {s.state} {s.sub} {s.spec.description}\n" for s in self._all()]
                return toolwire.Answer(0, "".join(rows))
            case "is-system-running":
                return toolwire.Answer(0, "running\n")
            case "is-active" | "is-failed" | "is-enabled":
                return self._ask(verb, names, quiet=bool(switches & {"--quiet", "-q"}))
            case "show":
                return self._show(names, values, bare="--value" in switches)
            case "status":
                return self._status(names)
        if not names:
            return toolwire.Answer(1, "", "Too few arguments.\n")
        out = ""
        for name in names:
            out += await self._act(verb, name, values, now="--now" in switches)
        return toolwire.Answer(0, "", out)

    async def _act(self, verb: str, name: str, values: dict[str, str], *, now: bool) -> str:
        manage = self._services
        name = name if "." in name else name + ".service"
        path = supervisor.UNIT_FOLDER / name
        match verb:
            case "mask":
                path.unlink(missing_ok=True)
                path.symlink_to("/dev/null")
                manage.forget_files()
                return ""
            case "unmask":
                if path.is_symlink():
                    path.unlink()
                manage.forget_files()
                return ""
            case "disable":
                (supervisor.WANTS / name).unlink(missing_ok=True)
                if now:
                    await manage.stop(manage.load(name))
                return ""
            case _:
                service = manage.load(name)
        match verb:
            case "start":
                await manage.start(service)
            case "stop":
                await manage.stop(service)
            case "restart" | "try-restart" | "reload-or-restart":
                if verb != "try-restart" or service.state == "active":
                    await manage.stop(service)
                    await manage.start(service)
            case "enable":
                supervisor.WANTS.mkdir(parents=True, exist_ok=True)
                link = supervisor.WANTS / name
                if not link.is_symlink():
                    link.symlink_to(path)
                if now:
                    await manage.start(service)
            case "reload":
                await manage.reload(service)
            case "reset-failed":
                service.starts.clear()
                if service.state == "failed":
                    service.become("inactive", "dead")
                    service.result = "success"
            case "kill":
                whom = values.get("--kill-whom") or values.get("--kill-who") or "all"
                number = values.get("-s") or values.get("--signal") or "SIGTERM"
                manage.kill(service, _signal(number), main_only=whom == "main")
            case "freeze":
                manage.freeze(service)
            case "thaw":
                manage.thaw(service)
            case _:
                raise supervisor.Refused(f"Unknown command verb {verb} (localjuju's systemctl).")
        return ""

    def _all(self) -> list[supervisor.Running]:
        return [self._services.services[n] for n in sorted(self._services.services)]

    def _find(self, name: str) -> supervisor.Running | None:
        try:
            return self._services.load(name)
        except (supervisor.Refused, unitfile.BadUnitFile):
            return None

    def _ask(self, verb: str, names: list[str], *, quiet: bool) -> toolwire.Answer:
        states = []
        for name in names:
            service = self._find(name)
            if verb == "is-enabled":
                full = name if "." in name else name + ".service"
                if not (supervisor.UNIT_FOLDER / full).exists() and not (supervisor.WANTS / full).is_symlink():
                    states.append("not-found")
                else:
                    states.append("enabled" if (supervisor.WANTS / full).is_symlink() else "disabled")
            else:
                states.append(service.state if service else "inactive")
        wanted = {"is-active": "active", "is-failed": "failed", "is-enabled": "enabled"}[verb]
        code = 0 if wanted in states else {"is-active": 3, "is-failed": 1, "is-enabled": 1}[verb]
        return toolwire.Answer(code, "" if quiet else "".join(s + "\n" for s in states))

    def _show(self, names: list[str], values: dict[str, str], *, bare: bool) -> toolwire.Answer:
        wanted = [w for k in ("-p", "--property") for w in values.get(k, "").split(",") if w]
        out = ""
        for name in names:
            s = self._find(name)
            full = name if "." in name else name + ".service"
            properties = {
                "Id": full,
                "LoadState": "loaded" if s else "not-found",
                "ActiveState": s.state if s else "inactive",
                "SubState": s.sub if s else "dead",
                "Result": s.result if s else "success",
                "MainPID": str(s.pid if s else 0),
                "NRestarts": str(s.restarts if s else 0),
                "ExecMainStatus": str(abs(s.exit_code) if s else 0),
                "FreezerState": "frozen" if s and s.frozen else "running",
                "UnitFileState": self._ask("is-enabled", [full], quiet=False).out.strip(),
                "Description": s.spec.description if s else full,
            }
            for key in wanted or properties:
                if key in properties:
                    out += f"{properties[key]}\n" if bare else f"{key}={properties[key]}\n"
        return toolwire.Answer(0, out)

    def _status(self, names: list[str]) -> toolwire.Answer:
        out, code = "", 0
        for name in names:
            s = self._services.load(name)
            since = time.strftime("%a %Y-%m-%d %H:%M:%S UTC", time.gmtime(s.since))
            enabled = self._ask("is-enabled", [s.name], quiet=False).out.strip()
            out += (
                f"* {s.name} - {s.spec.description}\n"
                f"     Loaded: loaded ({supervisor.UNIT_FOLDER / s.name}; {enabled})\n"
                f"     Active: {s.state} ({s.sub}) since {since}\n"
            )
            if s.pid:
                out += f"   Main PID: {s.pid}\n"
            out += "".join(f"{line}\n" for line in _tail(s.name, 10))
            code = code or (0 if s.state == "active" else 3)
        return toolwire.Answer(code, out)

    def _journal(self, values: dict[str, str]) -> toolwire.Answer:
        name = values.get("-u") or values.get("--unit") or ""
        name = name if "." in name else name + ".service"
        count = int(values.get("-n") or values.get("--lines") or 1000)
        return toolwire.Answer(0, "".join(f"{line}\n" for line in _tail(name, count)))


def _tail(name: str, count: int) -> list[str]:
    try:
        return (supervisor.JOURNAL / f"{name}.log").read_text(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        return []


def _signal(text: str) -> int:
    if text.isdigit():
        return int(text)
    return int(getattr(signal, text if text.startswith("SIG") else f"SIG{text}"))
