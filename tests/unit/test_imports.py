"""Imports run one way; this file is the rule, read from the source with ast."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Where each top-level name of ours lives. Modules of src/ have no package: the charm runs them as scripts.
TREES = {"dbaccessor": "lib", "controller": "lib", "localjuju": ".", "demo": ".", "bench": "."}


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of ours: dotted name -> file. Those of src/ are named src.<module>."""
    found = {f"src.{path.stem}": path for path in (ROOT / "src").glob("*.py")}
    for package, tree in TREES.items():
        base = ROOT / tree
        for path in (base / package).rglob("*.py"):
            parts = path.relative_to(base).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def imports(name: str) -> frozenset[str]:
    """The dotted names that module `name` imports anywhere in its text, ours and others'."""
    path = modules()[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            # `from package import module` names the module; `from module import thing` the module alone.
            found.update(
                f"{source}.{alias.name}" if f"{source}.{alias.name}" in modules() else source for alias in node.names
            )
    return frozenset(f"src.{n}" if f"src.{n}" in modules() else n for n in found)


def reach(name: str) -> set[str]:
    """Everything that importing `name` makes Python run: transitively, and parent packages too."""
    seen: set[str] = set()
    todo = [name]
    while todo:
        now = todo.pop()
        if now in seen:
            continue
        seen.add(now)
        if now in modules():
            todo.extend(imports(now))
        parent = now.rpartition(".")[0]
        if parent in modules():
            todo.append(parent)
    return seen


def below(prefix: str) -> list[str]:
    names = [n for n in sorted(modules()) if n == prefix or n.startswith(f"{prefix}.")]
    assert names, f"no module below {prefix}: the rule guards nothing"
    return names


def offenders(importers: list[str], *forbidden: str) -> list[str]:
    return [
        f"{importer} imports {name}"
        for importer in importers
        for name in sorted(imports(importer))
        if any(name == f or name.startswith(f"{f}.") for f in forbidden)
    ]


def test_the_charm_takes_from_lib_only_the_formats_of_files_and_the_socket():
    allowed = {"dbaccessor.conf", "dbaccessor.confsocket", "dbaccessor.tlsfiles"}
    taken = {n for m in below("src") for n in imports(m) if n.split(".")[0] in TREES}

    assert taken <= allowed


def test_dbaccessor_knows_nothing_above_it():
    assert offenders(below("dbaccessor"), "controller", "src", "ops", "localjuju", "demo", "bench") == []


def test_controller_knows_neither_charm_nor_stand_in():
    assert offenders(below("controller"), "src", "ops", "localjuju", "demo", "bench") == []


def test_the_stand_in_for_juju_knows_nothing_of_what_runs_on_it():
    assert offenders(below("localjuju"), "src", "dbaccessor", "controller", "demo", "bench", "ops") == []


def test_the_dqlite_folder_knows_only_the_errors_and_the_rules_for_statements():
    shared = {"dbaccessor", "dbaccessor.errors", "dbaccessor.statements"}
    around = {n for n in below("dbaccessor") if not n.startswith("dbaccessor.dqlite")} - shared

    assert offenders(below("dbaccessor.dqlite"), *sorted(around)) == []


def test_c_is_declared_where_the_library_is_loaded_and_guarded_only():
    declaring = {m for m in modules() if "cffi" in imports(m)}

    assert declaring == {"dbaccessor.dqlite.native", "dbaccessor.dqlite.shmorder"}


# What runs on machines that are no controllers: agents and clients. They have neither libdqlite nor an engine.
AFAR = [
    "controller.agentd",
    "controller.columns",
    *(
        f"controller.api.{part}"
        for part in ("messages", "epoch", "order", "dial", "connection", "interfaces", "client", "agent")
    ),
]


@pytest.mark.parametrize("package", AFAR)
def test_agents_and_clients_load_neither_dqlite_nor_the_engine(package: str):
    barred = ("dbaccessor.dqlite", "dbaccessor.database", "dbaccessor.worker", "controller.engine", "cffi")
    reached = {
        f"{entry} loads {name}"
        for entry in below(package)
        for name in reach(entry)
        if any(name == b or name.startswith(f"{b}.") for b in barred)
    }

    assert reached == set()


@pytest.mark.parametrize("entry", ["dbaccessor.conf", "dbaccessor.confsocket", "dbaccessor.tlsfiles"])
def test_hooks_and_commands_load_neither_dqlite_nor_an_event_loop(entry: str):
    reached = {n for n in reach(entry) if n.startswith("dbaccessor.dqlite") or n in ("cffi", "asyncio")}

    assert reached == set()
