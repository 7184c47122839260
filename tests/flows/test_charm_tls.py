"""The real charm under TLS: units form a cluster, let nobody in without a certificate, and replace an authority."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from localjuju.client import Client

ROOT = Path(__file__).parents[2]
APP = "controller"
TLS = "/var/lib/ha-controller/tls"
# What somebody without a certificate gets who speaks the preamble in clear: all that comes, as hexadecimal digits.
KNOCK = """
import socket, sys
with socket.create_connection((sys.argv[1], 17666), timeout=10) as stream:
    stream.sendall(b"HAC1" + (2).to_bytes(4, "little") + b"{}")
    got = b""
    while part := stream.recv(4096):
        got += part
print(got.hex())
"""


def read(client: Client, unit: int, name: str) -> str:
    done = client.exec(f"{APP}/{unit}", ["cat", f"{TLS}/{name}"])
    assert done.returncode == 0, done.stderr
    return done.stdout


def papers(client: Client, unit: int) -> dict[str, Any]:
    """What the leader published about certificates, as this unit reads it."""
    (relation,) = client.call("show-unit", unit=f"{APP}/{unit}")[f"{APP}/{unit}"]["relation-info"]
    published: dict[str, Any] = json.loads(relation["application-data"]["certificates"])
    return published


def voters(count: int) -> Any:
    def there(status: dict[str, Any]) -> bool:
        app = status["applications"][APP]
        active = all(unit["workload-status"]["current"] == "active" for unit in app["units"].values())
        return active and len(app["units"]) == count and f"{count} voters" in app["application-status"]["message"]

    return there


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_units_form_a_cluster_under_tls_and_a_lost_one_ends_in_a_new_authority(client: Client):
    client.call("deploy", path=str(ROOT), name=APP, units=3)
    status = client.wait(voters(3), 240, "three voters")
    client.wait_settled()

    # One authority, and a key and a certificate for each.
    before = papers(client, 0)
    assert {read(client, n, "ca.pem") for n in range(3)} == {"".join(before["trusted"])}
    assert len({read(client, n, "key.pem") for n in range(3)}) == 3
    for n in range(3):
        assert read(client, n, "cert.pem").startswith(before["issued"][str(n)]["certificate"])
        modes = client.exec(f"{APP}/{n}", ["sh", "-c", f"stat -c %a {TLS}/*"]).stdout.split()
        assert set(modes) == {"600"}

    # Somebody without a certificate hears one sentence and nothing else.
    ip = status["applications"][APP]["units"][f"{APP}/1"]["public-address"]
    heard = bytes.fromhex(client.exec(f"{APP}/0", [sys.executable, "-c", KNOCK, ip]).stdout.strip())
    assert b"this controller requires TLS" in heard
    answer = json.loads(heard[8:])
    assert not answer.pop("accepted")
    assert answer.pop("reason")
    assert not any(answer.values()), "nothing of who is there"

    client.call("remove-unit", units=[f"{APP}/2"], force=True)
    client.wait(voters(2), 240, "two voters")

    def replaced(_: dict[str, Any]) -> bool:
        now = papers(client, 0)
        return now["authority"] != before["authority"] and len(now["trusted"]) == 1

    client.wait(replaced, 120, "the new authority to be the only one")
    client.wait_settled()
    after = papers(client, 0)
    for n in range(2):
        assert read(client, n, "ca.pem") == after["trusted"][0]
        assert read(client, n, "retired.pem") == before["trusted"][0]
    assert client.wait(voters(2), 60, "two voters, under the new authority")
