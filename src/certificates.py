"""Flow 1, hop 2 and 3, for TLS: requests in the unit bags -> what the leader publishes about certificates. Pure.

The cluster has an authority of its own. Its key is in a secret of the application (certificatesecret.py); everything
here is public, and is one JSON value in the app bag, the *papers*. The rules are contract C6's:

* the leader signs for the unit whose own bag holds the request, and with the controller id that the map gives that
  unit; what a request says of its owner counts for nothing;
* what is signed stays as it is until its request changes, its authority does, or a third of its time is left: running a
  hook again changes no byte;
* when a controller that had a certificate departs, a new authority takes over. So what was signed for one stays in the
  papers until it has departed, also while its unit is leaving and nothing is signed for it any more. Both authorities
  are trusted until every unit has said that it uses a certificate of the new one; then the old one is retired. A
  retired one still proves to lost controllers that they are lost (lib/dbaccessor/tls.py), and opens nothing.

Units act on committed papers only. So a hook that fails after it made an authority leaves nothing behind: neither the
secret nor any certificate signed with it.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from signing import Authority

# Authorities that are remembered, beside the one in force. One is replaced when a controller is lost.
MOST_AUTHORITIES = 8


class Issued(msgspec.Struct, frozen=True):
    """One certificate, and what it depends on: digests of request and authority, and the day from which to renew it."""

    certificate: str
    request: str
    authority: str
    renew: str


class Papers(msgspec.Struct, frozen=True):
    """What is published about certificates: all of them PEM texts, by the ids of controllers in `issued`.

    `trusted` begins with the authority in force; `chain` leads from it back to those before. `secret` is the id of the
    secret with its key, for people.
    """

    authority: str = ""
    secret: str = ""
    renew: str = ""
    trusted: tuple[str, ...] = ()
    chain: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    issued: dict[str, Issued] = {}

    @classmethod
    def parse(cls, text: str) -> Papers:
        """Return what `dump` made; nothing for "". Raises msgspec.DecodeError."""
        return msgspec.json.decode(text, type=cls) if text else cls()

    def dump(self) -> str:
        return msgspec.json.encode(self, order="sorted").decode() if self != Papers() else ""

    def in_use(self, controller_id: str) -> tuple[object, ...]:
        """What one controller has to have on its disk by these papers."""
        return (self.issued.get(controller_id), self.trusted, self.chain, self.retired)


@dataclass(frozen=True)
class Applicant:
    """What a unit bag says: the request, and the digest of the certificate that the unit uses now."""

    request: str
    uses: str = ""


def digest(text: str) -> str:
    """Return a short name for a certificate or a request; both are public."""
    return sha256(text.encode()).hexdigest()[:16]


def settle(papers: Papers, units: Mapping[str, Applicant | None]) -> Papers:
    """Retire what is no longer needed. `units` are all controllers that stay, None for one whose bag is not seen.

    Nothing changes while a single one of them has not said that it uses a certificate of the authority in force.
    """
    if len(papers.trusted) < 2:
        return papers
    for controller_id, applicant in units.items():
        issued = papers.issued.get(controller_id)
        if issued is None or applicant is None or issued.authority != papers.authority:
            return papers
        if applicant.uses != digest(issued.certificate):
            return papers
    retired = (*papers.trusted[1:], *(c for c in papers.retired if c not in papers.trusted))
    return msgspec.structs.replace(papers, trusted=papers.trusted[:1], retired=retired[:MOST_AUTHORITIES])


def due(
    papers: Papers, units: Mapping[str, Applicant | None], departed: Collection[str], now: datetime.datetime
) -> list[str]:
    """Say what the authority's key is needed for now, one sentence each; [] when it is not."""
    today = now.date().isoformat()
    lost = sorted(set(papers.issued) & set(departed))
    reasons = [f"controller {i} departed with a certificate: a new authority takes over" for i in lost]
    if papers.authority and today >= papers.renew:
        reasons.append("the authority's time is running out: a new one takes over")
    for controller_id, applicant in units.items():
        if applicant is None or not applicant.request:
            continue
        issued = papers.issued.get(controller_id)
        if issued is None:
            reasons.append(f"controller {controller_id} asks for a certificate")
        elif issued.request != digest(applicant.request):
            reasons.append(f"controller {controller_id} has another key")
        elif issued.authority != papers.authority or today >= issued.renew:
            reasons.append(f"controller {controller_id} needs a newer certificate")
    return reasons


def issue(
    papers: Papers,
    authority: Authority | None,
    units: Mapping[str, Applicant | None],
    departed: Collection[str],
    now: datetime.datetime,
) -> tuple[Papers, Authority, list[str]]:
    """Do what is due. Return the papers, the authority (it may be another now), and what could not be done.

    `authority` is what the secret holds, which is the truth about which one is in force; None when there is no secret.
    Raises signing.BadClock, and then nothing was done.
    """
    import signing

    today = now.date().isoformat()
    if authority is None:
        authority = signing.found(now, papers.trusted[0] if papers.trusted else "")
    elif set(papers.issued) & set(departed) or (authority.id == papers.authority and today >= papers.renew):
        authority = signing.succeed(authority, now, MOST_AUTHORITIES)
    before = tuple(c for c in papers.trusted if c != authority.certificate)
    problems = []
    # One that is leaving is not among the units any more, and its entry is what makes a new authority take over later.
    issued = {i: old for i, old in papers.issued.items() if i not in departed}
    for controller_id, applicant in units.items():
        old = issued.get(controller_id)
        if applicant is None or not applicant.request:
            continue
        request = digest(applicant.request)
        if old and (old.request, old.authority) == (request, authority.id) and today < old.renew:
            continue
        try:
            certificate = signing.sign(authority, applicant.request, controller_id, now)
        except signing.BadRequest as error:
            problems.append(str(error))
            continue
        renew = (signing.ends(certificate) - signing.LEAF_RENEWAL).date().isoformat()
        issued[controller_id] = Issued(certificate, request, authority.id, renew)
    renew = (signing.ends(authority.certificate) - signing.AUTHORITY_RENEWAL).date().isoformat()
    fresh = msgspec.structs.replace(
        papers,
        authority=authority.id,
        renew=renew,
        trusted=(authority.certificate, *before)[:MOST_AUTHORITIES],
        chain=authority.chain,
        issued=dict(sorted(issued.items())),
    )
    return fresh, authority, problems
