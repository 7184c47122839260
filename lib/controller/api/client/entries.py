"""Flow 3, hop 5: the shape of controllers.yaml and accounts.yaml, and what a login changes in them. Pure.

The formats are those of Juju's own client, so that python-libjuju reads them as they are. Keys that are not known here
are kept: another version, or another program, may need them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import yaml

from controller.api.messages import Epoch, Servers

_MOST_ENDPOINTS = 100
_NO_EPOCH = Epoch()


class BadStore(ValueError):
    """A file of the store does not hold what it should. The message is one sentence."""


@dataclass(frozen=True)
class Entry:
    """One cluster of controllers as this client knows it. The first endpoint is the one that answered last."""

    uuid: str
    api_endpoints: tuple[str, ...]
    ca_cert: str
    epoch: Epoch = _NO_EPOCH
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Account:
    """Who this client is there. Without a password it must be asked for."""

    user: str
    password: str = ""
    last_known_access: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Controllers:
    """The content of controllers.yaml. `current`: the name that a command uses which is told no other."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    current: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Accounts:
    """The content of accounts.yaml: the name of a controller -> who we are there."""

    entries: Mapping[str, Account] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


class _Entry(msgspec.Struct, rename="kebab", kw_only=True):
    uuid: str
    api_endpoints: tuple[str, ...] = ()
    ca_cert: str = ""
    epoch: Epoch = Epoch()


class _Account(msgspec.Struct, rename="kebab", kw_only=True):
    user: str
    password: str = ""
    last_known_access: str = ""


def parse_controllers(text: str) -> Controllers:
    """Return what controllers.yaml says. An empty file says nothing. Raises BadStore."""
    document, rest = _document(text)
    current = rest.pop("current-controller", "")
    entries = {
        name: Entry(e.uuid, e.api_endpoints, e.ca_cert, e.epoch, extra) for name, (e, extra) in _each(document, _Entry)
    }
    return Controllers(entries, current if isinstance(current, str) else "", rest)


def parse_accounts(text: str) -> Accounts:
    """Return what accounts.yaml says. An empty file says nothing. Raises BadStore."""
    document, rest = _document(text)
    entries = {
        name: Account(e.user, e.password, e.last_known_access, extra) for name, (e, extra) in _each(document, _Account)
    }
    return Accounts(entries, rest)


def render_controllers(controllers: Controllers) -> str:
    """Return the text of controllers.yaml."""
    document: dict[str, Any] = {"controllers": {n: _entry(e) for n, e in sorted(controllers.entries.items())}}
    if controllers.current:
        document["current-controller"] = controllers.current
    return _dump({**document, **controllers.extra})


def render_accounts(accounts: Accounts) -> str:
    """Return the text of accounts.yaml."""
    found = {}
    for name, account in sorted(accounts.entries.items()):
        known = {
            "user": account.user,
            "password": account.password,
            "last-known-access": account.last_known_access,
        }
        found[name] = {**{k: v for k, v in known.items() if v or k == "user"}, **account.extra}
    return _dump({"controllers": found, **accounts.extra})


def after_login(
    entry: Entry, servers: Servers, connected: str, epoch: Epoch | None, *, ca_cert: str = "", **told: str
) -> Entry:
    """Return what is to be remembered of a cluster after it let us in at the endpoint `connected` (host:port).

    The last good endpoint stands first, whatever order the controllers publish, and stays even if they do not publish
    it: it worked. Nothing published changes nothing else. `ca_cert` replaces the authorities that are trusted: after a
    controller was lost, the one that signed for it is trusted no more. `told`: further keys (with - for _) and what the
    login said. Addresses that mean each machine itself are left out, unless that is where we were let in.
    """
    local = _is_of_the_machine(connected)
    published = [
        str(address)
        for addresses in servers
        for address in addresses
        if address.scope != "link-local" and (local or not _is_of_the_machine(str(address)))
    ]
    wanted = dict.fromkeys([connected, *(published or entry.api_endpoints)])
    extra = {**entry.extra, **{key.replace("_", "-"): value for key, value in told.items() if value}}
    return replace(
        entry,
        api_endpoints=tuple(wanted)[:_MOST_ENDPOINTS],
        ca_cert=ca_cert or entry.ca_cert,
        epoch=max(entry.epoch, epoch or entry.epoch, key=lambda e: e.number),
        extra=extra,
    )


def _is_of_the_machine(endpoint: str) -> bool:
    host = endpoint.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _document(text: str) -> tuple[Mapping[object, Any], dict[str, Any]]:
    """Return the mapping under `controllers` and everything beside it."""
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise BadStore(f"it is not YAML ({' '.join(str(error).split())})") from error
    found = {} if found is None else found
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise BadStore("it is not a mapping of names to values")
    rest = dict(found)
    below = rest.pop("controllers", None)
    if below is None:
        below = {}
    if not isinstance(below, dict):
        raise BadStore("controllers is not a mapping of names to values")
    return below, rest


def _each(document: Mapping[object, Any], kind: type[Any]) -> Iterable[tuple[str, tuple[Any, dict[str, Any]]]]:
    known = {f.encode_name for f in msgspec.structs.fields(kind)}
    for name, value in document.items():
        if not isinstance(name, str) or not isinstance(value, dict):
            raise BadStore(f"the controller {name!r} is not a mapping of names to values")
        # Juju writes null for what it does not know.
        told = {k: v for k, v in value.items() if k in known and v is not None}
        try:
            yield name, (msgspec.convert(told, kind), {k: v for k, v in value.items() if k not in known})
        except msgspec.ValidationError as error:
            raise BadStore(f"the controller {name}: {error}") from error


def _entry(entry: Entry) -> dict[str, Any]:
    known: dict[str, Any] = {
        "uuid": entry.uuid,
        "api-endpoints": _Flow(entry.api_endpoints),
        "ca-cert": entry.ca_cert,
    }
    if entry.epoch != _NO_EPOCH:
        known["epoch"] = msgspec.to_builtins(entry.epoch)
    return {**known, **entry.extra}


class _Flow(list[str]):
    """A list in one line, as Juju writes its endpoints."""


class _Dumper(yaml.SafeDumper):
    """Long texts as blocks, lists of endpoints in one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _flow(dumper: _Dumper, value: _Flow) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)


def _text(dumper: _Dumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(_Flow, _flow)
_Dumper.add_representer(str, _text)


def _dump(document: Mapping[str, Any]) -> str:
    return yaml.dump(dict(document), Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=4096)
