"""Keys, requests and certificates: the charm's only module that needs the cryptography package. Pure but for chance.

Loading that package takes a third of a short hook, so certificates.py and certificatefiles.py import this one only when
there is something to make or to read; most hooks find nothing.

A certificate's beginning is its authority's, and an authority's is that of the one it replaces, whatever the clock of
the unit that signs says now: a leader whose clock runs ahead must not sign what nobody accepts yet. A clock that is
behind the authority's beginning signs nothing.
"""

from __future__ import annotations

import datetime
import hashlib
import secrets
from dataclasses import dataclass

from cryptography import exceptions, x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dbaccessor import tlsfiles

LEAF_LIFETIME = datetime.timedelta(days=365)
LEAF_RENEWAL = datetime.timedelta(days=120)  # Before the end.
AUTHORITY_LIFETIME = datetime.timedelta(days=3650)
AUTHORITY_RENEWAL = 2 * LEAF_LIFETIME
_BACKDATED = datetime.timedelta(days=1)


class BadRequest(ValueError):
    """A certificate request that cannot be signed. The message is one sentence."""


class BadClock(Exception):
    """This machine's clock cannot be right; nothing is signed by it."""


@dataclass(frozen=True)
class Authority:
    """The cluster's own certificate authority: what the secret holds.

    `chain` leads from this authority back to those before it: each link is this one's certificate, signed by the one
    before. So who only trusts an older one can still verify a certificate of today.
    """

    key: str
    certificate: str
    chain: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return digest(self.certificate)

    def dump(self) -> dict[str, str]:
        return {"key": self.key, "certificate": self.certificate, "chain": "".join(self.chain) or "-"}

    @classmethod
    def parse(cls, content: dict[str, str]) -> Authority:
        """Return what a secret's content says. Raises KeyError or ValueError."""
        chain = tlsfiles.certificates(content["chain"].encode())
        own = tlsfiles.certificates(content["certificate"].encode())
        if len(own) != 1 or not content["key"]:
            raise ValueError("a key and one certificate are expected")
        return cls(content["key"], _pem(own[0]), tuple(_pem(c) for c in chain))


def digest(text: str) -> str:
    """Return a short name for a certificate or a request. Public, as they are."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def new_key() -> str:
    """Return a new private key, P-256, as PEM."""
    return _key_pem(ec.generate_private_key(ec.SECP256R1()))


def request(key: str) -> str:
    """Return a request for a certificate of this key. What it says of its owner counts for nothing."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ha-controller")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    return builder.sign(_load_key(key), hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def fits(request_text: str, key: str) -> bool:
    """Whether this request was made for this key."""
    try:
        wanted = x509.load_pem_x509_csr(request_text.encode()).public_key()
        return wanted == _load_key(key).public_key()
    except (ValueError, TypeError, exceptions.UnsupportedAlgorithm):
        return False


def found(now: datetime.datetime, before: str = "") -> Authority:
    """Return a new authority, signed by itself. It begins where `before` did, the certificate of one it replaces.

    That one's beginning has been accepted by everybody, and `now` may be days ahead of everybody's clocks.
    """
    begins = x509.load_pem_x509_certificate(before.encode()).not_valid_before_utc if before else now - _BACKDATED
    key = ec.generate_private_key(ec.SECP256R1())
    own = _authority(key.public_key(), _new_name(), begins, now + AUTHORITY_LIFETIME).sign(key, hashes.SHA256())
    return Authority(_key_pem(key), _pem(own))


def succeed(old: Authority, now: datetime.datetime, most: int) -> Authority:
    """Return the authority that replaces `old`, with at most `most` links back."""
    new = found(now, old.certificate)
    signer = x509.load_pem_x509_certificate(old.certificate.encode())
    own = x509.load_pem_x509_certificate(new.certificate.encode())
    public = own.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    begins, ends = signer.not_valid_before_utc, signer.not_valid_after_utc
    link = _authority(public, own.subject, begins, ends, signer=signer).sign(_load_key(old.key), hashes.SHA256())
    return Authority(new.key, new.certificate, (_pem(link), *old.chain)[:most])


def sign(authority: Authority, request_text: str, controller_id: str, now: datetime.datetime) -> str:
    """Return a certificate for the key of this request that names this controller. Raises BadRequest, BadClock."""
    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    if now < issuer.not_valid_before_utc:
        raise BadClock(f"this machine's clock ({now:%Y-%m-%d %H:%M} UTC) is behind the authority's making: set it")
    try:
        asked = x509.load_pem_x509_csr(request_text.encode())
        key = asked.public_key()
        good = asked.is_signature_valid
    except (ValueError, TypeError, exceptions.UnsupportedAlgorithm) as error:
        raise BadRequest(f"the certificate request of controller {controller_id} cannot be read") from error
    if not good or not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadRequest(f"the certificate request of controller {controller_id} is not signed by a key of P-256")
    # Ours look at the URI. The host name is for Juju's own clients, who ask for it and know no controller ids.
    owner = [x509.UniformResourceIdentifier(tlsfiles.uri(controller_id)), x509.DNSName(tlsfiles.API_SERVER)]
    names = x509.SubjectAlternativeName(owner)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ha-controller")]))
        .issuer_name(issuer.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(issuer.not_valid_before_utc)
        .not_valid_after(min(now + LEAF_LIFETIME, issuer.not_valid_after_utc))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(_issuer_id(issuer), critical=False)
    )
    return _pem(builder.sign(_load_key(authority.key), hashes.SHA256()))


def ends(certificate: str) -> datetime.datetime:
    return x509.load_pem_x509_certificate(certificate.encode()).not_valid_after_utc


def _authority(
    key: ec.EllipticCurvePublicKey,
    name: x509.Name,
    begins: datetime.datetime,
    ends: datetime.datetime,
    signer: x509.Certificate | None = None,
) -> x509.CertificateBuilder:
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(signer.subject if signer else name)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )
    return builder.add_extension(_issuer_id(signer), critical=False) if signer else builder


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _issuer_id(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    found_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found_id)


def _new_name() -> x509.Name:
    # Two authorities must differ in name, or a verifier would take one for the other.
    text = f"HA Controller authority {secrets.token_hex(8)}"
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _load_key(pem: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem.encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not a key of an elliptic curve")
    return key


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
