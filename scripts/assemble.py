"""The tree that charmcraft would pack, put together from this checkout, its .venv and this machine's libdqlite.

Called by scripts/pack where there is no charmcraft. What differs from a real .charm is said on standard error and in
the manifest: the binaries are this machine's, so the file is for this machine and for tests, not for publication.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

import yaml

LIBRARIES = ("libdqlite.so", "libuv.so")
METADATA = ("metadata.yaml", "config.yaml", "actions.yaml", "LICENSE", "README.md", "icon.svg")
NOT_PACKED = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.pyc")
# The form of charmcraft 4's own, so that a charm which runs here runs there.
DISPATCH = """\
#!/bin/sh
dispatch_path="$(dirname $(realpath $0))"
venv_bin_path="${dispatch_path}/venv/bin"
python_path="${venv_bin_path}/python"
if [ ! -e "${python_path}" ]; then
    mkdir -p "${venv_bin_path}"
    ln -s $(which python3) "${python_path}"
fi
export PYTHONPATH="${dispatch_path}/lib:${dispatch_path}/src"
export LD_LIBRARY_PATH="${dispatch_path}/usr/lib:${dispatch_path}/lib:${dispatch_path}/usr/lib/$(uname -m)-linux-gnu"
exec "${python_path}" "${dispatch_path}/src/charm.py"
"""


class CannotAssemble(Exception):
    """Something is missing; the message is one sentence that says what."""


def main(root: Path) -> Path:
    """Assemble the charm of the checkout at `root`; return the file."""
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    target = root / "build" / f"ha-controller_{architecture}_assembled.charm"
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".tree-") as folder:
        tree = Path(folder)
        notes = [
            *copy_charm(root, tree),
            *copy_packages(root / "requirements.txt", tree / "venv"),
            *copy_libraries(tree),
        ]
        write_manifest(tree, architecture, notes)
        packed = target.with_name(f".{target.name}.new")
        pack(tree, packed)
    if target.exists() and target.read_bytes() == packed.read_bytes():
        packed.unlink()
    else:
        packed.rename(target)
    for note in notes:
        print(f"pack: {note}", file=sys.stderr)
    return target


def copy_charm(root: Path, tree: Path) -> list[str]:
    for name in ("src", "lib"):
        shutil.copytree(root / name, tree / name, ignore=NOT_PACKED)
    for name in METADATA:
        if (root / name).exists():
            shutil.copyfile(root / name, tree / name)
    (tree / "dispatch").write_text(DISPATCH)
    (tree / "dispatch").chmod(0o755)
    (tree / "src" / "charm.py").chmod(0o755)
    return ["assembled by scripts/pack, not by charmcraft: for this machine and for tests, not to be published"]


def copy_packages(requirements: Path, venv: Path) -> list[str]:
    """Copy exactly the frozen packages from the running environment, as installed; say what was peculiar."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    packages = venv / "lib" / f"python{version}" / "site-packages"
    for name, wanted in frozen(requirements):
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError as error:
            raise CannotAssemble(f"{name} is not installed: run scripts/setup") from error
        if found.version != wanted:
            raise CannotAssemble(f"{name} is {found.version}, not {wanted}: run scripts/setup")
        for file in found.files or ():
            # Entry points are written for this checkout's environment; the charm needs none of them.
            if file.parts[0] == ".." or "__pycache__" in file.parts:
                continue
            copy = packages / file
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found.locate_file(file), copy)
    # As charmcraft does: no interpreter, dispatch links the machine's own.
    shutil.rmtree(venv / "bin")
    (venv / "lib64").unlink(missing_ok=True)
    (venv / "bin").mkdir()
    (venv / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {version}\n")
    if version == system_python():
        return []
    interpreter = Path(sys.base_prefix) / "bin" / f"python{version}"
    (venv / "bin" / "python").symlink_to(interpreter)
    return [f"the packages are for Python {version}, which is not this machine's own: linked to {interpreter}"]


def frozen(requirements: Path) -> list[tuple[str, str]]:
    pinned = []
    for line in requirements.read_text().splitlines():
        text = line.partition("#")[0].partition(";")[0].strip().rstrip("\\").strip()
        if not text or text.startswith("-"):
            continue
        found = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", text)
        if found is None:
            raise CannotAssemble(f"{requirements.name}: {text!r} is not an exact version")
        pinned.append((found[1], found[2]))
    return pinned


def system_python() -> str:
    """Return the version of the python3 that a hook would find, "" when there is none."""
    found = shutil.which("python3", path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        return ""
    probe = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run([found, "-c", probe], check=True, capture_output=True, text=True).stdout.strip()


def copy_libraries(tree: Path) -> list[str]:
    """Copy libdqlite and libuv of this machine; whatever else they need is on every machine of the base."""
    triplet = sysconfig.get_config_var("MULTIARCH") or f"{platform.machine()}-linux-gnu"
    target = tree / "usr" / "lib" / triplet
    target.mkdir(parents=True)
    cache = subprocess.run(["/sbin/ldconfig", "-p"], check=True, capture_output=True, text=True).stdout
    copied = []
    for library in LIBRARIES:
        found = re.search(rf"\b({re.escape(library)}\.\d+) .*=> (\S+)$", cache, re.MULTILINE)
        if found is None:
            raise CannotAssemble(f"{library} is not on this machine: run scripts/setup")
        shutil.copyfile(Path(found[2]).resolve(), target / found[1])
        copied.append(found[1])
    return [f"{' and '.join(copied)} are this machine's"]


def write_manifest(tree: Path, architecture: str, notes: list[str]) -> None:
    system = platform.freedesktop_os_release()
    manifest = {
        "analysis": {"attributes": []},
        "bases": [{"name": system["ID"], "channel": system.get("VERSION_ID", ""), "architectures": [architecture]}],
        "assembled-by": "scripts/pack",
        "assembled-notes": notes,
    }
    (tree / "manifest.yaml").write_text(yaml.safe_dump(manifest, sort_keys=True))


def pack(tree: Path, target: Path) -> None:
    """Write the tree as a zip that depends on nothing but its content, symbolic links and modes included."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(p for p in tree.rglob("*") if p.is_symlink() or p.is_file()):
            entry = zipfile.ZipInfo(str(path.relative_to(tree)))
            entry.create_system = 3  # Unix: the upper half of external_attr is the mode.
            entry.compress_type = zipfile.ZIP_DEFLATED
            if path.is_symlink():
                entry.external_attr = (stat.S_IFLNK | 0o777) << 16
                archive.writestr(entry, str(path.readlink()))
            else:
                executable = path.stat().st_mode & 0o100
                entry.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
                archive.writestr(entry, path.read_bytes())


if __name__ == "__main__":
    try:
        print(main(Path(sys.argv[1])))
    except CannotAssemble as problem:
        print(f"pack: {problem}", file=sys.stderr)
        sys.exit(1)
