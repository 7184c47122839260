"""The example of docs/how-to/embed-dbaccessor.md runs as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "embed-dbaccessor.md"
LIB = Path(__file__).parents[3] / "lib"


def test_three_processes_of_the_page_share_one_inventory(tmp_path: Path):
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "inventory.py").write_text(program)
    addresses = [f"127.83.{os.getpid() % 250}.{10 + n}" for n in range(3)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "inventory.py"), str(tmp_path / str(n)), str(n), *addresses],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(LIB)},
        )
        for n in range(3)
    ]
    try:
        counts = []
        for n, process in enumerate(processes):
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.fullmatch(rf"{n} serves and sees (\d) items\n", line)
            assert found, line
            counts.append(int(found[1]))
        assert sorted(counts) == [1, 2, 3]
        for n, process in enumerate(processes):
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == f"{n} sees ['item of 0', 'item of 1', 'item of 2']\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        assert [process.wait(40) for process in processes] == [0, 0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
