"""A hook command's arguments and output: options taken apart as Juju's own parser does, values shown in its formats."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from localjuju.hookcontext import ToolError


@dataclass(frozen=True)
class Options:
    """An argument list taken apart: options with a value, switches, and the rest."""

    values: dict[str, str]
    switches: frozenset[str]
    rest: tuple[str, ...]

    def get(self, *names: str) -> str:
        return next((self.values[n] for n in names if n in self.values), "")


_SWITCHES = {"--app", "--refresh", "--peek", "--include-data", "--now", "--all", "--strict"}


def take_apart(arguments: Sequence[str]) -> Options:
    """Split options from words. `--` ends the options; `--name=value` and `--name value` are the same."""
    values: dict[str, str] = {}
    switches: set[str] = set()
    rest: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if word == "--":
            rest.extend(words)
            break
        if word in _SWITCHES:
            switches.add(word)
        elif word.startswith("-") and word != "-" and "=" in word:
            name, _, value = word.partition("=")
            if name in _SWITCHES:
                switches.update({name} if value.lower() == "true" else ())
            else:
                values[name] = value
        elif word.startswith("-") and word != "-":
            if not words:
                raise ToolError(f"option needs an argument: {word}")
            values[word] = words.pop(0)
        else:
            rest.append(word)
    return Options(values, frozenset(switches), tuple(rest))


def show(options: Options, value: Any) -> str:
    """A value in the format asked for; Juju's "smart" default prints text bare and anything else as YAML."""
    match options.get("--format") or "smart":
        case "json":
            return json.dumps(value, sort_keys=True) + "\n"
        case "smart" if value is None:
            return ""
        case "smart" if isinstance(value, str):
            return value + "\n"
        case "smart" if isinstance(value, bool):
            return f"{value}\n"
        case _:
            return yaml.safe_dump(value)


def pairs(words: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for word in words:
        key, found, value = word.partition("=")
        if not found or not key:
            raise ToolError(f'expected "key=value", got "{word}"')
        pairs[key] = value
    return pairs
