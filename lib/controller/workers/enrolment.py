"""Flow 3, hop 4: what a new machine's agent begins with: a secret, and an agent.conf that leads to the controllers.

The secret is made once for each machine, in the transaction that writes the intent to start it: whoever asks the
provider again hands out the same one, since a provider keeps the files of whoever asked first. It lies in clear only
from the intent until the machine has started; the agent replaces it at its first login.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from controller import ownmachine
from controller.api import agentsecrets, passwords, published
from controller.api.agent import agentconf
from controller.api.certificate import ServerCertificate
from controller.api.messages import Epoch, Servers
from controller.api.scopes import HostPort
from controller.node import Databases
from controller.workers import machinerows
from controller.workers.machines import Machine
from controller.workers.provider import File
from dbaccessor import errors, tlsfiles
from dbaccessor.conf import ControllerConf
from dbaccessor.database import Transaction
from dbaccessor.namespaces import CONTROLLER
from dbaccessor.tls import Keyring
from dbaccessor.tlsfiles import BadCredentials


def tag_of(machine: Machine) -> str:
    """Return the name by which a machine's agent logs in."""
    return f"{machinerows.MACHINE_TAG}{machine.number}"


async def secret_of(tx: Transaction, machine: Machine) -> str:
    """Return the first secret of this machine's agent, making it, and letting it in, if there was none."""
    found = await tx.query("SELECT secret FROM machine_enrolment WHERE uuid = ?", (machine.uuid,))
    if found.rows:
        return str(found.rows[0][0])
    secret = passwords.new_secret()
    await tx.execute("INSERT INTO machine_enrolment (uuid, secret) VALUES (?, ?)", (machine.uuid, secret))
    await agentsecrets.provide(tx, tag_of(machine), passwords.hashed_secret(secret))
    return secret


async def forget_secret(tx: Transaction, machine: Machine) -> None:
    """Nobody needs to hand it out any more. The agent is let in with it until it makes its own."""
    await tx.execute("DELETE FROM machine_enrolment WHERE uuid = ?", (machine.uuid,))


async def shut_out(tx: Transaction, machine: Machine) -> None:
    """The machine is not wanted any more: its agent is let in no more."""
    await forget_secret(tx, machine)
    await agentsecrets.withdraw(tx, tag_of(machine))


@dataclass(frozen=True)
class Draft:
    """What all agents of one model begin with at one moment, but for their name and secret."""

    model_uuid: str
    controller_uuid: str
    cacert: str
    servers: Servers
    epoch: Epoch | None

    def text(self, machine: Machine, secret: str) -> str:
        """Return the agent.conf of this machine's agent. Pure."""
        conf = agentconf.new(
            tag_of(machine),
            controller=f"controller-{self.controller_uuid}",
            model=f"model-{self.model_uuid}",
            cacert=self.cacert,
            oldpassword=secret,
            controllers=[[HostPort(a.value, a.port) for a in group] for group in self.servers],
            epoch=self.epoch,
        )
        return conf.text

    def file(self, machine: Machine, secret: str) -> File:
        """Return it as a file of a new instance."""
        return File(f"{ownmachine.STATE_DIR}/{agentconf.FILE_NAME}", self.text(machine, secret))


class Enrolment:
    """Makes drafts, from what this controller knows now. `conf` returns the configuration in force."""

    def __init__(self, databases: Databases, state_dir: Path, conf: Callable[[], ControllerConf | None]) -> None:
        self._databases = databases
        self._state_dir = state_dir
        self._conf = conf

    async def draft(self, model_uuid: str) -> Draft | None:
        """Return what a new agent of this model begins with; None where there is no API (TLS is off).

        Raises NotReady where something is not there yet.
        """
        conf = self._conf()
        if conf is None:
            raise errors.NotReady("there is no configuration yet")
        if conf.tls == "off":
            return None
        certificate = ServerCertificate(Keyring(self._state_dir / tlsfiles.DIRECTORY, conf.controller_id))
        try:
            cacert = certificate.authorities()
        except BadCredentials as error:
            raise errors.NotReady(f"{error}; {error.remedy}") from error
        database = self._databases.database(CONTROLLER)
        servers = await published.PublishedAddresses(database, conf.api_port).for_agents()
        if not any(servers):
            raise errors.NotReady("no controller has an address that a new agent could dial")
        epoch = self._databases.epoch
        return Draft(
            model_uuid,
            self._databases.identity.cluster_uuid,
            cacert,
            servers,
            None if epoch is None else Epoch(epoch.number, epoch.tag),
        )
