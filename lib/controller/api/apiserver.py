"""The api-server manifold: the API of this controller, at the address and port of its configuration.

It begins once the tables are there, shows the controller's own certificate as its files hold it, and begins anew when
the configuration says another port. Where TLS is off, which is for controllers of one machine alone, there is no API.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from controller.api import passwords
from controller.api.agentsecrets import AgentSecrets
from controller.api.certificate import ServerCertificate
from controller.api.domain import Domain, Model
from controller.api.messages import Epoch
from controller.api.pages import Sources
from controller.api.published import PublishedAddresses
from controller.api.registration import Registration
from controller.api.server import Server
from controller.api.users import Runs, UserStore
from controller.controllerconfig import ControllerConfig
from controller.engine import Bounce
from controller.models.service import Models
from controller.node import Databases
from dbaccessor import errors, tlsfiles
from dbaccessor.conf import ControllerConf, is_loopback
from dbaccessor.namespaces import CONTROLLER
from dbaccessor.tls import Keyring
from dbaccessor.tlsfiles import BadCredentials

log = logging.getLogger(__name__)

NAME: Final = "api-server"
DEFAULT_NAME: Final = "ha-controller"
REGISTRATION_SECONDS: Final = 24 * 3600

_LOOK_SECONDS: Final = 2.0

Conf = Callable[[], ControllerConf | None]


class About:
    """What this controller says of itself."""

    name = DEFAULT_NAME

    def __init__(self, databases: Databases, certificate: ServerCertificate) -> None:
        self._databases = databases
        self._certificate = certificate
        self.newest_heard: Epoch | None = None

    @property
    def controller_uuid(self) -> str:
        return self._databases.identity.cluster_uuid

    def epoch(self) -> Epoch:
        own = self._databases.epoch
        return Epoch() if own is None else Epoch(own.number, own.tag)

    def ca_cert(self) -> str:
        try:
            return self._certificate.authorities()
        except BadCredentials as error:
            raise errors.NotReady(f"{error}; {error.remedy}") from error

    def heard(self, epoch: Epoch) -> None:
        if self.newest_heard is None or epoch.number > self.newest_heard.number:
            log.warning(
                "somebody who logged in knows of epoch %d, and this is epoch %d: was this controller left behind?",
                epoch.number,
                self.epoch().number,
            )
            self.newest_heard = epoch


class ModelRows:
    """The models and their databases, as the API asks for them."""

    def __init__(self, models: Models) -> None:
        self._models = models

    async def models(self) -> tuple[Model, ...]:
        return tuple(Model(m.uuid, m.name, m.owner or "admin", m.life) for m in await self._models.all())

    def database(self, model_uuid: str) -> Runs:
        return self._models.databases.database(f"model-{model_uuid}")


class ApiServer:
    """The worker. `conf` returns the configuration in force."""

    def __init__(self, state_dir: Path, conf: Conf, databases: Databases, models: Models, sources: Sources) -> None:
        self._conf = conf
        self._made_for = _place(conf())
        self._server: Server | None = None
        made_for = conf()
        if made_for is None or self._made_for is None:
            return
        keyring = Keyring(state_dir / tlsfiles.DIRECTORY, made_for.controller_id)
        certificate = ServerCertificate(keyring)
        database = databases.database(CONTROLLER)
        rows = ModelRows(models)
        self._about = About(databases, certificate)
        self._users = UserStore(database)
        self._addresses = PublishedAddresses(database, made_for.api_port)
        domain = Domain(self._about, self._users, AgentSecrets(rows), rows, self._addresses, ControllerConfig(database))
        self._server = Server(domain, sources, certificate.context, self._made_for[0], self._made_for[1])

    async def run(self) -> None:
        """Serve until cancelled. Raises Bounce when the configuration wants another address, and OSError."""
        if self._server is None:
            await self._until_moved()
        else:
            self._server.bind()
            log.info("the API is served at %s", ", ".join(self._server.report()["listening"]))
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._server.run())
                    group.create_task(self._addresses.run())
                    group.create_task(self._until_moved())
            except* Bounce as moved:
                raise moved.exceptions[0] from None
            finally:
                self._server.unbind()  # A task that is cancelled before it began has no finally of its own.

    @property
    def address_notes(self) -> tuple[str, ...]:
        """What an operator should know of where agents are sent; nothing where there is no API to be sent to."""
        return () if self._server is None else self._addresses.notes

    def report(self) -> dict[str, Any]:
        """Return the server's report, or why there is none."""
        if self._server is None:
            return {"served": False, "reason": "TLS is off: nothing goes between machines in clear"}
        heard = self._about.newest_heard
        return {"served": True, **self._server.report(), "newer-epoch-heard": None if heard is None else heard.number}

    async def open_registration(self, user: str, seconds: int = REGISTRATION_SECONDS) -> Registration:
        """Let this user set her password once, and return how; an earlier registration ends.

        Raises Refused for a user there is not, and NotReady.
        """
        if self._server is None:
            raise errors.Refused("the API is not served while TLS is off")
        ca_cert, servers = self._about.ca_cert(), await self._addresses.for_clients()
        secret = passwords.new_secret()
        if not await self._users.open_registration(user, passwords.hashed_secret(secret), seconds):
            there = ", ".join(u.name for u in await self._users.users())
            raise errors.Refused(f"there is no user {user}; there are: {there}")
        return Registration(
            user=user,
            secret=secret,
            controller_name=self._about.name,
            controller_uuid=self._about.controller_uuid,
            ca_cert=ca_cert,
            addresses=tuple(str(address) for group in servers for address in group),
        )

    async def _until_moved(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if _place(self._conf()) != self._made_for:
                raise Bounce("the configuration wants another address or port")


def _place(conf: ControllerConf | None) -> tuple[tuple[str, ...], int] | None:
    """Return the addresses to bind, () for all of them, and the port; None where no API is to be served."""
    if conf is None or conf.tls == "off":
        return None
    own = conf.own_address
    # One that never leaves the machine may share it with others; else clients may come in by any of its networks.
    hosts = (own,) if own is not None and is_loopback(own) else ()
    return hosts, conf.api_port
