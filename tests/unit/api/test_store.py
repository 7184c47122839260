"""The client's store: Juju's formats, the last good address first, and nothing lost however many write at once."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from controller.api.client import entries
from controller.api.client.entries import Account, Controllers, Entry
from controller.api.client.store import ACCOUNTS, CONTROLLERS, COOKIES, LOCK, Store, StoreError, Unknown
from controller.api.messages import Epoch, HostPort

ROOT = Path(__file__).parents[3]
UUID = "7f2e0a52-0000-4000-8000-000000000001"
CA = "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n"
JUJU = f"""\
controllers:
  prod:
    uuid: {UUID}
    api-endpoints: ['10.0.0.1:17070', '10.0.0.2:17070']
    dns-cache: {{example.com: [10.0.0.1]}}
    public-hostname: null
    ca-cert: |
      -----BEGIN CERTIFICATE-----
      abc
      -----END CERTIFICATE-----
    cloud: maas
    agent-version: 3.6.1
    machine-count: 2
current-controller: prod
previous-controller: other
"""


def servers(*groups: list[str]) -> tuple[tuple[HostPort, ...], ...]:
    return tuple(tuple(HostPort(value=a, port=17070, scope="local-cloud") for a in group) for group in groups)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "data")
    store.add("prod", Entry(UUID, ("10.0.0.1:17070",), CA), Account("admin", "s3cret"))
    return store


def test_a_file_of_juju_comes_back_with_every_key_it_had():
    found = entries.parse_controllers(JUJU)

    assert found.current == "prod"
    assert found.entries["prod"].api_endpoints == ("10.0.0.1:17070", "10.0.0.2:17070")
    assert found.entries["prod"].ca_cert == CA
    assert yaml.safe_load(entries.render_controllers(found)) == yaml.safe_load(JUJU)


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.builds(
            Entry,
            st.text(max_size=8),
            st.lists(st.text(max_size=8), max_size=3).map(tuple),
            st.sampled_from(["", CA, "a\nb\n", " x\n"]),
            st.builds(Epoch, st.integers(0, 9), st.text(max_size=3)),
            st.dictionaries(st.sampled_from(["cloud", "yes", "1"]), st.text() | st.integers() | st.none(), max_size=2),
        ),
        max_size=3,
    ),
    st.text(max_size=8),
)
def test_what_is_rendered_is_what_is_read(found: dict[str, Entry], current: str):
    controllers = Controllers(found, current, {"previous-controller": "x"})

    assert entries.parse_controllers(entries.render_controllers(controllers)) == controllers


def test_endpoints_stand_in_one_line_and_a_certificate_in_a_block():
    text = entries.render_controllers(Controllers({"c": Entry(UUID, ("10.0.0.1:17070",), CA)}))

    assert "api-endpoints: ['10.0.0.1:17070']" in text
    assert "ca-cert: |\n      -----BEGIN" in text


@pytest.mark.parametrize("text", ["[", "[]", "5: 6", "controllers: 5", "controllers: {a: 5}", "controllers: {a: {}}"])
def test_a_broken_file_is_named_and_never_replaced(tmp_path: Path, text: str):
    (tmp_path / CONTROLLERS).write_text(text)
    store = Store(tmp_path)

    with pytest.raises(StoreError, match=CONTROLLERS):
        store.add("a", Entry(UUID, (), CA), Account("admin"))
    assert (tmp_path / CONTROLLERS).read_text() == text
    assert not (tmp_path / ACCOUNTS).exists()


def test_the_files_are_for_their_owner_only_and_the_lock_lies_beside_them(store: Store):
    for name in (CONTROLLERS, ACCOUNTS, LOCK):
        assert stat.S_IMODE((store.directory / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(store.directory.stat().st_mode) == 0o700


def test_the_endpoint_that_let_us_in_stands_first_whatever_the_controllers_publish(store: Store):
    published = servers(["10.0.0.1"], ["10.0.0.2", "192.168.0.2"], ["10.0.0.3"])

    for last in ("10.0.0.3:17070", "10.0.0.1:17070", "192.168.0.2:17070", "10.9.9.9:443"):
        for order in (published, published[::-1]):
            store.remember_login("prod", UUID, order, last)
            endpoints = store.find("prod").entry.api_endpoints
            assert endpoints[0] == last
            assert set(endpoints) - {"10.9.9.9:443"} == {str(a) for group in published for a in group}
            assert len(endpoints) == len(set(endpoints))


def written(store: Store) -> tuple[int, int, int]:
    """What any write changes; looking changes the time of the last access."""
    found = (store.directory / CONTROLLERS).stat()
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def test_a_login_that_changes_nothing_writes_nothing(store: Store):
    assert store.remember_login("prod", UUID, servers(["10.0.0.1"], ["10.0.0.2"]), "10.0.0.2:17070", agent_version="3")
    before = written(store)

    assert not store.remember_login("prod", UUID, servers(["10.0.0.1"], ["10.0.0.2"]), "10.0.0.2:17070")
    assert written(store) == before


def test_no_published_address_keeps_those_there_are(store: Store):
    store.remember_login("prod", UUID, servers(["10.0.0.1"], ["10.0.0.2"]), "10.0.0.1:17070")
    store.remember_login("prod", UUID, (), "10.0.0.2:17070")

    assert store.find("prod").entry.api_endpoints == ("10.0.0.2:17070", "10.0.0.1:17070")


def test_addresses_of_a_machine_alone_are_kept_only_where_we_are_on_it(store: Store):
    mixed = (
        (
            HostPort(value="127.0.0.1", port=1, scope="local-machine"),
            HostPort(value="fe80::1", port=1, scope="link-local"),
            HostPort(value="10.0.0.1", port=17070),
        ),
    )

    store.remember_login("prod", UUID, mixed, "10.0.0.1:17070")
    assert store.find().entry.api_endpoints == ("10.0.0.1:17070",)
    store.remember_login("prod", UUID, mixed, "127.0.0.1:1")
    assert store.find().entry.api_endpoints == ("127.0.0.1:1", "10.0.0.1:17070")


def test_another_cluster_under_the_name_or_an_older_epoch_changes_nothing(store: Store):
    store.remember_login("prod", UUID, servers(["10.0.0.1"]), "10.0.0.1:17070", Epoch(2, "b"))
    before = store.controllers()

    assert not store.remember_login("prod", "another", servers(["10.6.6.6"]), "10.6.6.6:17070")
    assert not store.remember_login("prod", UUID, servers(["10.6.6.6"]), "10.6.6.6:17070", Epoch(1, "a"))
    assert not store.remember_login("gone", UUID, servers(["10.6.6.6"]), "10.6.6.6:17070")
    assert store.controllers() == before


def test_one_cluster_has_one_name_and_one_name_is_one_cluster(store: Store):
    with pytest.raises(StoreError, match="known here as prod"):
        store.add("again", Entry(UUID, (), CA), Account("admin"))
    with pytest.raises(StoreError, match="another cluster"):
        store.add("prod", Entry("another", (), CA), Account("admin"))
    assert list(store.controllers().entries) == ["prod"]


@pytest.mark.parametrize("name", ["", ".", "../prod", "a/b", "a b", "-a", "x" * 101, "a\nb"])
def test_a_name_that_is_no_name_is_refused(store: Store, name: str):
    with pytest.raises(StoreError, match="no name"):
        store.add(name, Entry("another", (), CA), Account("admin"))


def test_each_controller_has_the_file_that_libjuju_does_not_begin_without(store: Store):
    cookies = store.directory / COOKIES / "prod.json"

    assert cookies.read_text() == "[]\n"
    assert stat.S_IMODE(cookies.stat().st_mode) == 0o600
    store.forget("prod")
    assert not cookies.exists()


def test_switching_logging_out_and_forgetting(store: Store):
    store.add("test", Entry("another", (), CA), Account("admin", "x"))

    assert store.find().name == "test"
    assert store.switch("prod") == "test"
    assert store.forget_account("test")
    assert not store.forget_account("test")
    assert store.find("test").account is None
    store.forget("prod")
    with pytest.raises(Unknown, match="hactl register"):
        store.find()
    with pytest.raises(Unknown, match="there are: test"):
        store.find("prod")


def test_a_lock_that_is_never_let_go_is_named_in_time(store: Store):
    impatient = Store(store.directory, lock_seconds=0.2)

    with filelock.FileLock(store.directory / LOCK), pytest.raises(StoreError, match=r"store\.lock is held"):
        impatient.switch("prod")


def test_a_folder_that_may_not_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreError, match="cannot be changed"):
        Store(tmp_path / "file" / "data").add("prod", Entry(UUID, (), CA), Account("admin"))


_WRITER = """
import sys, time
from pathlib import Path
from controller.api.client.entries import Account, Entry
from controller.api.client.store import Store
from controller.api.messages import HostPort

