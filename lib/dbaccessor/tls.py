"""Who is at the other end: certificates from files -> a context for each side, and what a peer's certificate says.

Both sides of a connection show a certificate, and both check it: the chain up to an authority they trust (OpenSSL does
that), and the controller id it names (proxy.py and dial.py do that with `Peer`). The files may be replaced at any time:
every new connection is made with what they hold then, and those that exist live on.
"""

from __future__ import annotations

import datetime
import errno
import logging
import os
import ssl
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from dbaccessor import tlsfiles
from dbaccessor.tlsfiles import BadCredentials, Credentials

log = logging.getLogger(__name__)

_MOST_BYTES = 1 << 20
_DER = 2  # _ssl.ENCODING_DER

# What the other side says before it hangs up, in OpenSSL's names, and what that means.
_ALERTS = {
    "TLSV1_ALERT_UNKNOWN_CA": "it does not trust the authority of this controller's certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it says that this controller's certificate has expired: compare the clocks",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not accept this controller's certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not accept this controller's certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it requires a certificate",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it speaks another version of TLS",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no certificate",
}
# OpenSSL's numbers for what is wrong with the other side's certificate.
_FAULTS = {
    9: "its certificate is not valid yet: compare the clocks",
    10: "its certificate has expired",
}


@dataclass(frozen=True)
class Peer:
    """Whom the other side's certificate names.

    `controller_id` is "" for a program that is no controller. `retired`: the certificate is of an authority that was
    replaced, after a controller had been lost; it proves who that was, and no more.
    """

    controller_id: str
    retired: bool = False

    def __str__(self) -> str:
        return f"controller {self.controller_id}" if self.controller_id else "a client"


@dataclass(frozen=True)
class Contexts:
    """One state of the files: what a connection is made with."""

    credentials: Credentials
    server: ssl.SSLContext
    client: ssl.SSLContext
    _trusted: frozenset[bytes]

    def identify(self, connection: Any) -> Peer:
        """Return whom the certificate names that a finished handshake has verified."""
        chain = _verified_chain(connection)
        certificate = x509.load_der_x509_certificate(chain[0])
        return Peer(tlsfiles.controller_of(certificate), retired=chain[-1] not in self._trusted)


class Keyring:
    """The contexts of one folder, made anew when its files have changed. Callable from any thread.

    `controller_id` is whose certificate it must be. None is for a program that is no controller: any certificate will
    do, and authorities that were replaced are nothing to it. `directory` may be replaced at any time.
    """

    def __init__(
        self, directory: Path, controller_id: str | None = None, *, now: Callable[[], datetime.datetime] | None = None
    ) -> None:
        self.directory = directory
        self.controller_id = controller_id
        self._now = now or (lambda: datetime.datetime.now(datetime.UTC))
        self._lock = threading.Lock()
        self._contexts: Contexts | None = None
        self._later: Contexts | None = None  # What the files hold, as long as it has not replaced the last good ones.
        self._bad: BadCredentials | None = None
        self._signature: tuple[object, ...] = ()

    def current(self) -> Contexts:
        """Return what a new connection is to be made with. Raises BadCredentials.

        Files that make no sense do not replace good ones, nor do those that are not valid now: the last good ones
        serve until they expire.
        """
        with self._lock:
            self._look()
            self._take_over()
            if self._contexts is None:
                assert self._bad is not None
                raise self._bad
            self._contexts.credentials.at(self._now())
            return self._contexts

    def problem(self) -> BadCredentials | None:
        """Return what is wrong with the files now, even where the last good ones still serve."""
        try:
            self.current()
        except BadCredentials as error:
            return error
        return self._bad

    def _look(self) -> None:
        signature = self._stat()
        if signature == self._signature:
            return
        try:
            fresh = _contexts(
                tlsfiles.check(self._read(), self.controller_id), also_retired=self.controller_id is not None
            )
        except BadCredentials as error:
            if str(error) != str(self._bad):
                level = logging.WARNING if self._contexts is not None else logging.INFO
                log.log(level, "%s: %s", self.directory, error)
            self._bad, self._later = error, None
        else:
            self._later = fresh
        # Files that were replaced while they were read show another state now, and are read again next time.
        self._signature = signature

    def _take_over(self) -> None:
        """Let what the files hold replace what was in force, unless that is valid now and the new is not."""
        fresh = self._later
        if fresh is None:
            return
        bad = self._wrong_now(fresh)
        if bad is not None and self._contexts is not None and self._wrong_now(self._contexts) is None:
            if str(bad) != str(self._bad):
                log.warning("%s: %s", self.directory, bad)
            self._bad = bad
            return
        ends = fresh.credentials.certificate.not_valid_after_utc
        log.info("certificate of %s, valid until %s", Peer(fresh.credentials.controller_id), ends.isoformat())
        self._contexts, self._later, self._bad = fresh, None, None

    def _wrong_now(self, contexts: Contexts) -> BadCredentials | None:
        try:
            contexts.credentials.at(self._now())
        except BadCredentials as error:
            return error
        return None

    def _stat(self) -> tuple[object, ...]:
        folder = self.directory

        def one(name: str) -> object:
            try:
                # Twice in every step of the worker, and not through Path, which takes several times as long.
                found = os.stat(f"{folder}/{name}")  # noqa: PTH116
            except OSError as error:
                return error.errno
            return (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)

        return tuple(one(name) for name in tlsfiles.FILES)

    def _read(self) -> dict[str, bytes]:
        found = {}
        for name in tlsfiles.FILES:
            path = self.directory / name
            try:
                with path.open("rb") as file:
                    if name == tlsfiles.KEY and stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                        raise BadCredentials(
                            "unreadable", f"{path} may be read by others than its owner", f"chmod 600 {path}"
                        )
                    found[name] = file.read(_MOST_BYTES)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise BadCredentials(
                    "unreadable", f"{path} cannot be read: {error.strerror}", "see the folder's owner and modes"
                ) from error
        return found


