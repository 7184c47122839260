"""What hactl asks about machines and settings, on control.socket."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from controller.answering import Nothing, Route
from controller.controllerconfig import ControllerConfig
from controller.workers.machinemessages import Added, Answer, Changed, Enrolled, Listed, Removed, Retried, Shown
from controller.workers.machines import Machine
from controller.workers.machineservice import Machines
from dbaccessor import errors


async def _list(machines: Machines, wanted: Listed) -> Answer:
    return _answer(await machines.all(wanted.model))


async def _add(machines: Machines, wanted: Added) -> Answer:
    return _answer(await machines.add(wanted.model, wanted.uuids, manual=wanted.manual))


async def _remove(machines: Machines, wanted: Removed) -> Answer:
    if not wanted.numbers:
        raise errors.Refused("which machines?")
    return _answer(await machines.remove(wanted.model, wanted.numbers))


async def _retry(machines: Machines, wanted: Retried) -> Answer:
    if not wanted.numbers:
        raise errors.Refused("which machines?")
    return _answer(await machines.retry(wanted.model, wanted.numbers))


async def _enrol(machines: Machines, wanted: Enrolled) -> dict[str, str]:
    return {"agent-conf": await machines.enrol(wanted.model, wanted.number)}


async def _settings(config: ControllerConfig, _: Nothing) -> dict[str, Any]:
    return {"settings": await config.all()}


async def _set(config: ControllerConfig, wanted: Changed) -> dict[str, Any]:
    await config.set({wanted.key: wanted.value})
    return {"settings": {wanted.key: wanted.value}}


def _answer(found: Iterable[Machine]) -> Answer:
    return Answer(
        tuple(
            Shown(
                *(m.number, m.uuid, m.state.value, m.reason, m.manual, m.attempts, m.retry_seconds),
                *(m.instance, m.address),
            )
            for m in found
        )
    )


ROUTES = (
    Route("POST", "/machines", "machines", Machines, _list, Listed),
    Route("POST", "/machines/add", "machines", Machines, _add, Added),
    Route("POST", "/machines/remove", "machines", Machines, _remove, Removed),
    Route("POST", "/machines/retry", "machines", Machines, _retry, Retried),
    Route("POST", "/machines/enrol", "machines", Machines, _enrol, Enrolled),
    Route("GET", "/controller-config", "controller-config", ControllerConfig, _settings),
    Route("POST", "/controller-config", "controller-config", ControllerConfig, _set, Changed),
)
