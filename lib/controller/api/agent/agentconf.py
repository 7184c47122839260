"""Flow 3, hop 4: the text of agent.conf, format 2.0 <-> what an agent needs of it. Pure.

The file is Juju's, and this module knows a part of its keys. So a change touches the lines of the keys that change,
and every other byte stays: unknown keys, their order, comments, the way somebody quoted a value.

The format has one flat list of addresses. Which of them belong to one controller (an agent's random order is fair to
controllers) and the newest epoch that was seen are kept in `values`, the format's own map for what has no key.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from controller.api import epoch, scopes
from controller.api.messages import Epoch
from controller.api.scopes import HostPort

FILE_NAME = "agent.conf"
FORMAT = (2, 0)

GROUPS = "api-address-groups"
EPOCH = "controller-epoch"

_FIRST_LINE = re.compile(r"# format (\d+)\.(\d+)[ \t]*\r?(?:\n|\Z)")
_TAG = re.compile(r"(?:machine|controller|model|unit|application)-[A-Za-z0-9][A-Za-z0-9/-]*")


class AgentConfError(Exception):
    """Base of what can be wrong with an agent.conf. The message is one sentence and holds no secret."""


class BadAgentConf(AgentConfError):
    """The text is no agent.conf that an agent can work with. The message names the key."""


class NewerFormat(AgentConfError):
    """The file is of a newer format than this version reads. It is left as it is: refresh this agent."""


class WouldStrand(AgentConfError):
    """The change would leave the agent without an address to dial. Nothing was changed."""


@dataclass(frozen=True)
class AgentConf:
    """One agent.conf. `text` is the whole file; the rest is what was read from it, "" for what is not there."""

    text: str = field(repr=False)
    tag: str
    controller: str
    model: str
    nonce: str
    cacert: str = field(repr=False)
    apiaddresses: tuple[HostPort, ...]
    apipassword: str = field(repr=False)
    oldpassword: str = field(repr=False)
    values: Mapping[str, str] = field(repr=False)
    _entries: Mapping[str, _Entry] = field(repr=False, compare=False)

    @property
    def controllers(self) -> tuple[tuple[HostPort, ...], ...]:
        """The addresses, those of one controller together; each by itself where that is not known."""
        sizes = [int(s) for s in self.values.get(GROUPS, "").split(",") if s.isascii() and s.isdigit()]
        if sum(sizes) != len(self.apiaddresses) or 0 in sizes:
            # Somebody else has written the list, and knows nothing of groups.
            return tuple((address,) for address in self.apiaddresses)
        ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
        return tuple(self.apiaddresses[end - size : end] for end, size in zip(ends, sizes, strict=True))

    @property
    def epoch(self) -> Epoch | None:
        """The newest epoch this agent has seen."""
        return epoch.parse(self.values.get(EPOCH, ""))


def parse(text: str) -> AgentConf:
    """Return what `text` says. Raises NewerFormat or BadAgentConf."""
    return _read(text, _entries(text))


def _read(text: str, entries: Mapping[str, _Entry]) -> AgentConf:
    values = _mapping(entries, "values")
    conf = AgentConf(
        text=text,
        tag=_scalar(entries, "tag"),
        controller=_scalar(entries, "controller"),
        model=_scalar(entries, "model"),
        nonce=_scalar(entries, "nonce"),
        cacert=_scalar(entries, "cacert"),
        apiaddresses=_addresses(entries),
        apipassword=_scalar(entries, "apipassword"),
        oldpassword=_scalar(entries, "oldpassword"),
        values=values,
        _entries=entries,
    )
    if not conf.tag:
        raise BadAgentConf("there is no tag: the file does not say whose it is")
    for key, tag in (("tag", conf.tag), ("controller", conf.controller), ("model", conf.model)):
        if tag and not _TAG.fullmatch(tag):
            raise BadAgentConf(f"{key}: {tag!r} is no tag")
    return conf


def new(
    tag: str,
    *,
    cacert: str,
    oldpassword: str,
    controllers: Iterable[Sequence[HostPort]],
    controller: str = "",
    model: str = "",
    epoch: Epoch | None = None,
) -> AgentConf:
    """Return the first file of an agent. Its password is one that somebody else knows: the agent makes its own.

    Raises WouldStrand without an address or an authority.
    """
    tags = {"tag": tag, "controller": controller, "model": model}
    text = "# format 2.0\n" + "".join(_dump(key, value) for key, value in tags.items() if value)
    conf = with_servers(with_authorities(parse(text), cacert), controllers)
    conf = with_passwords(conf, "", oldpassword)
    return conf if epoch is None else with_epoch(conf, epoch)


def with_servers(conf: AgentConf, controllers: Iterable[Sequence[HostPort]]) -> AgentConf:
    """Return the file with these addresses, one sequence a controller; `conf` itself where they are the same ones.

    One that two controllers have (a bridge of the same address on both) stands once, with the first of them.
    Raises WouldStrand when there is none.
    """
    owners: dict[HostPort, int] = {}
    for number, group in enumerate(controllers):
        for address in group:
            owners.setdefault(address, number)
    groups = tuple(tuple(a for a in owners if owners[a] == number) for number in sorted(set(owners.values())))
    if not groups:
        raise WouldStrand(f"the new list of {conf.tag} has no address; the last one stays")
    if frozenset(map(frozenset, groups)) == frozenset(map(frozenset, conf.controllers)):
        return conf
    sizes = ",".join(str(len(group)) for group in groups)
    addresses = [str(address) for group in groups for address in group]
    return _changed(conf, {"apiaddresses": addresses, "values": {**conf.values, GROUPS: sizes}})


def with_passwords(conf: AgentConf, password: str, old: str) -> AgentConf:
    """Return the file with this password, and the one to fall back to."""
    if (conf.apipassword, conf.oldpassword) == (password, old):
        return conf
    return _changed(conf, {"apipassword": password, "oldpassword": old})


def with_epoch(conf: AgentConf, newest: Epoch) -> AgentConf:
    """Return the file with the newest epoch seen."""
    if conf.epoch == newest:
        return conf
    return _changed(conf, {"values": {**conf.values, EPOCH: epoch.text_of(newest)}})


def with_authorities(conf: AgentConf, cacert: str) -> AgentConf:
    """Return the file with the authorities that a controller's certificate must come from. Raises WouldStrand."""
    if not cacert.strip():
        raise WouldStrand(f"without any authority {conf.tag} could trust no controller; the last ones stay")
    if conf.cacert.strip() == cacert.strip():
        return conf
    return _changed(conf, {"cacert": cacert})


