"""Where the charm puts things on its machine: the one place that tests redirect.

The paths are the machine's real ones and have no root prefix: every unit has a machine (or a mount namespace)
of its own.
"""

from pathlib import Path

STATE_DIR = Path("/var/lib/ha-controller")
UNIT_FILE = Path("/etc/systemd/system/ha-controller.service")
HACTL = Path("/usr/local/bin/hactl")
