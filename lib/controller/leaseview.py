"""The leases as one controller saw them last: their shape, and how a person reads them. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping

import msgspec

from controller.columns import columns

_SET = "(controllers)"


class BadLeases(ValueError):
    """The text is no list of leases. The message says what is wrong with it."""


class Lease(msgspec.Struct, frozen=True, rename="kebab"):
    """One lease. `holder` is a controller id, "" for nobody; `since` is Unix time, of the holder's wall clock."""

    namespace: str
    model: str
    name: str
    holder: str
    token: str
    since: int
    duration_seconds: float
    late_renewals: int


class Leases(msgspec.Struct, frozen=True, rename="kebab"):
    """What GET /leases answers."""

    holder: str
    leases: tuple[Lease, ...]
    seen_seconds_ago: float | None = None
    problem: str = ""


def parse(body: bytes) -> Leases:
    """Return the leases in the body of an answer. Raises BadLeases."""
    try:
        return msgspec.json.decode(body, type=Leases)
    except msgspec.DecodeError as error:
        raise BadLeases(f"controllerd answered something that is no list of leases: {error}") from error


def lines(leases: Leases, models: Mapping[str, str], cluster_uuid: str) -> Iterator[str]:
    """Yield what `hactl leases` prints. `models` are names by uuid.

    A lease that nobody holds, on a model that is gone, is left out: its row is about to be pruned.
    """
    names = {**models, cluster_uuid: _SET}
    shown = [lease for lease in leases.leases if lease.holder or lease.name in names]
    rows = (
        (
            names.get(lease.name, lease.name),
            lease.namespace,
            lease.holder or "nobody",
            lease.token,
            _time(lease.since),
            str(lease.late_renewals),
        )
        for lease in sorted(shown, key=lambda lease: (lease.namespace, names.get(lease.name, lease.name)))
    )
    yield from columns(("FOR", "NAMESPACE", "HOLDER", "TOKEN", "SINCE", "LATE RENEWALS"), rows)
    if leases.problem:
        yield ""
        yield f"as last seen: {leases.problem}"


def _time(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
