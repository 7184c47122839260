"""Other people's workers: packages that offer manifolds by an entry-point group. See docs/how-to/write-a-worker.md.

| group | the entry point is | its manifolds join |
|---|---|---|
| `ha_controller.manifolds` | a function without arguments that returns Manifolds | the controller's table |
| `ha_controller.model_manifolds` | a function of a Model that returns Manifolds | the table of each model |

A plugin that cannot be used, for whatever reason, is left out as a whole, logged, and named in the report with the
reason. It never keeps the controller from running.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final

from controller.engine import EngineError, Manifold, Manifolds
from controller.engine.manifold import check

log = logging.getLogger(__name__)

CONTROLLER_GROUP: Final = "ha_controller.manifolds"
MODEL_GROUP: Final = "ha_controller.model_manifolds"


@dataclass
class _Plugin:
    """One entry point. `make` is None when it could not even be imported; `why` says what is wrong, "" for nothing."""

    name: str
    source: str
    make: Callable[..., Any] | None = None
    why: str = ""
    manifolds: tuple[str, ...] = ()
    told: str = ""


class Plugins:
    """The plugins of one group, imported once."""

    def __init__(self, group: str, entry_points: Iterable[metadata.EntryPoint] | None = None) -> None:
        found = metadata.entry_points(group=group) if entry_points is None else entry_points
        self._group = group
        self._plugins = [_load(entry_point) for entry_point in sorted(found, key=lambda e: (e.name, e.value))]
        for plugin in self._plugins:
            if plugin.why:
                self._tell(plugin)

    def merge(self, table: Manifolds, *arguments: object) -> dict[str, Manifold]:
        """Return the table with the manifolds of every plugin that fits into it; each gets the arguments.

        A plugin may need what another one offers, in any order.
        """
        merged = dict(table)
        waiting = [(plugin, offered) for plugin in self._plugins if (offered := self._make(plugin, arguments))]
        while waiting:
            still = [(plugin, offered) for plugin, offered in waiting if not self._fits(plugin, offered, merged)]
            if len(still) == len(waiting):
                for plugin, _ in still:
                    self._tell(plugin)
                break
            waiting = still
        return merged

    def report(self) -> dict[str, dict[str, Any]]:
        """Return what became of each plugin, by its name."""
        return {
            plugin.name: {
                "source": plugin.source,
                "state": "refused" if plugin.why else "in use",
                "manifolds": list(plugin.manifolds),
                **({"why": plugin.why} if plugin.why else {}),
            }
            for plugin in self._plugins
        }

    def _make(self, plugin: _Plugin, arguments: tuple[object, ...]) -> dict[str, Manifold] | None:
        if plugin.make is None:
            return None
        try:
            offered = plugin.make(*arguments)
            if not isinstance(offered, Mapping) or not all(
                isinstance(name, str) and isinstance(manifold, Manifold) for name, manifold in offered.items()
            ):
                raise TypeError(f"it returned {type(offered).__name__}, not names with their Manifold")
            return dict(offered)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - Whatever somebody else's code raises ends only itself.
            plugin.why = _sentence(error)
            self._tell(plugin, error)
            return None

    def _tell(self, plugin: _Plugin, error: BaseException | None = None) -> None:
        """Log why a plugin is not used: once, though it is asked for every model."""
        if plugin.why != plugin.told:
            plugin.told = plugin.why
            log.error("%s %s is not used: %s", self._group, plugin.name, plugin.why, exc_info=error)

    @staticmethod
    def _fits(plugin: _Plugin, offered: dict[str, Manifold], merged: dict[str, Manifold]) -> bool:
        """Put the manifolds into `merged` if they fit, all of them; else say in the plugin why they do not."""
        taken = sorted(set(offered) & set(merged))
        try:
            if taken:
                raise EngineError(f"{', '.join(taken)}: there is a manifold of that name already")
            check({**merged, **offered})
        except EngineError as error:
            plugin.why, plugin.manifolds = str(error), ()
            return False
        except Exception as error:  # noqa: BLE001 - A Manifold's fields may hold anything, such as None for inputs.
            plugin.why, plugin.manifolds = _sentence(error), ()
            return False
        merged.update(offered)
        plugin.why, plugin.manifolds = "", tuple(sorted(offered))
        return True


def _load(entry_point: metadata.EntryPoint) -> _Plugin:
    plugin = _Plugin(entry_point.name, entry_point.value)
    try:
        plugin.make = entry_point.load()
        if not callable(plugin.make):
            raise TypeError(f"{entry_point.value} is no function")
    except (Exception, SystemExit) as error:  # noqa: BLE001 - As above; some modules even end the program.
        plugin.make, plugin.why = None, _sentence(error)
    return plugin


def _sentence(error: BaseException) -> str:
    sentence = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return sentence.encode(errors="replace").decode()  # It may name a file whose name is no UTF-8.
