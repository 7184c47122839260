"""Flow 1, hop 3, for TLS: this unit's key and request, and what the papers say -> the files under `<state dir>/tls/`.

The format belongs to its reader, dbaccessor.tlsfiles: what is about to be written is checked there first, and replaces
nothing unless it fits. The key is made here and stays here.
"""

from __future__ import annotations

import datetime
import logging
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import certificates
import controllerconf
from certificates import Papers

logger = logging.getLogger(__name__)

# As in dbaccessor.tlsfiles, which is imported only where there is something to check: it is slow to load.
DIRECTORY = "tls"
KEY = "key.pem"
_REQUEST = "request.pem"
_MODE = 0o600


@dataclass(frozen=True)
class Installed:
    """What lies on the disk now: the digest of the certificate in use ("": none), and whether this hook changed it."""

    uses: str = ""
    changed: bool = False
    waiting: str = ""


def request(state_dir: Path) -> str:
    """Return the request for this unit's certificate, the same one as long as the key is the same. Makes both."""
    folder = state_dir / DIRECTORY
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key, asked = _read(folder / KEY), _read(folder / _REQUEST)
    # The request's file says for which key it was made, so that neither has to be understood in every hook.
    head, _, text = asked.partition("\n")
    if key and head == _head(key):
        return text
    import signing

    try:
        text = signing.request(key)
    except (ValueError, TypeError):
        if key:
            logger.warning("%s holds no private key: a new one is made", folder / KEY)
        key = signing.new_key()
        text = signing.request(key)
    controllerconf.replace(folder / KEY, key, mode=_MODE)
    controllerconf.replace(folder / _REQUEST, f"{_head(key)}\n{text}", mode=_MODE)
    return text


def install(state_dir: Path, papers: Papers, controller_id: str, now: datetime.datetime) -> Installed:
    """Make the files say what the (committed) papers say.

    Files that would not fit together replace nothing, nor does a certificate that is not valid now: the unit would say
    that it uses it, and by that word the authority that everybody can still use is retired.
    """
    folder = state_dir / DIRECTORY
    here = certificates.digest(_first(_read(folder / "cert.pem"))) if (folder / "cert.pem").exists() else ""
    issued = papers.issued.get(controller_id)
    asked = _read(folder / _REQUEST).partition("\n")[2]
    if issued is None or issued.request != certificates.digest(asked):
        return Installed(here, waiting="" if here else "waiting for the leader to sign this unit's certificate")
    # The authorities first: a certificate that nobody here trusts would not be accepted.
    wanted = {
        "ca.pem": "".join(papers.trusted),
        "retired.pem": "".join(papers.retired),
        "cert.pem": issued.certificate + "".join(papers.chain),
    }
    if all(_read(folder / name) == text for name, text in wanted.items()):
        return Installed(here)
    from dbaccessor import tlsfiles

    try:
        files = {name: text.encode() for name, text in {**wanted, KEY: _read(folder / KEY)}.items()}
        tlsfiles.check(files, controller_id).at(now)
    except tlsfiles.BadCredentials as error:
        logger.warning("the certificate that was published is not used: %s", error)
        return Installed(here, waiting=f"the certificate that was published is not used: {error}")
    for name, text in wanted.items():
        controllerconf.replace(folder / name, text, mode=_MODE)
    logger.info("certificate %s of authority %s is in place", certificates.digest(issued.certificate), issued.authority)
    return Installed(certificates.digest(issued.certificate), changed=True)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _first(text: str) -> str:
    """Return the first certificate of several."""
    end = "-----END CERTIFICATE-----\n"
    return text[: text.index(end) + len(end)] if end in text else ""


def _head(key: str) -> str:
    return f"# for the key {sha256(key.encode()).hexdigest()}"