@dataclass(frozen=True)
class _Entry:
    """A top-level key: where its lines begin and end, and its value as YAML composed it."""

    start: int
    end: int
    value: yaml.Node


def _entries(text: str) -> dict[str, _Entry]:
    first = _FIRST_LINE.match(text)
    if first is None:
        raise BadAgentConf("the first line is not `# format 2.0`")
    version = (int(first[1]), int(first[2]))
    if version > FORMAT:
        raise NewerFormat(f"format {first[1]}.{first[2]} is newer than the 2.0 this version reads: refresh this agent")
    if version < FORMAT:
        raise BadAgentConf(f"format {first[1]}.{first[2]} is older than the 2.0 this version reads")
    root = _compose(text)
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise BadAgentConf("not a mapping of keys to values, one a line")
    starts = [key.start_mark.index for key, _ in root.value]
    entries: dict[str, _Entry] = {}
    for (key, value), start, end in zip(root.value, starts, [*starts[1:], len(text)], strict=True):
        if not isinstance(key, yaml.ScalarNode):
            raise BadAgentConf(f"a key in line {key.start_mark.line + 1} is no text")
        if key.value in entries:
            raise BadAgentConf(f"{key.value} is there twice")
        entries[key.value] = _Entry(start, start + len(_without_what_follows(text[start:end])), value)
    return entries


