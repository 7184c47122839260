"""An action's parameters, checked against actions.yaml's schema as far as Juju users meet it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
}


class BadParameters(Exception):
    """The action does not exist or does not take these parameters."""


def parameters(actions: Mapping[str, Mapping[str, Any]], name: str, given: Mapping[str, str]) -> dict[str, Any]:
    """Typed parameters with defaults. `a.b=c` nests. Raises BadParameters."""
    if name not in actions:
        raise BadParameters(f'action "{name}" not defined; known: {", ".join(sorted(actions)) or "none"}')
    spec = actions[name] or {}
    properties: Mapping[str, Any] = spec.get("params") or {}
    values: dict[str, Any] = {k: p["default"] for k, p in properties.items() if "default" in p}
    for key, text in given.items():
        *path, last = key.split(".")
        inner = values
        for step in path:
            inner = inner.setdefault(step, {})
        kind = (properties.get(key) or {}).get("type")
        inner[last] = text if kind == "string" else yaml.safe_load(text)
    _check(name, spec, properties, values)
    return values


def _check(name: str, spec: Mapping[str, Any], properties: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    missing = [key for key in spec.get("required", []) if key not in values]
    if missing:
        raise BadParameters(f"action {name} needs {', '.join(missing)}")
    unknown = sorted(set(values) - set(properties))
    if unknown and spec.get("additionalProperties", True) is False:
        raise BadParameters(f"action {name} does not take {', '.join(unknown)}")
    for key, value in values.items():
        rule = properties.get(key) or {}
        types = _TYPES.get(rule.get("type", ""))
        wrong = types and (not isinstance(value, types) or (isinstance(value, bool) and bool not in types))
        if wrong:
            raise BadParameters(f"{key} must be {rule['type']}, got {value!r}")
        if "enum" in rule and value not in rule["enum"]:
            raise BadParameters(f"{key} must be one of {', '.join(map(str, rule['enum']))}, got {value!r}")
