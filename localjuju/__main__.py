"""The daemon's process: `python -m localjuju`, started by init inside the run's namespaces."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from localjuju import daemon, verbs
from localjuju import home as homes
from localjuju.model import ModelSettings


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--update-status-interval", type=float, default=60.0)
    parser.add_argument("--lease-seconds", type=float, default=3.0)
    args = parser.parse_args()
    settings = ModelSettings(args.update_status_interval, args.lease_seconds)
    asyncio.run(_run(homes.Home(args.home), settings))
    return 0


async def _run(home: homes.Home, settings: ModelSettings) -> None:
    await daemon.Daemon(home, settings).run(verbs.Verbs)
    os._exit(0)  # Agents still run and need no farewell: the kernel ends them with these namespaces.


if __name__ == "__main__":
    sys.exit(main())
