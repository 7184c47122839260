"""The engine's report: its shape, how a person reads it, and the exit code it stands for. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from controller import statusview
from controller.columns import columns

_FAILED = ("failed:", "fatal:")
_HEAD = ("WORKER", "STATE", "SINCE", "STARTS", "NOTE")


class BadReport(ValueError):
    """The text is no report. The message says what is wrong with it."""


class Manifold(msgspec.Struct, frozen=True, rename="kebab"):
    """One worker. `report` is its own, whatever that has."""

    state: str
    since: str = ""
    why: str = ""
    start_count: int = 0
    report: Any = None

    @property
    def failed(self) -> bool:
        return self.why.startswith(_FAILED)


class Plugin(msgspec.Struct, frozen=True):
    """One entry point, and why it is not used."""

    state: str
    source: str = ""
    why: str = ""


class Report(msgspec.Struct, frozen=True):
    """What GET /report answers; that of a model's engine has the same form, and the model's name."""

    state: str
    manifolds: dict[str, Manifold]
    plugins: dict[str, Plugin] = {}
    name: str = ""
    life: str = ""


def parse(body: bytes) -> Report:
    """Return the report in the body of an answer. Raises BadReport."""
    try:
        return msgspec.json.decode(body, type=Report)
    except msgspec.DecodeError as error:
        raise BadReport(f"controllerd answered something that is no report: {error}") from error


def models(report: Report) -> dict[str, Report]:
    """Return the reports of the engines of models, by uuid: the model-worker-manager's own report has them."""
    manager = report.manifolds.get("model-worker-manager")
    told = manager.report if manager is not None else None
    found = told.get("models", {}) if isinstance(told, Mapping) else {}
    try:
        return msgspec.convert(found, dict[str, Report])
    except msgspec.ValidationError as error:
        raise BadReport(f"the reports of the models are not understood: {error}") from error


def plugins(report: Report) -> dict[str, Plugin]:
    """Return the plugins of the controller and of its models, by name."""
    manager = report.manifolds.get("model-worker-manager")
    told = manager.report if manager is not None else None
    found = told.get("plugins", {}) if isinstance(told, Mapping) else {}
    return {**report.plugins, **{f"{n} (models)": p for n, p in msgspec.convert(found, dict[str, Plugin]).items()}}


def exit_code(report: Report) -> int:
    """Return 0, or 3 when a worker failed and waits to be started again, or a plugin is not used."""
    engines = (report, *models(report).values())
    failed = any(m.failed for engine in engines for m in engine.manifolds.values())
    refused = any(p.state != "in use" for p in plugins(report).values())
    return statusview.DEGRADED if failed or refused else statusview.HEALTHY


def lines(report: Report, now: datetime.datetime) -> Iterator[str]:
    """Yield what `hactl engine` prints: the controller's workers, each model's, and the plugins."""
    yield from _workers(report, now)
    for uuid, engine in sorted(models(report).items(), key=lambda item: item[1].name):
        yield ""
        yield f"model {engine.name} ({uuid}), {engine.life}"
        yield from _workers(engine, now)
    found = plugins(report)
    if found:
        yield ""
        rows = ((name, plugin.source, plugin.state, plugin.why) for name, plugin in sorted(found.items()))
        yield from columns(("PLUGIN", "SOURCE", "STATE", "WHY"), rows)


def _workers(report: Report, now: datetime.datetime) -> Iterator[str]:
    rows = (
        (name, m.state, statusview.age(m.since, now), str(m.start_count), m.why or _says(m.report))
        for name, m in sorted(report.manifolds.items())
    )
    return columns(_HEAD, rows)


def _says(report: Any) -> str:
    """Return what a flag that runs says, or a provisioner that leaves something alone; "" for any other worker."""
    match report:
        case {"holds": True, "token": str(token)}:
            return f"yes, by {token}"
        case {"holds": False}:
            return "no"
        case {"spared": dict(spared)}:
            return f"stops within ten minutes what no machine knows: {', '.join(map(str, spared.values()))}"
        case _:
            return ""
