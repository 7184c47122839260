"""The registration string: all that a client needs to come in for the first time, as one line to copy. Pure.

It holds a secret that works once, and no password: whoever has it sets one. It is compressed JSON in base64, because a
certificate is in it; the first characters say which form it is, so that a later one can be told from it.
"""

from __future__ import annotations

import base64
import binascii
import zlib

import msgspec

_FORM = "hac1_"
_MOST_CHARACTERS = 64 * 1024
_MOST_BYTES = 1 << 20


class BadRegistration(ValueError):
    """A text that is no registration string. The message says what to do."""


class Registration(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """What the string says. `addresses` are host:port; the certificate is whom to trust there."""

    user: str
    secret: str
    controller_name: str
    controller_uuid: str
    ca_cert: str
    addresses: tuple[str, ...]


def render(registration: Registration) -> str:
    """Return the string, which `parse` reads."""
    packed = zlib.compress(msgspec.json.encode(registration), 9)
    return _FORM + base64.urlsafe_b64encode(packed).decode().rstrip("=")


def parse(text: str) -> Registration:
    """Return what the string says. Spaces and line breaks in it do not matter. Raises BadRegistration."""
    packed = "".join(text.split())
    if not packed.startswith(_FORM):
        form = packed.partition("_")[0]
        newer = form.startswith("hac") and form[3:].isdigit()
        raise BadRegistration("it is of a newer version: refresh hactl" if newer else f"it begins with {_FORM}")
    if len(packed) > _MOST_CHARACTERS:
        raise BadRegistration("it is too long")
    body = packed.removeprefix(_FORM)
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), _MOST_BYTES)
        if not unpacker.eof:
            raise BadRegistration("it is not whole: copy it again, to the end")
        return msgspec.json.decode(data, type=Registration)
    except (binascii.Error, zlib.error, msgspec.DecodeError, ValueError) as error:
        if isinstance(error, BadRegistration):
            raise
        raise BadRegistration("it is not whole: copy it again, to the end") from error
