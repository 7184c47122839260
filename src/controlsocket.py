"""Flow 1, hop 3, the answer's way: what controllerd says of itself on control.socket -> typed values.

Reading never fails a hook: a controllerd that does not answer is `None`, and the unit's status says so.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import msgspec

from dbaccessor import confsocket

logger = logging.getLogger(__name__)

_SOCKET = "control.socket"
LEAVE_TIMEOUT_SECONDS = 40.0
REBUILD_TIMEOUT_SECONDS = 70.0
SERVING_TIMEOUT_SECONDS = 20.0
REGISTRATION_TIMEOUT_SECONDS = 25.0
_POLL_SECONDS = 0.2
# A member without a leader for longer is past any election: no hook should wait for that.
LEADERLESS_SECONDS = 1.0


class Epoch(msgspec.Struct, frozen=True):
    number: int = 0
    tag: str = ""


class Wait(msgspec.Struct, frozen=True):
    reason: str = ""
    remedy: str = ""


class Member(msgspec.Struct, frozen=True, rename="kebab"):
    controller_id: str = ""
    role: str = ""
    leader: bool = False
    answers: bool = False
    here: bool = False


class Cluster(msgspec.Struct, frozen=True, rename="kebab"):
    uuid: str = ""
    epoch: Epoch = Epoch()
    leader: str | None = None
    health: str = ""
    ha: bool = False
    may_lose: int = 0
    advice: str = ""
    dropped: tuple[str, ...] = ()
    members: tuple[Member, ...] = ()


class Conf(msgspec.Struct, frozen=True):
    generation: int = 0
    problem: str | None = None


class Status(msgspec.Struct, frozen=True, rename="kebab"):
    """The part of /status that the charm shows. `raw` is all of it."""

    state: str = ""
    reason: str = ""
    dqlite_version: str = ""
    dqlite_proven: bool = True
    waits: tuple[Wait, ...] = ()
    conf: Conf | None = None
    cluster: Cluster | None = None
    address_notes: tuple[str, ...] = ()
    raw: str = ""

    @property
    def serves(self) -> bool:
        """Whether this node is a member of a cluster that has a leader."""
        return self.state == "serving" and self.cluster is not None and self.cluster.leader is not None

    @property
    def is_leaderless(self) -> bool:
        """Whether this node is a member, and runs, of a cluster that has no leader."""
        return self.state in ("serving", "waiting") and self.cluster is not None and self.cluster.leader is None


def status(state_dir: Path) -> Status | None:
    body = _get(state_dir, "/status")
    if body is None:
        return None
    try:
        return msgspec.structs.replace(msgspec.json.decode(body, type=Status), raw=body.decode())
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        logger.warning("controllerd's status cannot be read: %s", error)
        return None


def db_state(state_dir: Path) -> str | None:
    """Return what the node says of its cluster, verbatim; None while it is no member or silent."""
    body = _get(state_dir, "/db-state")
    return None if body is None else body.decode(errors="replace").strip() or None


def wait_until_serving(state_dir: Path) -> Status | None:
    """Return the status as soon as the node serves with a leader, or the last one at the deadline.

    A member that has no leader is not waited for much longer than an election takes: its quorum may be lost, and then
    the configuration that helps comes with the very hooks that would have to wait for this one.
    """
    deadline = time.monotonic() + SERVING_TIMEOUT_SECONDS
    leaderless_since: float | None = None
    while True:
        seen, now = status(state_dir), time.monotonic()
        if (seen is not None and seen.serves) or now >= deadline:
            return seen
        if seen is None or not seen.is_leaderless:
            leaderless_since = None
        elif leaderless_since is None:
            leaderless_since = now
        elif now - leaderless_since >= LEADERLESS_SECONDS:
            return seen
        time.sleep(_POLL_SECONDS)


def leave(state_dir: Path) -> str:
    """Ask the node to leave its cluster. Return one sentence on what came of it; a failure is not fatal."""
    try:
        code, body = confsocket.request(state_dir / _SOCKET, "POST", "/leave", timeout_seconds=LEAVE_TIMEOUT_SECONDS)
        answer = msgspec.json.decode(body, type=dict[str, object]) if code == 200 else {}
    except (confsocket.NoSocket, confsocket.SocketTimeout) as error:
        return f"{'may not have left' if error.sent else 'did not leave'} the cluster: {error}"
    except msgspec.DecodeError as error:
        return f"may not have left the cluster: its answer cannot be read: {error}"
    if answer.get("left") is True:
        return f"left the cluster: {answer.get('reason', '')}"
    return f"did not leave the cluster: {answer.get('reason') or f'status {code}'}"


class NotRebuilt(Exception):
    """The cluster stays as it is; the message says why, and what to do instead."""


def rebuild(state_dir: Path, *, force: bool) -> str:
    """Make this unit's node the only member of its cluster. Return what was done. Raises NotRebuilt."""
    wanted = msgspec.json.encode({"force": force})
    path = state_dir / _SOCKET
    try:
        code, body = confsocket.request(path, "POST", "/rebuild", wanted, timeout_seconds=REBUILD_TIMEOUT_SECONDS)
        answer = msgspec.json.decode(body, type=dict[str, object]) if code == 200 else {}
    except (confsocket.Torn, confsocket.SocketTimeout, msgspec.DecodeError) as error:
        raise NotRebuilt(f"what came of it is not known ({error}): see `hactl status`") from error
    except confsocket.NoSocket as error:
        raise NotRebuilt(f"{error}: see `journalctl -u ha-controller`") from error
    reason = str(answer.get("reason") or f"controllerd answered {code}")
    if answer.get("done") is not True:
        raise NotRebuilt(reason)
    return reason


class NotOpened(Exception):
    """There is no registration; the message says why."""


def open_registration(state_dir: Path, user: str) -> str:
    """Return the string with which this user sets her password, once. Raises NotOpened."""
    wanted = msgspec.json.encode({"user": user})
    try:
        code, body = confsocket.request(
            state_dir / _SOCKET, "POST", "/registration", wanted, timeout_seconds=REGISTRATION_TIMEOUT_SECONDS
        )
        answer = msgspec.json.decode(body, type=dict[str, object])
    except confsocket.NoSocket as error:
        raise NotOpened(f"{error}: see `journalctl -u ha-controller`") from error
    except (confsocket.SocketTimeout, msgspec.DecodeError) as error:
        raise NotOpened(f"controllerd gave no answer that can be used: {error}") from error
    text = answer.get("registration")
    if code != 200 or not isinstance(text, str):
        raise NotOpened(str(answer.get("reason") or f"controllerd answered {code}"))
    return text


def _get(state_dir: Path, target: str) -> bytes | None:
    try:
        code, body = confsocket.request(state_dir / _SOCKET, "GET", target)
    except (confsocket.NoSocket, confsocket.SocketTimeout) as error:
        logger.debug("controllerd: %s", error)
        return None
    return body if code == 200 else None