number, store = sys.argv[2], Store(Path(sys.argv[1]), lock_seconds=200)
sys.stdin.read()  # All begin at once.
store.add(f"c{number}", Entry(f"uuid-{number}", (f"10.0.0.{number}:17070",), "ca"), Account("admin", number))
for turn in range(2):
    everyone = tuple((HostPort(value=f"10.0.{turn}.{number}", port=17070),) for turn in range(2))
    store.remember_login(f"c{number}", f"uuid-{number}", everyone, f"10.0.{turn}.{number}:17070")
    # Everybody also changes what all share.
    store.remember_login("shared", "uuid-shared", (), f"10.1.0.{number}:17070")
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_fifty_processes_at_once_lose_nothing_and_nobody_sees_half_a_file(tmp_path: Path):
    store = Store(tmp_path / "data")
    store.add("shared", Entry("uuid-shared", (), CA), Account("admin"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
    command = [sys.executable, "-c", _WRITER, str(store.directory)]
    writers = [subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, env=environment) for n in range(1, 51)]
    try:
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.close()
        deadline = time.monotonic() + 220
        seen = 0
        while any(w.poll() is None for w in writers):
            assert time.monotonic() < deadline
            now = len(store.controllers().entries)  # Raises for a torn file.
            assert now >= seen, "an entry was lost"
            seen = now
            time.sleep(0.005)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()

    controllers, accounts = store.controllers(), store.accounts()
    assert [w.returncode for w in writers] == [0] * 50
    assert set(controllers.entries) == {"shared", *(f"c{n}" for n in range(1, 51))}
    for n in range(1, 51):
        assert controllers.entries[f"c{n}"].api_endpoints[0] == f"10.0.1.{n}:17070"
        assert len(controllers.entries[f"c{n}"].api_endpoints) == 2
        assert accounts.entries[f"c{n}"].password == str(n)
    assert set(controllers.entries["shared"].api_endpoints) == {f"10.1.0.{n}:17070" for n in range(1, 51)}
    assert {p.name for p in store.directory.iterdir()} == {CONTROLLERS, ACCOUNTS, LOCK, COOKIES}
