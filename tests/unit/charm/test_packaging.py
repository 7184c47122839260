"""What charmcraft, Juju and charmlint would say about the charm's files, without any of them packing it."""

import ast
import importlib.metadata
import re
import shutil
import stat
import subprocess
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from charmcraft import preprocess
from charmcraft.models.metadata import CharmMetadataLegacy
from charmcraft.models.project import CharmcraftProject, PlatformCharm

import charm
import managementspace

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def project() -> PlatformCharm:
    """The project as charmcraft itself puts it together and checks it; unknown keys are refused."""
    described: dict[str, Any] = yaml.safe_load((ROOT / "charmcraft.yaml").read_text())
    preprocess.add_default_parts(described)
    preprocess.add_metadata(ROOT, described)
    preprocess.add_config(ROOT, described)
    preprocess.add_actions(ROOT, described)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Of the model itself, about a key that we do not have.
        checked = CharmcraftProject.unmarshal(described)
    assert isinstance(checked, PlatformCharm)
    return checked


def test_charmcraft_accepts_the_project(project: PlatformCharm):
    assert (project.name, project.base, list(project.platforms)) == ("ha-controller", "ubuntu@24.04", ["amd64"])
    assert project.title == "HA Controller"


def test_charmcraft_s_model_of_metadata_accepts_what_juju_reads():
    metadata = CharmMetadataLegacy.unmarshal(yaml.safe_load((ROOT / "metadata.yaml").read_text()))

    assert metadata.peers == {"db-cluster": {"interface": "db-cluster", "optional": True}}


def test_the_recipe_takes_wheels_and_every_requirement_is_exact(project: PlatformCharm):
    part = project.parts["ha-controller"]

    assert part["plugin"] == "python"
    assert part["build-environment"] == [{"PIP_NO_BINARY": ""}]
    for name in part["python-requirements"]:
        for line in (ROOT / name).read_text().splitlines():
            if text := line.partition("#")[0].strip():
                assert re.fullmatch(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[^\s;]+", text), text


def test_requirements_hold_all_that_the_charm_and_controllerd_import():
    pinned = {
        _normal(line.partition("==")[0])
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if "==" in line
    }
    ours = {p.stem for p in (ROOT / "src").glob("*.py")} | {p.name for p in (ROOT / "lib").iterdir()}
    owners = importlib.metadata.packages_distributions()

    for path in (*(ROOT / "src").rglob("*.py"), *(ROOT / "lib").rglob("*.py")):
        for module in _imported(path) - ours:
            if module in owners:  # Else it is the standard library's.
                assert pinned & {_normal(owner) for owner in owners[module]}, f"{path.name} imports {module}"


def test_every_requirement_of_a_requirement_is_pinned_too():
    pinned = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line)
    names = {_normal(name) for name in pinned}

    # The plugin installs with --no-deps: what is not in the file is not in the charm.
    for name in pinned:
        for requirement in importlib.metadata.requires(name) or []:
            needed, _, marker = requirement.partition(";")
            if "extra" not in marker and "python_version" not in marker and "platform" not in marker:
                assert _normal(re.split(r"[\s<>=!~\[(]", needed.strip())[0]) in names, f"{name} needs {needed}"


def test_only_dqlite_and_libuv_are_staged_never_a_libc(project: PlatformCharm):
    part = project.parts["dqlite"]

    for step in ("stage", "prime"):
        assert {re.sub(r"\.so.*", "", p.rpartition("/")[2]) for p in part[step]} == {"libdqlite", "libuv"}
        assert all(p.startswith("usr/lib/*/") for p in part[step])


def test_the_staged_libdqlite_is_one_that_the_tests_passed_on(project: PlatformCharm):
    from dbaccessor.dqlite import native

    assert project.parts["dqlite"]["source-tag"].removeprefix("v") in native.PROVEN


def test_every_action_says_what_it_does_takes_nothing_unknown_and_has_a_handler():
    actions: dict[str, Any] = yaml.safe_load((ROOT / "actions.yaml").read_text())

    for name, action in actions.items():
        assert action["description"]
        assert action["additionalProperties"] is False
        assert f"self.on.{name.replace('-', '_')}_action" in (ROOT / "src" / "charm.py").read_text()


