"""A charm's files: what its metadata says, and how a source tree or a packed .charm lands in a unit's charm folder."""

from __future__ import annotations

import shutil
import stat
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

# charmcraft copies these and nothing else from a source tree (its charm plugins; templates live under src/).
_COPIED = ("src", "lib", "hooks", "LICENSE", "README.md", "icon.svg", "version")
_DISPATCH = """#!/bin/sh
dispatch_path="$(dirname "$(realpath "$0")")"
export PYTHONPATH="${dispatch_path}/lib:${dispatch_path}/src"
export LD_LIBRARY_PATH="${dispatch_path}/usr/lib:${dispatch_path}/lib:${dispatch_path}/usr/lib/$(uname -m)-linux-gnu"
export JUJU_DISPATCH_PATH="${JUJU_DISPATCH_PATH:-$0}"
cd "${dispatch_path}"
exec "${dispatch_path}/venv/bin/python" "${dispatch_path}/src/charm.py"
"""


class BadCharm(Exception):
    """The path holds no charm that can be deployed; the text says why."""


@dataclass(frozen=True)
class Charm:
    """What localjuju needs to know of a charm, and where its files wait to be copied into each unit."""

    name: str
    summary: str
    peers: dict[str, str]  # Endpoint -> interface.
    endpoints: tuple[str, ...]
    options: dict[str, dict[str, Any]]
    actions: dict[str, dict[str, Any]]
    folder: Path
    origin: Path
    revision: int


def stage(path: Path, folder: Path, revision: int) -> Charm:
    """Put the charm at *path* (a source tree or a .charm file) into *folder*, as it would be unpacked on a unit."""
    if path.is_file() and zipfile.is_zipfile(path):
        folder.mkdir(parents=True)
        _unpack(path, folder)
    elif path.is_dir():
        folder.mkdir(parents=True)
        _copy_tree(path, folder)
    else:
        raise BadCharm(f"{path} is neither a charm's source tree nor a .charm file")
    try:
        return _read(folder, path, revision)
    except (yaml.YAMLError, AttributeError) as error:
        raise BadCharm(f"{path}: bad metadata: {error}") from None


def install(charm: Charm, target: Path) -> None:
    """Replace a unit's charm folder by this charm's files, keeping what the charm itself keeps there."""
    kept = target / ".unit-state.db"
    state = kept.read_bytes() if kept.exists() else None
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(charm.folder, target, symlinks=True)
    if state is not None:
        kept.write_bytes(state)


def _unpack(path: Path, folder: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            mode = entry.external_attr >> 16
            target = folder / entry.filename
            if not target.resolve().is_relative_to(folder.resolve()):
                raise BadCharm(f"{path}: {entry.filename} points outside the charm")
            if stat.S_ISLNK(mode):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(archive.read(entry).decode())
                continue
            archive.extract(entry, folder)
            if mode & 0o777 and not entry.is_dir():
                target.chmod(mode & 0o777)
    if not (folder / "dispatch").exists() and not (folder / "hooks").is_dir():
        raise BadCharm(f"{path} has neither dispatch nor hooks/")


def _copy_tree(path: Path, folder: Path) -> None:
    described = _load(path / "charmcraft.yaml")
    if not described and not (path / "metadata.yaml").exists():
        raise BadCharm(f"{path} has neither charmcraft.yaml nor metadata.yaml")
    for name in _COPIED:
        source = path / name
        if source.is_dir():
            shutil.copytree(source, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, folder / name)
    for name, content in _split(described).items():
        if (path / name).exists():
            shutil.copy(path / name, folder / name)
        elif content:
            (folder / name).write_text(yaml.safe_dump(content))
    (folder / "manifest.yaml").write_text("analysis: {attributes: [], result: ignored}\nbases: []\n")
    (folder / "dispatch").write_text(_DISPATCH)
    (folder / "dispatch").chmod(0o755)
    # The project's own venv, where a packed charm has one of its own.
    (folder / "venv").symlink_to(sys.prefix)


def _split(described: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """charmcraft.yaml's content as the three files that charmcraft packs from it."""
    ours = {
        "type",
        "base",
        "bases",
        "platforms",
        "parts",
        "charm-libs",
        "config",
        "actions",
        "analysis",
        "title",
    }
    metadata = {k: v for k, v in described.items() if k not in ours}
    if metadata and "title" in described:
        metadata["display-name"] = described["title"]
    return {
        "metadata.yaml": metadata,
        "config.yaml": described.get("config") or {},
        "actions.yaml": described.get("actions") or {},
    }


def _load(path: Path) -> dict[str, Any]:
    return (yaml.safe_load(path.read_text()) or {}) if path.exists() else {}


def _read(folder: Path, origin: Path, revision: int) -> Charm:
    metadata = _load(folder / "metadata.yaml")
    if "name" not in metadata:
        raise BadCharm(f"{origin}: metadata.yaml has no name")
    peers = {name: spec["interface"] for name, spec in (metadata.get("peers") or {}).items()}
    others = [
        *(metadata.get("requires") or {}),
        *(metadata.get("provides") or {}),
        *(metadata.get("extra-bindings") or {}),
    ]
    return Charm(
        name=str(metadata["name"]),
        summary=str(metadata.get("summary", "")),
        peers=peers,
        endpoints=(*peers, *others),
        options=dict(_load(folder / "config.yaml").get("options") or {}),
        actions=dict(_load(folder / "actions.yaml")),
        folder=folder,
        origin=origin,
        revision=revision,
    )
