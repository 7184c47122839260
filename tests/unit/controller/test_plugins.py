"""Other people's manifolds join the table, or are left out with a reason; nothing they do is fatal."""

from __future__ import annotations

import logging
from importlib.metadata import EntryPoint

import pytest

from controller.engine import Manifold, offer
from controller.plugins import CONTROLLER_GROUP, MODEL_GROUP, Plugins

TABLE = {"base": offer(lambda _: 1)}


def two() -> dict[str, Manifold]:
    return {"one": offer(lambda _: 1, ("base",)), "two": offer(lambda _: 2, ("one",))}


def needs_two() -> dict[str, Manifold]:
    return {"three": offer(lambda _: 3, ("two",))}


def takes_a_name() -> dict[str, Manifold]:
    return {"four": offer(lambda _: 4), "base": offer(lambda _: 5)}


def needs_nobody() -> dict[str, Manifold]:
    return {"five": offer(lambda _: 5, ("no-such",))}


def circle() -> dict[str, Manifold]:
    return {"a": offer(lambda _: 1, ("b",)), "b": offer(lambda _: 1, ("a",))}


def raises() -> dict[str, Manifold]:
    raise ZeroDivisionError("on purpose")


def a_list() -> list[str]:
    return ["one"]


def no_inputs_at_all() -> dict[str, Manifold]:
    return {"six": Manifold(lambda _: None, None), "seven": offer(lambda _: 7)}  # type: ignore[arg-type,return-value]


def a_number_for_a_name() -> dict[object, Manifold]:
    return {8: offer(lambda _: 8)}


def ends_the_program() -> dict[str, Manifold]:
    raise SystemExit(2)


def reads_a_file() -> dict[str, Manifold]:
    raise ValueError("/etc/b\udce9")


def for_a_model(model: str) -> dict[str, Manifold]:
    return {f"of-{model}": offer(lambda _: model)}


def plugins(*names: str, group: str = CONTROLLER_GROUP) -> Plugins:
    # Under importlib's import mode this file has no name that an entry point could be loaded by.
    class Here(EntryPoint):
        def load(self):
            return globals()[self.value]

    return Plugins(group, [Here(name.replace("_", "-"), name, group) for name in names])


def test_manifolds_of_plugins_join_the_table_in_whatever_order_they_need_each_other():
    found = plugins("needs_two", "two")

    assert sorted(found.merge(TABLE)) == ["base", "one", "three", "two"]
    assert found.report()["two"] == {"source": "two", "state": "in use", "manifolds": ["one", "two"]}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("takes_a_name", "base: there is a manifold of that name already"),
        ("needs_nobody", "five needs no-such, which is no manifold here"),
        ("circle", "these need one another in a circle: a -> b -> a"),
        ("raises", "ZeroDivisionError: on purpose"),
        ("a_list", "TypeError: it returned list, not names with their Manifold"),
        ("no_inputs_at_all", "TypeError: 'NoneType' object is not iterable"),
        ("a_number_for_a_name", "TypeError: it returned dict, not names with their Manifold"),
        ("ends_the_program", "SystemExit: 2"),
        ("TABLE", "TypeError: TABLE is no function"),
        ("no_such_thing", "KeyError: 'no_such_thing'"),
    ],
)
def test_a_broken_plugin_is_left_out_as_a_whole_and_named_with_the_reason(name: str, why: str, caplog):
    found = plugins(name, "two")

    assert sorted(found.merge(TABLE)) == ["base", "one", "two"]
    told = found.report()[name.replace("_", "-")]
    assert (told["state"], told["why"], told["manifolds"]) == ("refused", why, [])
    assert why in caplog.text


def test_a_reason_that_is_no_text_is_told_as_far_as_it_is(monkeypatch: pytest.MonkeyPatch):
    # What a test logs is sent on as UTF-8, where tests run in several processes.
    monkeypatch.setattr(logging.getLogger("controller.plugins"), "disabled", True)
    found = plugins("reads_a_file")

    found.merge(TABLE)

    assert found.report()["reads-a-file"]["why"] == "ValueError: /etc/b?"


def test_a_plugin_for_models_gets_the_model():
    found = plugins("for_a_model", group=MODEL_GROUP)

    assert sorted(found.merge(TABLE, "x")) == ["base", "of-x"]
    assert sorted(found.merge(TABLE, "y")) == ["base", "of-y"]
