"""Secrets that let somebody in, and the form in which they are kept. Pure but for chance.

A person's password may be guessable, so its hash costs the guesser memory and time: scrypt, which the standard library
has (argon2 would be one more compiled dependency of the charm, for the same purpose). An agent's secret is 128 random
bits, which nobody guesses: one SHA-256 hides it from who reads the database, and two thousand agents log in at once.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets

# 16 MiB and about a fifth of a second: OWASP's recommendation for this much memory. Kept with each hash, so that it
# can be raised later.
_LOG2_N, _R, _P = 14, 8, 5
_MOST_MEMORY = 64 << 20
_SALT_BYTES = 16
_MOST_CHARACTERS = 1024


class Unsuitable(ValueError):
    """A password that is not taken. The message says why."""


def check(password: str) -> None:
    """Raise Unsuitable for a password that may not be set."""
    if not password:
        raise Unsuitable("the password is empty")
    if len(password) > _MOST_CHARACTERS:
        raise Unsuitable(f"the password is longer than {_MOST_CHARACTERS} characters")


def hashed(password: str) -> str:
    """Return what is kept of a person's password. Takes time and memory: not for the event loop. Raises Unsuitable."""
    check(password)
    salt = os.urandom(_SALT_BYTES)
    return "$".join(("scrypt", f"{_LOG2_N}.{_R}.{_P}", _text(salt), _text(_scrypt(password, salt, _LOG2_N, _R, _P))))


def matches(password: str, kept: str | None) -> bool:
    """Whether this is the password of which `kept` was kept. Without one it takes as long, and the answer is no."""
    if len(password) > _MOST_CHARACTERS:
        return False
    if kept is None:
        _scrypt(password, bytes(_SALT_BYTES), _LOG2_N, _R, _P)
        return False
    try:
        kind, cost, salt, digest = kept.split("$")
        log2_n, r, p = map(int, cost.split("."))
        if kind != "scrypt" or not 1 <= log2_n <= 20 or not 1 <= r <= 32 or not 1 <= p <= 16:
            return False
        return hmac.compare_digest(_scrypt(password, _bytes(salt), log2_n, r, p), _bytes(digest))
    except ValueError:  # Not something that was written here.
        return False


def new_secret() -> str:
    """Return 128 random bits as text: an agent's password, or the secret of a registration."""
    return secrets.token_urlsafe(16)


def hashed_secret(secret: str) -> str:
    """Return what is kept of a secret of `new_secret`."""
    return "sha256$" + hashlib.sha256(secret.encode()).hexdigest()


def secret_matches(secret: str, kept: str | None) -> bool:
    """Whether this is the secret of which `kept` was kept."""
    return kept is not None and hmac.compare_digest(hashed_secret(secret).encode(), kept.encode())


def _scrypt(password: str, salt: bytes, log2_n: int, r: int, p: int) -> bytes:
    # Text that is no Unicode (a lone surrogate) is a password like any other.
    secret = password.encode(errors="surrogatepass")
    return hashlib.scrypt(secret, salt=salt, n=1 << log2_n, r=r, p=p, maxmem=_MOST_MEMORY, dklen=32)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
