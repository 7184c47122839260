"""The judge is judged: it must find every wrong history, or a fault run proves nothing."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faultrun.linearizable import NEVER, Op, problem


def read(value: str | None, sent: float, done: float) -> Op:
    return Op("read", value, "acknowledged", sent, done, client="r")


def write(value: str, sent: float, done: float, outcome: str = "acknowledged") -> Op:
    return Op("write", value, outcome, sent, done, client="w")


def swap(expected: str | None, value: str, sent: float, done: float, outcome: str = "acknowledged") -> Op:
    return Op("swap", value, outcome, sent, done, expected=expected, client="s")


GOOD = {
    "nothing happened": [],
    "a register that was never written": [read(None, 0, 1)],
    "one after another": [write("a", 0, 1), read("a", 2, 3), write("b", 4, 5), read("b", 6, 7)],
    "a read beside a write may see either": [write("a", 0, 10), read(None, 1, 2), read("a", 3, 4)],
    "two writes at once, read in one order": [write("a", 0, 9), write("b", 0, 9), read("b", 10, 11), read("b", 12, 13)],
    "an indefinite write that happened late": [
        write("a", 0, 1),
        write("b", 2, 3, "indefinite"),
        read("a", 4, 5),
        read("b", 6, 7),
    ],
    "an indefinite write that never happened": [write("a", 0, 1), write("b", 2, NEVER, "indefinite"), read("a", 9, 10)],
    "an indefinite write between two others": [
        write("a", 0, 1),
        write("b", 2, 3, "indefinite"),
        write("c", 4, 5),
        read("c", 6, 7),
    ],
    "an indefinite write over an acknowledged one": [
        write("b", 0, 1, "indefinite"),
        write("c", 4, 5),
        read("c", 6, 7),
        read("b", 8, 9),
    ],
    "a refused write leaves nothing": [write("a", 0, 1), write("b", 2, 3, "refused"), read("a", 4, 5)],
    "swaps in a chain": [write("a", 0, 1), swap("a", "b", 2, 3), swap("b", "c", 4, 5), read("c", 6, 7)],
    "an indefinite swap that was seen": [write("a", 0, 1), swap("a", "b", 2, 3, "indefinite"), read("b", 4, 5)],
    "an answer at the moment of the next question": [write("a", 0, 1), read(None, 1, 2)],
    "a read that failed says nothing": [write("a", 0, 1), Op("read", None, "refused", 2, 3)],
}

BAD = {
    "a stale read": [write("a", 0, 1), write("b", 2, 3), read("a", 4, 5)],
    "a lost first write": [write("a", 0, 1), read(None, 2, 3)],
    "a value that comes and goes": [write("a", 0, 1), write("b", 2, 9), read("b", 3, 4), read("a", 5, 6)],
    "two writes at once, read in both orders": [
        write("a", 0, 9),
        write("b", 0, 9),
        read("a", 10, 11),
        read("b", 12, 13),
    ],
    "a refused write that was seen": [write("a", 0, 1), write("b", 2, 3, "refused"), read("b", 4, 5)],
    "a value from nowhere": [read("x", 0, 1)],
    "a value from the future": [read("a", 0, 1), write("a", 2, 3)],
    "an indefinite write that was undone": [
        write("a", 0, 1),
        write("b", 2, 3, "indefinite"),
        read("b", 4, 5),
        read("a", 6, 7),
    ],
    "a swap that found an old value": [write("a", 0, 1), write("b", 2, 3), swap("a", "c", 4, 5)],
    "two swaps won against one value": [write("a", 0, 1), swap("a", "b", 2, 9), swap("a", "c", 2, 9)],
    "an indefinite swap seen, whose value before was gone": [
        write("a", 0, 1),
        write("b", 2, 3),
        swap("a", "c", 4, 5, "indefinite"),
        read("c", 6, 7),
    ],
    "two leaders, each with its own value": [
        write("a", 0, 1),
        write("b", 2, 3),
        write("c", 2, 3),
        read("b", 4, 5),
        read("c", 4, 5),
        read("b", 6, 7),
        read("c", 6, 7),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_a_history_with_an_explanation_is_let_through(name: str):
    assert problem(GOOD[name]) is None


@pytest.mark.parametrize("name", BAD)
def test_a_history_without_one_is_found(name: str):
    assert problem(BAD[name])


def test_the_sentence_names_the_operation_that_does_not_fit():
    assert "read a" in (problem(BAD["a stale read"]) or "")


def test_a_value_written_twice_is_the_tests_own_mistake():
    with pytest.raises(ValueError, match="written twice"):
        problem([write("a", 0, 1), write("a", 2, 3)])


def real_history(dice: random.Random, count: int, clients: int) -> list[Op]:
    """What clients of a correct register see: each operation takes place at one moment between its ends."""
    state: str | None = None
    free = [0.0] * clients
    pending: list[tuple[float, int, float, float]] = []
    for number in range(count):
        client = dice.randrange(clients)
        sent = free[client] + dice.random()
        done = sent + dice.random() * 3
        free[client] = done
        pending.append((dice.uniform(sent, done), number, sent, done))
    ops = []
    for _, number, sent, done in sorted(pending):
        kind = dice.choice(("read", "read", "write", "swap"))
        outcome = dice.choice(("acknowledged", "acknowledged", "acknowledged", "indefinite", "refused"))
        value = f"v{number}"
        if kind == "read":
            ops.append(Op("read", state, "acknowledged", sent, done))
            continue
        ops.append(Op(kind, value, outcome, sent, done, expected=state if kind == "swap" else None))
        if outcome == "acknowledged" or (outcome == "indefinite" and dice.random() < 0.5):
            state = value
    return ops


@given(st.integers(0, 10**6))
def test_what_a_correct_register_answers_is_always_let_through(seed: int):
    dice = random.Random(seed)
    assert problem(real_history(dice, 60, dice.randint(1, 6))) is None


def explained_by_some_order(ops: list[Op]) -> bool:
    """The definition itself, tried for every order and every choice of indefinite operations."""
    certain = [op for op in ops if op.outcome == "acknowledged"]
    maybe = [op for op in ops if op.outcome == "indefinite" and op.kind != "read"]
    for count in range(len(maybe) + 1):
        for chosen in itertools.combinations(maybe, count):
            for order in itertools.permutations([*certain, *(replace(op, done=NEVER) for op in chosen)]):
                if any(b.done < a.sent for a, b in itertools.combinations(order, 2)):
                    continue
                state = None
                for op in order:
                    if (op.kind == "read" and op.value != state) or (op.kind == "swap" and op.expected != state):
                        break
                    state = state if op.kind == "read" else op.value
                else:
                    return True
    return False


@given(st.integers(0, 10**6))
def test_it_agrees_with_the_definition_on_every_small_history(seed: int):
    dice = random.Random(seed)
    ops = real_history(dice, 5, 3)
    values = [None, *(op.value for op in ops if op.kind != "read")]
    # Spoil some answers, so that about half of the histories are wrong.
    spoilt = [replace(op, value=dice.choice(values)) if op.kind == "read" and dice.random() < 0.5 else op for op in ops]
    assert (problem(spoilt) is None) == explained_by_some_order(spoilt)


def test_a_long_history_is_judged_quickly_and_its_one_stale_read_found():
    dice = random.Random(7)
    ops = real_history(dice, 4000, 6)
    assert problem(ops) is None
    reads = [i for i, op in enumerate(ops) if op.kind == "read"]
    late = ops[reads[-1]]
    earlier = next(ops[i].value for i in reads if ops[i].value != late.value)
    ops[reads[-1]] = replace(late, value=earlier)
    assert problem(ops)
