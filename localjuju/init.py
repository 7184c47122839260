"""Pid 1 of a run: readies its namespaces, starts the daemon, reaps orphans, and ends when the daemon ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import NoReturn

from localjuju import home as homes
from localjuju import namespaces


def main(home: homes.Home, daemon_args: list[str]) -> NoReturn:
    """Run the daemon until it ends, then end: the kernel kills whatever else lives in these namespaces."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    namespaces.mount("proc", "/proc", "proc")
    # Upper layers of the hosts' root folders land here where the home's own file system cannot carry them.
    home.volatile.mkdir(exist_ok=True)
    namespaces.mount("tmpfs", home.volatile, "tmpfs", data="mode=0755")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    daemon = os.fork()
    if daemon == 0:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        argv = [sys.executable, "-m", "localjuju", "--home", str(home.path), *daemon_args]
        os.execv(sys.executable, argv)
    while True:
        pid, status = os.wait()
        if pid == daemon:
            namespaces.exit_as(status)
