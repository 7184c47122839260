"""A seed -> faults, one after another and one beside another, on whatever cluster is on the stage."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol


class Stage(Protocol):
    """A cluster under faults. Controllers have names; what is undone is given back as a context manager."""

    def controllers(self) -> list[str]:
        """Return the members by name, without those that are leaving."""
        ...

    def leader(self) -> str | None:
        """Return who leads, as far as anybody can be asked."""
        ...

    def tell(self, event: str, **facts: object) -> None:
        """Write a line into the history."""
        ...

    def faults(self) -> dict[str, Callable[[random.Random, str], contextlib.AbstractContextManager[None]]]:
        """Return the faults this stage can make, by name: (dice, victim) -> in force until the block ends."""
        ...

    def changes(self) -> dict[str, Callable[[random.Random, str], None]]:
        """Return what an operator does here, by name: (dice, victim). It returns when it is done, or was refused."""
        ...


class Travelling(Stage, Protocol):
    """A stage whose number of controllers can be set."""

    def resize(self, dice: random.Random, count: int) -> None:
        """Begin to add or remove as many as it takes."""
        ...

    def until_whole(self, count: int) -> float:
        """Wait until there are so many, in their roles, all serving; return how long that took."""
        ...


# How often each is chosen, beside the others that the stage offers.
_WEIGHTS = {"kill": 3, "pause": 3, "restart": 2, "power cut": 1, "kill two": 1, "pause two": 1}
_CHANGE_CHANCE = 0.25
_BESIDE_CHANCE = 0.7
_TOGETHER_CHANCE = 0.35


def torment(stage: Stage, seed: int, seconds: float) -> None:
    """Let faults happen for `seconds`; what began is undone when this returns."""
    dice = random.Random(seed)
    end = time.monotonic() + seconds
    with ThreadPoolExecutor(1) as operator:
        while time.monotonic() < end:
            if stage.changes() and dice.random() < _CHANGE_CHANCE:
                # An operator's work and a fault, side by side.
                name, victim = dice.choice(sorted(stage.changes())), _victim(stage, dice)
                change = operator.submit(_change, stage, name, random.Random(dice.random()), victim)
                while not change.done() and time.monotonic() < end and dice.random() < _BESIDE_CHANCE:
                    _fault(stage, dice)
                change.result()
            else:
                _fault(stage, dice)
            time.sleep(dice.uniform(0.1, 1.5))


# 1 -> 3 -> 5 -> 3 -> 1, and what one of a journey's faults can be at each size.
SIZES = (1, 3, 5, 3, 1)
_EVERY = ("kill", "pause", "cut", "one-way cut", "power cut")
_ALONE = ("kill", "pause", "power cut")


def journey(seed: int) -> list[str]:
    """Return the fault for each of SIZES, each kind once, by the seed; at the ends one that a lone unit can have."""
    dice = random.Random(seed)
    first, last = dice.sample(_ALONE, 2)
    between = [name for name in _EVERY if name not in (first, last)]
    return [first, *dice.sample(between, 3), last]


def travel(stage: Travelling, seed: int) -> None:
    """Go through SIZES with a journey's faults, each while the change before it is still under way, or just done."""
    dice = random.Random(seed)
    for count, name in zip(SIZES, journey(seed), strict=True):
        stage.resize(dice, count)
        if dice.random() < 0.5:
            stage.until_whole(count)
        else:
            time.sleep(dice.uniform(0.0, 3.0))
        victim = _victim(stage, dice)
        offered = stage.faults()
        with _told(stage, name, victim), offered.get(name, offered["kill"])(dice, victim):
            time.sleep(dice.uniform(0.5, 2.0))
        stage.until_whole(count)


def _change(stage: Stage, name: str, dice: random.Random, victim: str) -> None:
    with _told(stage, name, victim):
        stage.changes()[name](dice, victim)


def _fault(stage: Stage, dice: random.Random) -> None:
    offered = sorted(stage.faults())
    with contextlib.ExitStack() as force:
        for _ in range(2 if dice.random() < _TOGETHER_CHANCE else 1):
            name = dice.choices(offered, [_WEIGHTS.get(n, 2) for n in offered])[0]
            victim = _victim(stage, dice)
            force.enter_context(_told(stage, name, victim))
            force.enter_context(stage.faults()[name](dice, victim))
            time.sleep(dice.uniform(0.0, 0.4))
        time.sleep(dice.uniform(0.1, 2.0))


def _victim(stage: Stage, dice: random.Random) -> str:
    """Whoever leads, every other time: the one whose loss is felt most."""
    names = stage.controllers()
    other = dice.choice(names)
    leader = stage.leader() if dice.random() < 0.5 else None
    return leader if leader in names else other


@contextlib.contextmanager
def _told(stage: Stage, name: str, victim: str) -> Iterator[None]:
    stage.tell("fault", name=name, victim=victim, at=time.monotonic())
    yield
    stage.tell("over", name=name, victim=victim, at=time.monotonic())
