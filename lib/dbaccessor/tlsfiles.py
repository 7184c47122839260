"""The shape of `<state dir>/tls/`: which files lie there, what a certificate says, and whether all of it fits. Pure.

| file | what it holds |
|---|---|
| ca.pem | the authorities whose certificates are trusted: one, or several while a new one replaces an old one |
| cert.pem | this controller's own certificate, then those that lead from a newer authority back to an older one |
| key.pem | its private key, which never leaves the machine |
| retired.pem | authorities of earlier times (optional): their certificates get an answer, and nothing else |

A certificate names its owner by one URI, and the authority decides what stands there. So the one who signs and the
one who checks share this module.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal
from urllib.parse import quote, unquote

from cryptography import exceptions, x509
from cryptography.hazmat.primitives import serialization

DIRECTORY = "tls"
CA = "ca.pem"
CERTIFICATE = "cert.pem"
KEY = "key.pem"
RETIRED = "retired.pem"
FILES = (CA, CERTIFICATE, KEY, RETIRED)

# The host name in every controller's certificate: Juju's clients ask for it, whatever address they dial.
API_SERVER = "juju-apiserver"

_CONTROLLER = "urn:ha-controller:controller:"
# OpenSSL follows a chain of a hundred; what the charm writes has fewer than ten.
_MOST_CERTIFICATES = 32
_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)

Kind = Literal["missing", "unreadable", "mismatch", "expired", "early"]


class BadCredentials(Exception):
    """The files cannot be used. The message names the file and what is wrong; `remedy` is what would help."""

    def __init__(self, kind: Kind, message: str, remedy: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.remedy = remedy


@dataclass(frozen=True)
class Credentials:
    """What was read, and found to belong together. `pem` is certificate, chain and key, for OpenSSL."""

    controller_id: str
    certificate: x509.Certificate
    authorities: tuple[x509.Certificate, ...]
    retired: tuple[x509.Certificate, ...]
    pem: bytes

    def at(self, moment: datetime.datetime) -> None:
        """Raise BadCredentials if the certificate is not valid at this moment (of a wall clock, with its zone)."""
        begins, ends = self._validity
        if moment < begins:
            raise BadCredentials(
                "early", f"{CERTIFICATE} is not valid before {begins:%Y-%m-%d %H:%M} UTC", "set this machine's clock"
            )
        if moment > ends:
            raise BadCredentials("expired", f"{CERTIFICATE} expired at {ends:%Y-%m-%d %H:%M} UTC", _ASK_AGAIN)

    @cached_property
    def _validity(self) -> tuple[datetime.datetime, datetime.datetime]:
        """Asked for with every connection; the certificate makes new ones each time."""
        return self.certificate.not_valid_before_utc, self.certificate.not_valid_after_utc


_ASK_AGAIN = "it needs a new certificate: the charm's leader signs one in its next hook, where a charm runs"


def uri(controller_id: str) -> str:
    """Return the name that a controller's certificate has."""
    return _CONTROLLER + quote(controller_id, safe="")


def controller_of(certificate: x509.Certificate) -> str:
    """Return the controller id that a certificate names; "" for a certificate of a program that is no controller."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ""
    return controller_named(names.get_values_for_type(x509.UniformResourceIdentifier))


def controller_named(uris: Iterable[str]) -> str:
    """Return the controller id among the URIs that a certificate names its owner by; "" where there is not one."""
    found = [n for n in uris if n.startswith(_CONTROLLER)]
    return unquote(found[0].removeprefix(_CONTROLLER)) if len(found) == 1 else ""


def certificates(pem: bytes) -> tuple[x509.Certificate, ...]:
    """Return the certificates in a PEM text, in their order. Raises ValueError."""
    blocks = _BLOCK.findall(pem)
    if len(blocks) > _MOST_CERTIFICATES:
        raise ValueError(f"{len(blocks)} certificates are more than the {_MOST_CERTIFICATES} that are read")
    return tuple(x509.load_pem_x509_certificate(block) for block in blocks)


def check(files: Mapping[str, bytes], controller_id: str | None) -> Credentials:
    """Return the credentials that `files` (name -> content) make up. Raises BadCredentials.

    `controller_id` is who this controller is; None where any certificate of a trusted authority will do.
    """
    for name in (CERTIFICATE, CA, KEY):
        if not files.get(name, b"").strip():
            remedy = "the charm writes it when its leader has signed" if name != KEY else "the charm writes it"
            raise BadCredentials("missing", f"{name} is not there yet", remedy)
    authorities, retired = _read(files, CA), _read(files, RETIRED)
    own, *chain = _read(files, CERTIFICATE) or (None,)
    if own is None or not authorities:
        raise BadCredentials("unreadable", f"{CA if own else CERTIFICATE} holds no certificate", _ASK_AGAIN)
    _check_key(files[KEY], own)
    if not any(_issued(own, authority) for authority in authorities):
        raise BadCredentials("mismatch", f"{CERTIFICATE} is not signed by an authority in {CA}", _ASK_AGAIN)
    named = controller_of(own)
    if controller_id is not None and named != controller_id:
        whose = f"of controller {named}" if named else "of no controller"
        message = f"{CERTIFICATE} is {whose}, and this is controller {controller_id}"
        raise BadCredentials("mismatch", message, _ASK_AGAIN)
    pem = b"".join(c.public_bytes(serialization.Encoding.PEM) for c in (own, *chain)) + files[KEY]
    return Credentials(named, own, authorities, retired, pem)


def _check_key(pem: bytes, certificate: x509.Certificate) -> None:
    try:
        public = serialization.load_pem_private_key(pem, None).public_key()
    except (ValueError, TypeError, exceptions.UnsupportedAlgorithm):
        # Without the library's own words: an error must not quote what it could not read.
        raise BadCredentials("unreadable", f"{KEY} holds no private key", _ASK_AGAIN) from None
    if public != certificate.public_key():
        raise BadCredentials("mismatch", f"{CERTIFICATE} is for another key than {KEY}", _ASK_AGAIN)


def _read(files: Mapping[str, bytes], name: str) -> tuple[x509.Certificate, ...]:
    try:
        return certificates(files.get(name, b""))
    except ValueError as error:
        raise BadCredentials("unreadable", f"{name} cannot be read: {error}", _ASK_AGAIN) from error


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, exceptions.InvalidSignature):
        return False
    return True
