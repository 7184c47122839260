"""What a process that holds a node sets for its other threads."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc, sys
from dbaccessor import process
process.prepare()
gc.collect()
print(sys.getswitchinterval() <= 0.001, len(gc.get_objects()) < gc.get_freeze_count())
"""


def test_other_threads_wait_a_millisecond_and_collections_leave_out_what_is_imported():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert done.stdout == "True True\n", done.stderr
