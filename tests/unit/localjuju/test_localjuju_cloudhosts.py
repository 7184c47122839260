"""What an instance's specification may put on the disk of its host."""

from __future__ import annotations

import base64
import io
import tarfile
from pathlib import Path

import pytest
from localjuju.cloud import BadSpec
from localjuju.cloudhosts import write_files


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> dict[str, object]:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return {"archives": [{"folder": "/var/lib/x", "base64": base64.b64encode(packed.getvalue()).decode()}]}


def member(name: str, kind: bytes = tarfile.REGTYPE, mode: int = 0o640, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname = kind, mode, link
    return info


def test_an_archive_is_unpacked_below_its_folder(tmp_path: Path):
    spec = archive((member("a/b.py"), b"b"), (member("empty", tarfile.DIRTYPE), b""), (member("c", mode=0o4755), b"c"))

    write_files(tmp_path, spec)

    folder = tmp_path / "var/lib/x"
    assert (folder / "a/b.py").read_bytes() == b"b"
    assert (folder / "empty").is_dir()
    assert (folder / "a/b.py").stat().st_mode & 0o7777 == 0o640
    assert (folder / "c").stat().st_mode & 0o7777 == 0o755, "never set-uid"


@pytest.mark.parametrize(
    "bad",
    [
        member("/etc/passwd"),
        member("../../../../up"),
        member("a/../../up"),
        member("link", tarfile.SYMTYPE, link="/etc"),
        member("hard", tarfile.LNKTYPE, link="/etc/passwd"),
        member("pipe", tarfile.FIFOTYPE),
        member("device", tarfile.CHRTYPE),
    ],
    ids=lambda info: info.name,
)
def test_an_archive_reaches_nowhere_else(tmp_path: Path, bad: tarfile.TarInfo):
    disk = tmp_path / "a/b/disk"
    disk.mkdir(parents=True)

    with pytest.raises(BadSpec, match="only plain files below its folder"):
        write_files(disk, archive((bad, b"")))

    assert not [p for p in tmp_path.rglob("*") if p.name in ("up", "passwd", "link", "hard", "pipe", "device")]
