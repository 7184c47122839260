"""Flow 1, hop 3 to 4: the text of controller.conf -> a checked, frozen ControllerConf.

This module owns the format (see docs/flows/1-bind-address.md). The charm, which writes the file, imports it to parse
back what it rendered; the dbaccessor worker, which reads the file, imports it for the same function. So the two ends
cannot disagree.

The file is the data and the socket is only the nudge: `ConfReader` may be asked at any time, keeps the last good
configuration when a new one is torn, ill-typed or older, and says what is wrong with the new one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import yaml

FILE_NAME = "controller.conf"
SCHEMA = 1

# A file that the charm wrote is a few kilobytes. Anything of this size is not ours, and is not worth the memory.
_MAX_BYTES = 1 << 20


# The space of whatever lies in no subnet that somebody gave a space.
DEFAULT_SPACE: Final = "alpha"
_SPACE: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class BadConf(ValueError):
    """The text is not a valid controller configuration. The message is one sentence that names the key."""


class ManagementSpace(msgspec.Struct, frozen=True, rename="kebab"):
    """The space whose addresses agents are sent to, and its subnets: those that the units' network-get names."""

    name: str
    subnets: tuple[str, ...] = ()


class ControllerConf(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """One published controller configuration, as seen by one controller.

    `db_bind_addresses` maps controller ids to numeric IP addresses without a port. `generation` rises with every
    change of what it covers: all keys but the advice (see docs/decisions) and the keys that belong to this controller
    alone (`controller_id`, the ports, the latency, `tls`, `application`).

    The advice is the newest state of the cluster that any member told its charm: `db_voters`, and the epoch's number,
    term and index of the last entry of that member's log then (0: not known).

    `management_space` is there where the charm's option sets one: then the space is the charm's, and nobody else's.

    `application` is what Juju calls the charm here, "" where no charm says: for the remedies in our messages.

    `tls` is "required", or "off" where every address is of this machine alone: nothing between machines is in clear.
    """

    controller_id: str
    generation: int
    schema: int = SCHEMA
    cluster_uuid: str = ""
    bootstrap_controller: str = ""
    bootstrapped: bool = False
    db_bind_addresses: dict[str, str] = {}
    db_unresolved: tuple[str, ...] = ()
    departed: tuple[str, ...] = ()
    db_voters: tuple[str, ...] = ()
    db_last_index: int = 0
    db_last_term: int = 0
    db_epoch: int = 0
    dqlite_port: int = 17666
    api_port: int = 17070
    network_latency_ms: int = 10
    tls: Literal["required", "off"] = "required"
    management_space: ManagementSpace | None = None
    application: str = ""
    extra: dict[str, Any] = {}

    @property
    def own_address(self) -> str | None:
        """The address this controller is to bind, or None while it has none."""
        return self.db_bind_addresses.get(self.controller_id)

    @property
    def others(self) -> dict[str, str]:
        """The other controllers that have an address: id -> IP."""
        return {i: a for i, a in self.db_bind_addresses.items() if i != self.controller_id}

    def covered(self) -> tuple[object, ...]:
        """What `generation` numbers: two configurations of one generation must agree in this."""
        return (
            self.cluster_uuid,
            self.bootstrap_controller,
            self.bootstrapped,
            self.db_bind_addresses,
            tuple(sorted(self.db_unresolved)),
            tuple(sorted(self.departed)),
            # Nothing where there is none: code that does not know of spaces must count such a one as the same.
            *(() if self.management_space is None else (msgspec.to_builtins(self.management_space),)),
        )


_KNOWN = {f.encode_name for f in msgspec.structs.fields(ControllerConf)} - {"extra"}


def parse(text: str) -> ControllerConf:
    """Return the configuration that `text` holds. Unknown keys are kept in `extra`.

    Raises BadConf, in one sentence, for anything else than a complete and consistent configuration.
    """
    document = _load(text)
    schema = document.get("schema", SCHEMA)
    if isinstance(schema, int) and schema > SCHEMA:
        raise BadConf(f"schema {schema} is newer than the {SCHEMA} this version reads: refresh this unit")
    known = {k: v for k, v in document.items() if k in _KNOWN}
    extra = {k: v for k, v in document.items() if k not in _KNOWN}
    if known.get("tls") is False:  # What YAML makes of an `off` without quotes.
        known["tls"] = "off"
    try:
        conf = msgspec.convert({**known, "extra": extra}, ControllerConf)
    except msgspec.ValidationError as error:
        raise BadConf(str(error)) from error
    _check(conf)
    return conf


def successor_problem(old: ControllerConf | None, new: ControllerConf) -> str | None:
    """Say in one sentence why `new` must not replace `old`, or return None when it may."""
    if old is None:
        return None
    if new.controller_id != old.controller_id:
        return f"controller-id changed from {old.controller_id} to {new.controller_id} under a running controller"
    if new.generation < old.generation:
        return f"generation went backwards, from {old.generation} to {new.generation}"
    if new.generation == old.generation and new.covered() != old.covered():
        return f"generation {new.generation} came again with other content"
    return None


class ConfReader:
    """The last good configuration of one file, and what is wrong with the file now.

    `floor` is the highest generation this controller ever accepted; a lower one is refused even after a restart.
    """

    def __init__(self, path: Path, *, floor: int = 0) -> None:
        self.path = path
        self.conf: ControllerConf | None = None
        self.problem: str | None = None
        self._floor = floor
        self._text: str | None = None

    def read(self) -> bool:
        """Look at the file. Return whether `conf` or `problem` changed. Never raises."""
        before = (self.conf, self.problem)
        try:
            text = self._read_text()
        except FileNotFoundError:
            self._text = None
            self.problem = None if self.conf is None else f"{self.path} is gone; the last good one stays in force"
        except (OSError, UnicodeDecodeError) as error:
            self._text = None
            self.problem = f"{self.path} cannot be read: {error}"
        else:
            if text != self._text:
                self._text = text
                self._accept(text)
        return (self.conf, self.problem) != before

    def _read_text(self) -> str:
        with self.path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise OSError(f"larger than {_MAX_BYTES} bytes")
        return raw.decode()

    def _accept(self, text: str) -> None:
        try:
            new = parse(text)
        except BadConf as error:
            self.problem = f"{self.path} is not valid ({error}); the last good one stays in force"
            return
        if new.generation < self._floor:
            problem: str | None = f"generation {new.generation} is older than {self._floor}, which was already seen"
        else:
            problem = successor_problem(self.conf, new)
        if problem is not None:
            self.problem = f"{self.path} is refused: {problem}"
            return
        self.conf, self.problem = new, None


def space_problem(name: str) -> str:
    """Say in one sentence why no space can have this name, "" when one can."""
    if _SPACE.fullmatch(name):
        return ""
    return f"{name!r} is no name of a space: lower case letters, digits and single hyphens"


def own_space_problem(name: str) -> str:
    """As space_problem, for a space that is to have subnets of its own."""
    if name == DEFAULT_SPACE:
        return f"{name!r} has no subnets of its own: it is whatever lies in no other space; choose another name"
    return space_problem(name)


def is_loopback(address: str) -> bool:
    """Whether what is sent to this IP address never leaves the machine."""
    ip = ipaddress.ip_address(address)
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback


def _load(text: str) -> Mapping[str, Any]:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadConf(f"not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:  # PyYAML descends by calling itself.
        raise BadConf("nested too deeply") from error
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        # Its constructors (dates, tagged numbers) raise whatever they stumble over.
        raise BadConf(f"a value cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise BadConf("not a mapping of keys to values")
    for key in document:
        if not isinstance(key, str):
            raise BadConf(f"key {key!r} is not text")
    return document


def _check(conf: ControllerConf) -> None:
    if conf.schema < 1 or min(conf.generation, conf.db_last_index, conf.db_last_term, conf.db_epoch) < 0:
        raise BadConf("schema, generation, db-last-index, db-last-term and db-epoch must not be negative")
    if not conf.controller_id:
        raise BadConf("controller-id is empty")
    for key, port in (("dqlite-port", conf.dqlite_port), ("api-port", conf.api_port)):
        if not 1 <= port <= 65535:
            raise BadConf(f"{key} is {port}, which is not a port")
    if not 1 <= conf.network_latency_ms <= 10_000:
        raise BadConf(f"network-latency-ms is {conf.network_latency_ms}, not between 1 and 10000")
    owners: dict[str, str] = {}
    for controller_id, address in conf.db_bind_addresses.items():
        try:
            ip = str(ipaddress.ip_address(address))
        except ValueError as error:
            raise BadConf(f"db-bind-addresses: {address!r} of controller {controller_id} is no IP address") from error
        if ip in owners:
            raise BadConf(f"db-bind-addresses: controllers {owners[ip]} and {controller_id} both have {ip}")
        owners[ip] = controller_id
        if conf.tls == "off" and not is_loopback(address):
            raise BadConf(f"tls is off, and {address} of controller {controller_id} is no loopback address: remove tls")
    for key, ids in (("db-unresolved", conf.db_unresolved), ("departed", conf.departed)):
        both = sorted(set(ids) & set(conf.db_bind_addresses))
        if both:
            raise BadConf(f"controller {both[0]} is both in db-bind-addresses and in {key}")
    if conf.management_space is not None:
        _check_space(conf.management_space)


def _check_space(space: ManagementSpace) -> None:
    if problem := own_space_problem(space.name):
        raise BadConf(f"management-space: {problem}")
    for subnet in space.subnets:
        try:
            ipaddress.ip_network(subnet)
        except ValueError as error:
            raise BadConf(f"management-space: {subnet!r} is no subnet: {error}") from error
