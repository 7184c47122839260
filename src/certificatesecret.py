"""Flow 1, hop 2, for TLS: the authority's key, in a secret that belongs to the application. Only its leader asks."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Collection, Mapping

import msgspec
import ops

import certificates
import signing
from certificates import Applicant, Papers
from signing import Authority

logger = logging.getLogger(__name__)

LABEL = "certificate-authority"


class Vault:
    """The secret, whichever unit made it. What is written is there for others once this hook has ended well."""

    def __init__(self, model: ops.Model) -> None:
        self._model = model

    def issue(
        self,
        papers: Papers,
        units: Mapping[str, Applicant | None],
        departed: Collection[str],
        now: datetime.datetime,
    ) -> tuple[Papers, list[str]]:
        """Do what is due, with the secret's authority. Return the papers, and what could not be done."""
        held = self._read()
        if held is None and papers.authority:
            logger.warning("the secret of authority %s is gone: another authority takes over", papers.authority)
        try:
            fresh, authority, problems = certificates.issue(papers, held, units, departed, now)
        except signing.BadClock as error:
            return papers, [str(error)]
        if authority != held:
            logger.info("authority %s signs from now on", authority.id)
            fresh = msgspec.structs.replace(fresh, secret=self._write(authority) or papers.secret)
        return fresh, problems

    def _read(self) -> Authority | None:
        """Return what the secret holds, None when there is no such secret. Any other failure fails the hook."""
        try:
            secret = self._model.get_secret(label=LABEL)
            # Refreshed, so that revisions of earlier authorities are followed by nobody and can be removed.
            return Authority.parse(secret.get_content(refresh=True))
        except ops.SecretNotFoundError:
            return None
        except (KeyError, ValueError) as error:
            # Without a word of what it holds.
            logger.warning("the secret %s cannot be read (%s): a new authority is made", LABEL, type(error).__name__)
            return None

    def _write(self, authority: Authority) -> str:
        """Keep this authority; return the secret's id."""
        try:
            secret = self._model.get_secret(label=LABEL)
        except ops.SecretNotFoundError:
            secret = self._model.app.add_secret(
                authority.dump(), label=LABEL, description="The key that signs the controllers' certificates"
            )
            return secret.id or ""
        secret.set_content(authority.dump())
        return secret.get_info().id


def follow_newest_revision(event: ops.SecretChangedEvent) -> None:
    """Let go of the revision that this unit read when it led: while somebody follows it, Juju keeps its key."""
    if event.secret.label == LABEL:
        try:
            event.secret.get_content(refresh=True)
        except ops.SecretNotFoundError:
            logger.info("the secret %s is gone: there is nothing to follow", LABEL)


def forget_old_revision(event: ops.SecretRemoveEvent) -> None:
    """Nobody follows this revision any more: the key of an authority that was replaced goes for good."""
    if event.secret.label == LABEL:
        logger.info("revision %d of the secret %s is removed", event.revision, LABEL)
        event.remove_revision()  # type: ignore[no-untyped-call]  # ops leaves it without annotations.
