"""The documents keep up with the tree: each file they name exists, each link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import workload
from dbaccessor import accounts, conf, confsocket, identity, soleowner, tlsfiles

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FLOWS = sorted((ROOT / "docs" / "flows").glob("*.md"))

# `src/charm.py` in backticks is a promise. A bare `charm.py` may be any file of that name.
_FILE = re.compile(r"`((?:src|lib|localjuju|scripts|tests|docs|demo)/[\w./-]+|[\w-]+\.(?:py|toml|ini|yaml|txt))`")
_LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


def test_there_are_pages_to_check():
    assert FLOWS
    assert ROOT / "README.md" in PAGES


@pytest.mark.parametrize("page", FLOWS, ids=lambda page: page.name)
def test_a_flow_page_names_files_and_they_exist(page: Path):
    named = set(_FILE.findall(page.read_text()))

    assert named, "a flow page that names no file explains nothing"
    assert missing(named) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_links_of_every_page_exist(page: Path):
    text = page.read_text()
    links = {(page.parent / link).resolve() for link in _LINK.findall(text)}

    assert missing(set(_FILE.findall(text))) == []
    assert [str(link) for link in sorted(links) if not link.exists()] == []


def missing(named: set[str]) -> list[str]:
    return [name for name in sorted(named) if not exists(name)]


def exists(name: str) -> bool:
    if "/" in name:
        return (ROOT / name).exists()
    return (ROOT / name).exists() or any(
        any((ROOT / tree).rglob(name)) for tree in ("src", "lib", "localjuju", "demo", "tests")
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_is_left_without_a_way_to_it(page: Path):
    if page.parent == ROOT:
        return
    others = (other for other in PAGES if other != page)

    assert any(page.name in other.read_text() for other in others), f"nothing links to {page.name}"


def test_the_reference_of_files_names_every_file_under_the_state_directory():
    text = (ROOT / "docs" / "reference" / "files.md").read_text()
    files = {
        *(identity.IDENTITY, identity.MEMBERS, identity.JOURNAL, identity.DB_STATE, accounts.LAST_HANDOVER),
        *(conf.FILE_NAME, confsocket.CONTROL, confsocket.CONFIG_CHANGE, soleowner.LOCK),
        *(tlsfiles.CA, tlsfiles.CERTIFICATE, tlsfiles.KEY, tlsfiles.RETIRED, identity.SUMS, workload.RESTART_DUE),
    }
    folders = {f"{identity.DATA}/{identity.MARKER}"}
    folders |= {f"{name}/" for name in (identity.DATA, identity.STAGING, identity.UNPACKED, tlsfiles.DIRECTORY)}

    assert [name for name in sorted(files | folders) if f"`{name}`" not in text] == []
    assert f"`{identity.ASIDE}/" in text
