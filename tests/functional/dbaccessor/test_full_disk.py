"""A full disk takes one node out, and the others, the operator and the margin are told so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

STORY = Path(__file__).parents[2] / "support" / "fulldisk_story.py"


@pytest.mark.slow
def test_a_leader_whose_disk_is_full_gives_way_and_comes_back_by_itself_when_there_is_room(tmp_path: Path):
    command = ["unshare", "--mount", sys.executable, str(STORY), str(tmp_path)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)

    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["told"]), done.stdout + done.stderr


@pytest.mark.slow
def test_a_repair_that_finds_no_room_leaves_everything_as_it_was(tmp_path: Path):
    story = STORY.with_name("fullrepair_story.py")
    command = ["unshare", "--mount", sys.executable, str(story), str(tmp_path)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)

    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["told"]), done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_a_node_that_starts_on_a_full_disk_keeps_its_data_and_serves_once_there_is_room(tmp_path: Path, count: int):
    story = STORY.with_name("fullstart_story.py")
    command = ["unshare", "--mount", sys.executable, str(story), str(tmp_path), str(count)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)

    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["told"]), done.stdout + done.stderr