def _compose(text: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        # Without the words of the error: they quote the file, and with it a password.
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise BadAgentConf(f"not YAML{line}: {error.problem or 'unreadable'}") from None
    except yaml.YAMLError:
        raise BadAgentConf("not YAML: it holds characters that no text has") from None
    except RecursionError:
        raise BadAgentConf("nested too deeply") from None


def _without_what_follows(lines: str) -> str:
    """Cut comments, blank lines and the end of the document off: they belong to no key."""
    kept = lines.splitlines(keepends=True)
    while len(kept) > 1 and (not kept[-1].strip() or kept[-1].startswith(("#", "..."))):
        kept.pop()
    return "".join(kept)


def _scalar(entries: Mapping[str, _Entry], key: str) -> str:
    return _text(entries[key].value, key) if key in entries else ""


def _text(node: yaml.Node, key: str) -> str:
    """Return a scalar as it is written: a password of digits is still a password, and an address no number."""
    if not isinstance(node, yaml.ScalarNode):
        raise BadAgentConf(f"{key} is no text")
    return "" if node.tag == "tag:yaml.org,2002:null" else str(node.value)


def _mapping(entries: Mapping[str, _Entry], key: str) -> dict[str, str]:
    node = entries[key].value if key in entries else None
    if node is None or (isinstance(node, yaml.ScalarNode) and not _text(node, key)):
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise BadAgentConf(f"{key} is no mapping of keys to values")
    return {_text(name, key): _text(value, key) for name, value in node.value}


def _addresses(entries: Mapping[str, _Entry]) -> tuple[HostPort, ...]:
    node = entries["apiaddresses"].value if "apiaddresses" in entries else None
    if node is None or (isinstance(node, yaml.ScalarNode) and not _text(node, "apiaddresses")):
        return ()
    if not isinstance(node, yaml.SequenceNode):
        raise BadAgentConf("apiaddresses is no list")
    try:
        return tuple(dict.fromkeys(scopes.hostport(_text(item, "apiaddresses")) for item in node.value))
    except ValueError as error:
        raise BadAgentConf(f"apiaddresses: {error}") from error


def _changed(conf: AgentConf, changes: Mapping[str, Any]) -> AgentConf:
    """Replace the lines of these keys, or add them at the end; read the result back before it is believed."""
    text, before = conf.text, conf._entries
    end = max(entry.end for entry in before.values())
    if not text[:end].endswith("\n"):  # The last line, as an editor may leave it.
        text += "\n"
        before = _entries(text)
        end += 1
    text = text[:end] + "".join(_dump(k, v) for k, v in changes.items() if k not in before) + text[end:]
    # From the last to the first, so that the places of those before stay.
    for key in sorted(changes.keys() & before.keys(), key=lambda k: before[k].start, reverse=True):
        text = text[: before[key].start] + _dump(key, changes[key]) + text[before[key].end :]
    after: Mapping[str, _Entry] = {}
    with contextlib.suppress(BadAgentConf):  # An alias has lost its anchor.
        after = _entries(text)
    if not _holds(after, before, changes):
        raise BadAgentConf(f"{', '.join(changes)} cannot be changed without touching other keys; write them plainly")
    return _read(text, after)


def _holds(after: Mapping[str, _Entry], before: Mapping[str, _Entry], changes: Mapping[str, Any]) -> bool:
    """Whether `after` has what `changes` say, what was there before for every other key, and nothing else."""
    wanted = {key: _entries(f"# format 2.0\n{_dump(key, value)}")[key].value for key, value in changes.items()}
    wanted = {**{key: entry.value for key, entry in before.items()}, **wanted}
    return list(after) == list(wanted) and all(_equal(after[key].value, wanted[key]) for key in wanted)


def _equal(one: yaml.Node, other: yaml.Node) -> bool:
    return yaml.serialize(one, Dumper=yaml.SafeDumper) == yaml.serialize(other, Dumper=yaml.SafeDumper)


class _Dumper(yaml.SafeDumper):
    """Quotes every text: what another YAML reader takes for a number or a date must stay text."""


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else '"')


_Dumper.add_representer(str, _quoted)


def _dump(key: str, value: Any) -> str:
    """Return the lines of one top-level key. The key itself stands as Juju writes it, without quotes."""
    dumped: str = yaml.dump({key: value}, Dumper=_Dumper, default_flow_style=False, sort_keys=False, width=4096)
    return key + dumped.removeprefix(f'"{key}"')
