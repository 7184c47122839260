"""Running the same story once for each durable step at which something is killed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from loopback import Cluster

# These runs mostly wait, so several go side by side, each with loopback addresses of its own.
_AT_ONCE = 8
# More steps than any of these changes has.
_MOST_STEPS = 48


def enumerate_steps(root: Path, run: Callable[[Cluster, int], bool], at_once: int = _AT_ONCE) -> int:
    """Call run(cluster, step) for step 1, 2, … until one comes through unharmed (False); return that step."""

    def one(step: int) -> bool:
        with Cluster(root / str(step), block=100 + step) as cluster:
            return run(cluster, step)

    with ThreadPoolExecutor(at_once) as pool:
        for first in range(1, _MOST_STEPS, at_once):
            steps = range(first, first + at_once)
            for step, crashed in zip(steps, pool.map(one, steps), strict=True):
                if not crashed:
                    return step
    raise AssertionError(f"still killed at step {_MOST_STEPS}")
