"""The kernel's own answer, in a network namespace that the test makes; `ip -j addr` is the second opinion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

LIB = Path(__file__).parents[3] / "lib"

STORY = """
set -e
ip link set lo up
ip link add dev eth9 type veth peer name far9
ip link add dev asleep type veth peer name far8
ip link add dev lxdbr0 type bridge
ip address add 10.9.0.5/24 dev eth9
ip address add 10.9.0.6/24 dev eth9
ip address add fd09::5/64 dev eth9 nodad
ip address add 10.77.0.5/24 dev asleep
ip address add 10.0.3.1/24 dev lxdbr0
ip link set eth9 up
ip link set far9 up
ip link set lxdbr0 up
"$PYTHON" - <<'PYTHON'
import json
from controller.api import interfaces
found = interfaces.current()
print(json.dumps({
    "all": {i.name: sorted(str(a) for a in i.addresses) for i in found},
    "afar": interfaces.dialled_from_afar(found),
    "inside": [str(n) for n in interfaces.inside_only(found)],
}))
PYTHON
ip -j address show up
"""


def test_what_the_kernel_says_over_netlink_is_what_ip_says():
    done = subprocess.run(
        ["unshare", "--net", "bash", "-c", STORY],
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(LIB)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    ours, theirs = map(json.loads, done.stdout.splitlines())

    # Without link-local ones: their duplicate detection may end between the two questions.
    assert {name: [a for a in found if not a.startswith("fe80")] for name, found in ours["all"].items()} == {
        link["ifname"]: sorted(f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"] if a["scope"] != "link")
        for link in theirs
        if link
    }
    assert set(ours["all"]) == {"lo", "eth9", "far9", "lxdbr0"}
    assert ours["afar"] == ["10.9.0.5", "10.9.0.6", "fd09::5"]
    assert [n for n in ours["inside"] if not n.startswith("fe80")] == ["10.0.3.0/24"]
