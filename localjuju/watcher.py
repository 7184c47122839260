"""The run's outer watcher: starts the namespaces, waits for their end or for --die-with's, then removes the files.

It is the only process of a run in the machine's own namespaces. Killed itself, it takes the run with it (the run's
first process dies with its parent); only the files then stay, for the next bootstrap or destroy to remove.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shutil
import signal
import sys
from pathlib import Path

from localjuju import home as homes
from localjuju import init, namespaces


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--die-with", type=int, default=0)
    parser.add_argument("--keep-logs", type=Path)
    parser.add_argument("daemon_args", nargs="*")
    args = parser.parse_args()
    home = homes.Home(args.home)
    with home.lock() as free:
        if not free:
            print("another run holds this home", file=sys.stderr)
            return 1
        return _watch(home, args.die_with, args.keep_logs, args.daemon_args)


def _watch(home: homes.Home, die_with: int, keep_logs: Path | None, daemon_args: list[str]) -> int:
    wanted_end, wake = os.pipe()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: os.write(wake, b"!"))
    ends = [wanted_end]
    if die_with:
        try:
            ends.append(os.pidfd_open(die_with))
        except ProcessLookupError:
            home.remove()
            return 0
    pid, is_child = namespaces.fork_pid1()
    if is_child:
        init.main(home, daemon_args)
    run = homes.Run(watcher=os.getpid(), init=pid, init_started=homes.started(pid))
    home.write_run(run)
    ends.append(os.pidfd_open(pid))
    select.select(ends, [], [])
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)  # Returns only when every process of its pid namespace is gone.
    if keep_logs:
        keep_logs.mkdir(parents=True, exist_ok=True)
        for log in (home.log, home.debug_log, home.cloud_log):
            if log.exists():
                shutil.copy(log, keep_logs / log.name)
    home.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main())
