"""systemd's service files: text -> Service, for the settings a charm's service uses. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)\s*")
_UNITS = {
    **dict.fromkeys(("us", "usec"), 1e-6),
    **dict.fromkeys(("ms", "msec"), 1e-3),
    **dict.fromkeys(("", "s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
}


class BadUnitFile(Exception):
    """The service cannot be run; the text says why."""


@dataclass(frozen=True)
class Command:
    argv: tuple[str, ...]
    may_fail: bool


@dataclass(frozen=True)
class Service:
    name: str
    description: str
    kind: str = "simple"  # simple, exec, notify, oneshot
    start: tuple[Command, ...] = ()
    start_pre: tuple[Command, ...] = ()
    start_post: tuple[Command, ...] = ()
    stop: tuple[Command, ...] = ()
    stop_post: tuple[Command, ...] = ()
    reload: tuple[Command, ...] = ()
    restart: str = "no"
    restart_seconds: float = 0.1
    stop_seconds: float = 90.0
    start_seconds: float = 90.0
    kill_signal: str = "SIGTERM"
    kill_mode: str = "control-group"
    remain: bool = False
    folder: str = "/"
    environment: Mapping[str, str] = field(default_factory=dict)
    environment_files: tuple[tuple[str, bool], ...] = ()  # (path, may be missing)
    limits: Mapping[str, int] = field(default_factory=dict)
    umask: int = 0o022
    nice: int | None = None
    user: str = ""
    state_folders: tuple[str, ...] = ()
    run_folders: tuple[str, ...] = ()
    limit_interval: float = 10.0
    limit_burst: int = 5
    exit_ok: frozenset[int] = frozenset()
    wanted_by: tuple[str, ...] = ()

    def restarts_after(self, *, clean: bool, by_signal: bool, timed_out: bool) -> bool:
        """systemd's table of Restart= against the way the main process ended."""
        match self.restart:
            case "always":
                return True
            case "on-success":
                return clean
            case "on-failure":
                return not clean
            case "on-abnormal":
                return (by_signal and not clean) or timed_out
            case "on-abort":
                return by_signal and not clean
            case _:
                return False


def parse(name: str, text: str) -> Service:
    """Raises BadUnitFile for what systemd would refuse, or for what is not supported here."""
    entries = _entries(text)

    def last(section: str, key: str, default: str = "") -> str:
        return next((v for s, k, v in reversed(entries) if (s, k) == (section, key)), default)

    def every(key: str, section: str = "Service") -> list[str]:
        values: list[str] = []
        for s, k, v in entries:
            if (s, k) == (section, key):
                values = [*values, v] if v else []  # An empty assignment clears the list, as in systemd.
        return values

    def commands(key: str) -> tuple[Command, ...]:
        return tuple(_command(v) for v in every(key))

    kind = last("Service", "Type", "simple")
    if kind not in ("simple", "exec", "notify", "oneshot"):
        raise BadUnitFile(f"{name}: Type={kind} is not supported by localjuju")
    start = commands("ExecStart")
    if not start:
        raise BadUnitFile(f"{name}: Service has no ExecStart= setting. Refusing.")
    environment: dict[str, str] = {}
    for line in every("Environment"):
        environment.update(w.partition("=")[::2] for w in shlex.split(line))
    stop_timeout = last("Service", "TimeoutStopSec") or last("Service", "TimeoutSec", "90")
    start_timeout = last("Service", "TimeoutStartSec") or last("Service", "TimeoutSec", "90")
    return Service(
        name=name,
        description=last("Unit", "Description", name),
        kind=kind,
        start=start,
        start_pre=commands("ExecStartPre"),
        start_post=commands("ExecStartPost"),
        stop=commands("ExecStop"),
        stop_post=commands("ExecStopPost"),
        reload=commands("ExecReload"),
        restart=last("Service", "Restart", "no"),
        restart_seconds=seconds(last("Service", "RestartSec", "100ms")),
        stop_seconds=seconds(stop_timeout),
        start_seconds=seconds(start_timeout),
        kill_signal=last("Service", "KillSignal", "SIGTERM"),
        kill_mode=last("Service", "KillMode", "control-group"),
        remain=_truth(last("Service", "RemainAfterExit", "no")),
        folder=last("Service", "WorkingDirectory", "/"),
        environment=environment,
        environment_files=tuple((v.lstrip("-"), v.startswith("-")) for v in every("EnvironmentFile")),
        limits=_limits(entries),
        umask=int(last("Service", "UMask", "0022"), 8),
        nice=_nice(last("Service", "Nice")),
        user=last("Service", "User"),
        state_folders=tuple(w for v in every("StateDirectory") for w in v.split()),
        run_folders=tuple(w for v in every("RuntimeDirectory") for w in v.split()),
        limit_interval=seconds(last("Unit", "StartLimitIntervalSec", "10s")),
        limit_burst=int(last("Unit", "StartLimitBurst", "5")),
        exit_ok=frozenset(int(w) for v in every("SuccessExitStatus") for w in v.split() if w.isdigit()),
        wanted_by=tuple(w for v in every("WantedBy", "Install") for w in v.split()),
    )