def test_the_option_s_default_and_range_are_the_code_s():
    option = yaml.safe_load((ROOT / "config.yaml").read_text())["options"][charm.LATENCY]

    assert option["default"] == charm.LATENCY_DEFAULT
    assert option["default"] in charm.LATENCY_RANGE
    assert f"{charm.LATENCY_RANGE[0]} to {charm.LATENCY_RANGE[-1]}" in option["description"]


def test_the_management_binding_and_option_are_the_ones_the_charm_uses():
    option = yaml.safe_load((ROOT / "config.yaml").read_text())["options"][managementspace.OPTION]

    assert (option["type"], option["default"]) == ("string", "")
    assert list(yaml.safe_load((ROOT / "metadata.yaml").read_text())["extra-bindings"]) == [managementspace.BINDING]


def test_the_interface_of_the_peers_is_the_one_the_charm_uses():
    peers = yaml.safe_load((ROOT / "metadata.yaml").read_text())["peers"]

    assert list(peers) == [charm.dbcluster.ENDPOINT]


# The file that scripts/pack assembles where there is no charmcraft.


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The charm of a copy of this checkout, so that a test never writes into the checkout itself."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("src", "lib"):
        shutil.copytree(ROOT / name, root / name)
    for path in (*ROOT.glob("*.yaml"), ROOT / "requirements.txt", ROOT / "icon.svg", ROOT / "LICENSE"):
        shutil.copy(path, root)
    return assemble(root)


def assemble(root: Path) -> Path:
    command = [str(ROOT / ".venv" / "bin" / "python"), str(ROOT / "scripts" / "assemble.py"), str(root)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "not to be published" in done.stderr
    return Path(done.stdout.strip())


def test_the_assembled_charm_holds_what_charmcraft_would_pack(packed: Path):
    with zipfile.ZipFile(packed) as archive:
        names = set(archive.namelist())
        manifest = yaml.safe_load(archive.read("manifest.yaml"))

    assert {"dispatch", "metadata.yaml", "config.yaml", "actions.yaml", "src/charm.py"} <= names
    assert "src/templates/controller.conf.j2" in names
    assert "lib/dbaccessor/schema/0001-controller.sql" in names
    assert any(re.fullmatch(r"usr/lib/[^/]+/libdqlite\.so\.0", n) for n in names)
    assert any(re.fullmatch(r"venv/lib/python3\.\d+/site-packages/ops/__init__\.py", n) for n in names)
    assert manifest["assembled-by"] == "scripts/pack"


def test_the_assembled_charm_holds_no_libc_no_cache_no_tests_and_no_test_tools(packed: Path):
    with zipfile.ZipFile(packed) as archive:
        names = archive.namelist()

    for word in ("libc.so", "__pycache__", ".egg-info", "localjuju", "site-packages/pytest", "site-packages/scenario"):
        assert not [n for n in names if word in n], word


def test_assembling_again_makes_the_same_file_and_writes_nothing(packed: Path):
    before = (packed.read_bytes(), packed.stat().st_mtime_ns)

    again = assemble(packed.parents[1])

    assert (again.read_bytes(), again.stat().st_mtime_ns) == before


def test_the_assembled_charm_s_own_python_runs_the_charm_and_controllerd(packed: Path, tmp_path: Path):
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path)
        for entry in archive.infolist():
            assert not stat.S_ISLNK(entry.external_attr >> 16) or entry.filename == "venv/bin/python"
    (tmp_path / "dispatch").chmod(0o755)
    # The first run of dispatch links the interpreter; without Juju the first hook command is as far as it gets.
    plain = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    ran = subprocess.run([tmp_path / "dispatch"], capture_output=True, text=True, env=plain, check=False)
    assert "No such file or directory: 'juju-log'" in ran.stderr

    help_text = subprocess.run(
        [tmp_path / "venv" / "bin" / "python", "-m", "controller.daemon", "--help"],
        capture_output=True,
        text=True,
        env=plain | {"PYTHONPATH": str(tmp_path / "lib")},
        check=True,
    ).stdout
    assert "--state-dir" in help_text


def _imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip().partition("[")[0]).lower()
