"""An application's options: typed as config.yaml says, defaults filled in. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class BadOption(Exception):
    """An unknown option or a value of the wrong type."""


def parse(options: Mapping[str, Mapping[str, Any]], key: str, value: str) -> Any:
    """The typed value of `key=value` as typed by a person. Raises BadOption."""
    if key not in options:
        raise BadOption(f'unknown option "{key}"')
    kind = options[key].get("type", "string")
    try:
        match kind:
            case "int":
                return int(value)
            case "float":
                return float(value)
            case "boolean":
                return {"true": True, "false": False}[value.lower()]
            case "secret":
                if not value.startswith("secret:"):
                    raise ValueError
                return value
            case _:
                return value
    except (ValueError, KeyError):
        raise BadOption(f'option "{key}" expected {kind}, got {value!r}') from None


def effective(options: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What config-get shows: settings over defaults, without options that have neither."""
    values = {key: settings.get(key, spec.get("default")) for key, spec in options.items()}
    return {key: value for key, value in values.items() if value is not None}