def seconds(text: str) -> float:
    """A systemd time span: `5`, `100ms`, `1min 30s`, `infinity`."""
    text = text.strip()
    if text == "infinity":
        return float("inf")
    total, rest = 0.0, text
    while rest:
        match = _SPAN.match(rest)
        if match is None or match[2] not in _UNITS:
            raise BadUnitFile(f"{text!r} is not a time span")
        total += float(match[1]) * _UNITS[match[2]]
        rest = rest[match.end() :]
    return total


def expand(argv: tuple[str, ...], environment: Mapping[str, str]) -> list[str]:
    """`${NAME}` inside a word is replaced; a word that is `$NAME` becomes as many words as its value has."""
    words: list[str] = []
    for word in argv:
        if re.fullmatch(r"\$\w+", word):
            words.extend(environment.get(word[1:], "").split())
        else:
            words.append(re.sub(r"\$\{(\w+)\}", lambda m: environment.get(m[1], ""), word).replace("$$", "$"))
    return words


def environment_file(text: str) -> dict[str, str]:
    """An EnvironmentFile's assignments."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, found, value = line.strip().partition("=")
        if found and not key.startswith(("#", ";")):
            values[key.strip()] = " ".join(shlex.split(value))
    return values


def _entries(text: str) -> list[tuple[str, str, str]]:
    section, entries = "", []
    for raw in re.sub(r"\\\n", " ", text).splitlines():
        line = raw.strip()
        if not line or line.startswith(("#", ";")):
            continue
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
            continue
        key, found, value = line.partition("=")
        if not found:
            raise BadUnitFile(f"not an assignment: {line!r}")
        entries.append((section, key.strip(), value.strip()))
    return entries


def _command(line: str) -> Command:
    bare = line.lstrip("-@:+!")
    argv = tuple(shlex.split(bare))
    if not argv or not argv[0].startswith("/"):
        raise BadUnitFile(f"not an absolute path: {line!r}")
    return Command(argv, "-" in line[: len(line) - len(bare)])


def _limits(entries: list[tuple[str, str, str]]) -> dict[str, int]:
    limits: dict[str, int] = {}
    for section, key, value in entries:
        if section == "Service" and key.startswith("Limit"):
            first = value.partition(":")[0]
            limits["RLIMIT_" + key.removeprefix("Limit")] = -1 if first == "infinity" else int(first)
    return limits


def _nice(text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"[+-]?\d+", text) or not -20 <= int(text) <= 19:
        raise BadUnitFile(f"Nice={text} is not a whole number from -20 to 19")
    return int(text)


def _truth(text: str) -> bool:
    return text.lower() in ("yes", "true", "on", "1")
