"""What the API server shows of itself: the controller's own certificate, as its files hold it now.

The files are those of the connections between controllers (dbaccessor.tls). Here nobody has to show a certificate:
agents and clients log in with a secret. They trust the cluster's authority, and look at what the certificate names.
"""

from __future__ import annotations

import ssl

from cryptography.hazmat.primitives import serialization

from dbaccessor.tls import Contexts, Keyring, load_chain


class ServerCertificate:
    """Makes the contexts of new connections; those that exist live on with theirs."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._of: Contexts | None = None
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Return what the next connection is to be made with. Raises BadCredentials."""
        now = self._keyring.current()
        if self._context is None or now is not self._of:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            load_chain(context, now.credentials.pem)
            self._of, self._context = now, context
        return self._context

    def authorities(self) -> str:
        """Return the certificates that a client has to trust, as PEM. Raises BadCredentials."""
        found = self._keyring.current().credentials.authorities
        return "".join(c.public_bytes(serialization.Encoding.PEM).decode() for c in found)