def explain(error: OSError | EOFError) -> str:
    """Say in a few words why a handshake, or the first words after it, failed. The one place that reads OpenSSL's."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _FAULTS.get(error.verify_code, f"its certificate is not of a trusted authority ({error.verify_message})")
    gone = isinstance(error, ssl.SSLEOFError | EOFError | ConnectionResetError | BrokenPipeError)
    # The ssl module's own word for a connection that was reset before the handshake could begin.
    if gone or (isinstance(error, OSError) and error.errno == errno.ENOTCONN):
        return "it closed the connection during the handshake"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        if reason in _ALERTS:
            return _ALERTS[reason]
        return f"it does not speak TLS 1.3 ({reason.replace('_', ' ').lower() or error})"
    return str(error) or type(error).__name__


def _contexts(credentials: Credentials, *, also_retired: bool) -> Contexts:
    trusted = frozenset(_der(c) for c in credentials.authorities)
    # Those of earlier times may have to be told that they are past.
    known = (*credentials.authorities, *(credentials.retired if also_retired else ()))
    anchors = b"".join(c.public_bytes(serialization.Encoding.PEM) for c in known).decode()
    server = _context(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), credentials, anchors)
    server.num_tickets = 0  # A resumed session would skip the certificates.
    return Contexts(
        credentials, server, _context(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), credentials, anchors), trusted
    )


def _context(context: ssl.SSLContext, credentials: Credentials, anchors: str) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # The name that counts is the controller id, which the caller compares; addresses are not in certificates.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        context.load_verify_locations(cadata=anchors)
        load_chain(context, credentials.pem)
    except ssl.SSLError as error:
        raise BadCredentials(
            "unreadable", f"{tlsfiles.CERTIFICATE} cannot be used: {error.reason}", "replace the files"
        ) from error
    return context


def load_chain(context: ssl.SSLContext, pem: bytes) -> None:
    """Load certificate, chain and key from memory: from the files they might be those of two moments."""
    fd = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        os.write(fd, pem)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _verified_chain(connection: Any) -> list[bytes]:
    """Return the chain that OpenSSL has verified, from the peer's certificate to the authority, as DER."""
    if hasattr(connection, "get_verified_chain"):  # Python 3.13
        return list(connection.get_verified_chain())
    return [c.public_bytes(_DER) for c in connection._sslobj.get_verified_chain()]


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)
