"""Charms, unit files and actions: text in, values out."""

import zipfile

import pytest
from localjuju import actions, charmfiles, home, unitfile

import pulserun


def test_a_source_tree_is_staged_as_charmcraft_would_pack_it(tmp_path):
    charm = charmfiles.stage(pulserun.CHARM, tmp_path / "staged", 3)

    assert (charm.name, charm.peers, charm.revision) == ("pulse", {"db-cluster": "db-cluster"}, 3)
    assert charm.options["greeting"]["default"] == "hello"
    assert set(charm.actions) == {"dawdle", "echo", "refuse", "secret"}
    names = {p.name for p in (tmp_path / "staged").iterdir()}
    assert names == {"src", "dispatch", "metadata.yaml", "config.yaml", "actions.yaml", "manifest.yaml", "venv"}
    assert (tmp_path / "staged/dispatch").stat().st_mode & 0o111


def test_a_packed_charm_keeps_its_modes_and_links(tmp_path):
    packed = tmp_path / "x.charm"
    with zipfile.ZipFile(packed, "w") as archive:
        for name, mode, text in (("metadata.yaml", 0o100644, "name: x"), ("dispatch", 0o100755, "#!/bin/sh\n")):
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, text)
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "dispatch")

    charm = charmfiles.stage(packed, tmp_path / "staged", 0)

    assert charm.name == "x"
    assert (tmp_path / "staged/dispatch").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "staged/link").readlink().name == "dispatch"


def test_a_new_charm_keeps_the_state_that_ops_stores_in_its_folder(tmp_path):
    charm = charmfiles.stage(pulserun.CHARM, tmp_path / "staged", 0)
    target = tmp_path / "unit"
    charmfiles.install(charm, target)
    (target / ".unit-state.db").write_text("state")
    (target / "left-over").touch()

    charmfiles.install(charm, target)

    assert (target / ".unit-state.db").read_text() == "state"
    assert not (target / "left-over").exists()


@pytest.mark.parametrize("content", [None, {"dispatch": "x"}, {"metadata.yaml": "name: x"}])
def test_what_is_no_charm_is_refused(tmp_path, content):
    path = tmp_path / "bad.charm"
    if content is None:
        path.write_text("not a zip")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in content.items():
                archive.writestr(name, text)

    with pytest.raises(charmfiles.BadCharm):
        charmfiles.stage(path, tmp_path / "staged", 0)


SERVICE = """
[Unit]
Description=Some thing
StartLimitIntervalSec=0
[Service]
Type=notify
Environment=A=1 "B=two words"
EnvironmentFile=-/etc/default/thing
ExecStartPre=-/bin/false
ExecStart=/usr/bin/thing --opt ${A} \\
  $B "quoted word"
Restart=on-failure
RestartSec=1min 500ms
TimeoutStopSec=infinity
LimitNOFILE=65536:70000
LimitCORE=infinity
Nice=-5
[Install]
WantedBy=multi-user.target
"""


def test_a_service_file_is_read_as_systemd_reads_it():
    service = unitfile.parse("thing.service", SERVICE)

    assert (service.description, service.kind, service.limit_interval) == ("Some thing", "notify", 0)
    assert service.environment == {"A": "1", "B": "two words"}
    assert service.environment_files == (("/etc/default/thing", True),)
    assert service.start_pre == (unitfile.Command(("/bin/false",), True),)
    (start,) = service.start
    assert unitfile.expand(start.argv, service.environment) == [
        *("/usr/bin/thing", "--opt", "1", "two", "words", "quoted word")
    ]
    assert (service.restart, service.restart_seconds, service.stop_seconds) == ("on-failure", 60.5, float("inf"))
    assert service.limits == {"RLIMIT_NOFILE": 65536, "RLIMIT_CORE": -1}
    assert (service.nice, unitfile.parse("x.service", "[Service]\nExecStart=/x\n").nice) == (-5, None)
    assert service.wanted_by == ("multi-user.target",)


@pytest.mark.parametrize(
    "text",
    [
        "[Service]\nType=simple\n",
        "[Service]\nExecStart=relative\n",
        "[Service]\nType=forking\nExecStart=/x\n",
        "[S]\nx\n",
        "[Service]\nExecStart=/x\nNice=-21\n",
        "[Service]\nExecStart=/x\nNice=first\n",
    ],
)
def test_a_service_that_cannot_be_run_is_refused(text):
    with pytest.raises(unitfile.BadUnitFile):
        unitfile.parse("x.service", text)


@pytest.mark.parametrize(
    ("restart", "clean", "unclean_exit", "signal"),
    [
        ("no", False, False, False),
        ("always", True, True, True),
        ("on-success", True, False, False),
        ("on-failure", False, True, True),
        ("on-abnormal", False, False, True),
        ("on-abort", False, False, True),
    ],
)
def test_restart_follows_systemds_table(restart, clean, unclean_exit, signal):
    service = unitfile.parse("x.service", f"[Service]\nExecStart=/x\nRestart={restart}\n")

    def restarts(*, clean, by_signal):
        return service.restarts_after(clean=clean, by_signal=by_signal, timed_out=False)

    assert restarts(clean=True, by_signal=False) == clean
    assert restarts(clean=False, by_signal=False) == unclean_exit
    assert restarts(clean=False, by_signal=True) == signal


ACTIONS = {
    "do": {
        "params": {"n": {"type": "integer", "default": 1}, "s": {"type": "string"}, "e": {"enum": ["a", "b"]}},
        "required": ["s"],
        "additionalProperties": False,
    }
}


def test_action_parameters_are_typed_and_have_defaults():
    assert actions.parameters(ACTIONS, "do", {"s": "5", "n": "5"}) == {"s": "5", "n": 5}
    assert actions.parameters(ACTIONS, "do", {"s": "x"}) == {"s": "x", "n": 1}


@pytest.mark.parametrize(
    "given", [{}, {"s": "x", "n": "one"}, {"s": "x", "n": "true"}, {"s": "x", "z": "1"}, {"s": "x", "e": "c"}]
)
def test_parameters_that_do_not_fit_are_refused(given):
    with pytest.raises(actions.BadParameters):
        actions.parameters(ACTIONS, "do", given)


def test_a_socket_path_longer_than_the_kernel_allows_works(tmp_path):
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    with home.listen(folder / "api.socket"), home.connect(folder / "api.socket", 1) as connection:
        assert connection.fileno() > 0


def test_remove_takes_only_what_is_ours(tmp_path):
    ours = home.Home(tmp_path / "home")
    ours.prepare()
    (ours.path / "somebodys.txt").touch()
    ours.machines.mkdir()

    ours.remove()

    assert [p.name for p in ours.path.iterdir()] == ["somebodys.txt"]
