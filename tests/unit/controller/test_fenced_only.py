"""What runs once asks for no database but to fence it: read off the source of every single-instance worker."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from controller import manifolds
from controller.models import manifolds as modelmanifolds
from controller.workers import computemanifolds

TABLES = (manifolds, modelmanifolds, computemanifolds)


def starts(table: ModuleType) -> Iterator[ast.FunctionDef]:
    """The functions of this table that make the workers housed by is_responsible."""
    tree = ast.parse(inspect.getsource(table))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("once", "is_responsible(")):
            names = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
            yield from (functions[name] for name in sorted(names & set(functions)))


def single_instance() -> dict[str, ast.AST]:
    """Every start, and the whole module of the worker that it returns."""
    found: dict[str, ast.AST] = {}
    for table in TABLES:
        for start in starts(table):
            assert start.returns is not None
            worker = getattr(table, ast.unparse(start.returns))
            found[start.name] = start
            found[worker.__name__] = ast.parse(inspect.getsource(sys.modules[worker.__module__]))
    return found


def unfenced(tree: ast.AST) -> list[str]:
    """Each `.database(...)` that is not an argument of `.fenced(...)`."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    kept = {id(arg) for call in calls if call.func.attr == "fenced" for arg in call.args}  # type: ignore[attr-defined]
    asked = [call for call in calls if call.func.attr in ("database", "_database")]  # type: ignore[attr-defined]
    return [ast.unparse(call) for call in asked if id(call) not in kept]


def test_every_single_instance_worker_is_looked_at():
    workers = {name for name in single_instance() if not name.startswith("_")}

    assert workers == {"AddressSetter", "SpaceKeeper", "Pruner", "Undertaker", "ComputeProvisioner"}


@pytest.mark.parametrize("name", sorted(single_instance()))
def test_a_single_instance_worker_takes_databases_only_to_fence_them(name: str):
    assert unfenced(single_instance()[name]) == []


def test_a_database_that_is_kept_plain_is_found():
    assert unfenced(ast.parse("held.fenced(a.database(x)); kept = a.database(y)")) == ["a.database(y)"]
