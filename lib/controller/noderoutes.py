"""What hactl, the charm and Prometheus ask of the node and the engine: handlers of the two sockets, on their threads.

They work whatever state the node is in: before there is a configuration, without a quorum, and while it stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

import msgspec
from prometheus_client.metrics_core import Metric

from controller.answering import as_json
from dbaccessor import metrics
from dbaccessor.confsocket import Handler, Response
from dbaccessor.preamble import Outcome
from dbaccessor.worker import Worker

STATUS_SCHEMA = 1

_LEAVE_LIMIT_SECONDS = 35.0
_STATUS_LIMIT_SECONDS = 5.0
_REBUILD_LIMIT_SECONDS = 60.0


class _Rebuild(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    force: bool = False


class NodeRoutes:
    """The routes of one daemon. `facts` stand in the status document; `report` and `counted` are the engine's.

    `address_notes` returns what is to be known of where agents are sent, as last seen here. `leave` gives up what is
    held here, and then leaves the cluster.
    """

    def __init__(
        self,
        worker: Worker,
        loop: asyncio.AbstractEventLoop,
        facts: dict[str, Any],
        report: Callable[[], dict[str, Any]],
        counted: Callable[[], Iterable[Metric]],
        address_notes: Callable[[], Iterable[str]],
        leave: Callable[[], Coroutine[Any, Any, Outcome]],
    ) -> None:
        self._worker = worker
        self._loop = loop
        self._facts = facts
        self._report = report
        self._counted = counted
        self._address_notes = address_notes
        self._leave_in_order = leave

    def configchange(self) -> dict[tuple[str, str], Handler]:
        """The routes of configchange.socket."""
        return {("POST", "/reload"): self._reload, ("GET", "/agent-id"): self._agent_id}

    def control(self) -> dict[tuple[str, str], Handler]:
        """The routes of control.socket."""
        return {
            ("GET", "/healthz"): lambda _: (200, "text/plain", b"ok\n"),
            ("GET", "/status"): lambda _: as_json(self._call(self.status(), _STATUS_LIMIT_SECONDS)),
            ("GET", "/report"): lambda _: as_json(self._call(self.report(), _STATUS_LIMIT_SECONDS)),
            ("GET", "/metrics"): self._metrics,
            ("GET", "/db-state"): self._db_state,
            ("POST", "/leave"): self._leave,
            ("POST", "/rebuild"): self._rebuild,
        }

    async def status(self) -> dict[str, Any]:
        """Return the status document of docs/reference/status.md."""
        notes = list(self._address_notes())
        return {"schema": STATUS_SCHEMA, **self._facts, **self._worker.status(), "address-notes": notes}

    async def report(self) -> dict[str, Any]:
        """Return the engine's report (docs/reference/metrics.md)."""
        return self._report()

    async def metrics(self) -> tuple[str, bytes]:
        """Return the metrics, and what type of text they are."""
        status, counted = await self._seen()
        return metrics.CONTENT_TYPE, self._worker.metrics.text(status, counted)

    def unwell(self) -> str:
        """Return why this controller does not serve, "" while it does."""
        status = self._worker.status()
        return "" if status["state"] == "serving" else f"{status['state']}: {status['reason']}"

    def _reload(self, _: bytes) -> Response:
        self._worker.nudge()
        return 204, "text/plain", b""

    def _agent_id(self, _: bytes) -> Response:
        controller_id = str(self._call(self.status(), _STATUS_LIMIT_SECONDS)["controller-id"])
        if not controller_id:
            return 404, "text/plain", b"there is no controller configuration yet\n"
        return 200, "application/text", controller_id.encode()

    def _db_state(self, _: bytes) -> Response:
        state = self._worker.charm_news.db_state
        if state is None:
            return 404, "text/plain", b"this node is no member of a cluster\n"
        return as_json(msgspec.to_builtins(state))

    def _metrics(self, _: bytes) -> Response:
        return 200, *self._call(self.metrics(), _STATUS_LIMIT_SECONDS)

    async def _seen(self) -> tuple[dict[str, Any], tuple[Metric, ...]]:
        return await self.status(), tuple(self._counted())

    def _leave(self, _: bytes) -> Response:
        try:
            outcome = self._call(self._leave_in_order(), _LEAVE_LIMIT_SECONDS)
        except FutureTimeout:
            return as_json({"left": False, "reason": f"not done within {_LEAVE_LIMIT_SECONDS:g} s"})
        return as_json({"left": outcome.done, "reason": outcome.reason})

    def _rebuild(self, body: bytes) -> Response:
        try:
            wanted = msgspec.json.decode(body or b"{}", type=_Rebuild)
        except msgspec.DecodeError as error:
            return 400, "text/plain", f"{error}\n".encode()
        try:
            outcome = self._call(self._worker.rebuild(wanted.force), _REBUILD_LIMIT_SECONDS)
        except FutureTimeout:
            # It is not called off: a change of epoch that is half done has to go on.
            reason = (
                f"not done within {_REBUILD_LIMIT_SECONDS:g} s, and it may go on; hactl status says what came of it"
            )
            return as_json({"done": False, "reason": reason})
        return as_json({"done": outcome.done, "reason": outcome.reason})

    def _call(self, work: Coroutine[Any, Any, Any], limit_seconds: float) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=limit_seconds)
