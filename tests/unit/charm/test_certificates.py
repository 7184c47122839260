"""Flow 1 for TLS: what the leader signs for whom, when an authority is replaced, and what a replay leaves alone."""

import dataclasses
import datetime
import json
import logging
import stat

import ops
import pytest
from cryptography import x509
from ops import testing

import certificates
import certificatesecret
import signing
from certificates import Applicant, Papers
from charmmachine import (
    APP,
    AUTHORITY,
    FOUNDED,
    KEY,
    OWN,
    PAPERS,
    REQUEST,
    SECRET,
    Machine,
    app_bag,
    own_bag,
    relation,
    relation_of,
    state,
)
from dbaccessor import tlsfiles
from dbcluster import UnitBag

NOW = datetime.datetime.now(datetime.UTC)
YEAR = datetime.timedelta(days=365)


def applicant() -> Applicant:
    return Applicant(signing.request(signing.new_key()))


def issue(papers: Papers, authority: signing.Authority | None, units: dict, departed=(), now=NOW):
    return certificates.issue(papers, authority, units, departed, now)


def use(papers: Papers, units: dict[str, Applicant]) -> dict[str, Applicant | None]:
    """The units as they are when each uses what was published for it."""
    return {i: dataclasses.replace(a, uses=certificates.digest(papers.issued[i].certificate)) for i, a in units.items()}


def controller_in(papers: Papers, controller_id: str) -> str:
    return tlsfiles.controller_of(x509.load_pem_x509_certificate(papers.issued[controller_id].certificate.encode()))


# Signing.


def test_a_certificate_names_the_controller_that_the_map_says_and_not_what_the_request_claims():
    key = signing._load_key(signing.new_key())
    claims = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(tlsfiles.uri("1"))])
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "controller-1")])
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .add_extension(claims, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, signing.hashes.SHA256())
        .public_bytes(signing.serialization.Encoding.PEM)
        .decode()
    )

    papers, _, _ = issue(Papers(), None, {"7": Applicant(request)})

    made = x509.load_pem_x509_certificate(papers.issued["7"].certificate.encode())
    assert tlsfiles.controller_of(made) == "7"
    assert "controller-1" not in made.subject.rfc4514_string()
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.parametrize("garbage", ["garbage", REQUEST[: len(REQUEST) // 2], REQUEST.replace("M", "N")])
def test_a_request_that_makes_no_sense_is_named_and_holds_up_nobody_else(garbage):
    papers, _, problems = issue(Papers(), None, {"0": Applicant(garbage), "1": applicant()})

    assert set(papers.issued) == {"1"}
    assert len(problems) == 1
    assert "controller 0" in problems[0]


def test_a_request_with_a_key_of_another_kind_is_refused():
    from cryptography.hazmat.primitives.asymmetric import rsa

    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    weak = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(weak, signing.hashes.SHA256())
    text = request.public_bytes(signing.serialization.Encoding.PEM).decode()

    with pytest.raises(signing.BadRequest, match="not signed by a key of P-256"):
        signing.sign(AUTHORITY, text, "0", NOW)


def test_what_was_signed_stays_until_its_request_changes():
    units = {"0": applicant(), "1": applicant()}
    papers, authority, _ = issue(Papers(), None, units)
    assert certificates.due(papers, units, (), NOW) == []

    changed = {**units, "1": applicant()}
    assert certificates.due(papers, changed, (), NOW) == ["controller 1 has another key"]
    after, same, _ = issue(papers, authority, changed)

    assert after.issued["0"] == papers.issued["0"]
    assert after.issued["1"] != papers.issued["1"]
    assert same == authority


def test_a_certificate_is_renewed_a_third_of_its_time_before_its_end():
    units = {"0": applicant()}
    papers, authority, _ = issue(Papers(), None, units)
    early, late = NOW + datetime.timedelta(days=200), NOW + datetime.timedelta(days=250)

    assert certificates.due(papers, units, (), early) == []
    assert certificates.due(papers, units, (), late) == ["controller 0 needs a newer certificate"]
    after, same, _ = issue(papers, authority, units, now=late)

    assert same == authority
    assert signing.ends(after.issued["0"].certificate) > NOW + 1.5 * YEAR


def test_a_clock_behind_the_authority_s_making_signs_nothing():
    with pytest.raises(signing.BadClock, match="is behind the authority's making"):
        signing.sign(AUTHORITY, REQUEST, "0", NOW - YEAR)


def test_an_authority_that_replaces_another_is_good_at_once_however_far_ahead_the_clock_of_its_maker_is():
    ahead = NOW + datetime.timedelta(days=3)

    new = signing.succeed(AUTHORITY, ahead, 8)

    leaf = x509.load_pem_x509_certificate(signing.sign(new, REQUEST, "0", ahead).encode())
    assert leaf.not_valid_before_utc < NOW < leaf.not_valid_after_utc
    assert signing.sign(new, REQUEST, "0", NOW)  # With the clock mended, another unit.


def test_so_is_one_that_takes_over_because_the_secret_is_gone():
    units = {"0": applicant()}
    papers, _, _ = issue(Papers(), None, units)

    after, new, _ = issue(papers, None, {**units, "1": applicant()}, now=NOW + datetime.timedelta(days=3))

    assert new.id != papers.authority
    assert x509.load_pem_x509_certificate(after.issued["0"].certificate.encode()).not_valid_before_utc < NOW
    assert issue(after, new, {"2": applicant()})[0].issued["2"]


def test_an_authority_is_replaced_long_before_its_own_end():
    units = {"0": applicant()}
    papers, authority, _ = issue(Papers(), None, units)
    late = NOW + 9 * YEAR

    assert "the authority's time is running out: a new one takes over" in certificates.due(papers, units, (), late)
    after, new, _ = issue(papers, authority, units, now=late)

    assert new != authority
    assert after.trusted == (new.certificate, authority.certificate)


# Replacing an authority.


class TestRotation:
    def test_a_departed_controller_makes_a_new_authority_take_over(self):
        units = {"0": applicant(), "1": applicant()}
        before, old, _ = issue(Papers(), None, units)
        del units["1"]

        (reason,) = certificates.due(before, units, ("1",), NOW)
        after, new, _ = issue(before, old, units, ("1",))

        assert reason == "controller 1 departed with a certificate: a new authority takes over"
        assert after.trusted == (new.certificate, old.certificate)
        assert set(after.issued) == {"0"}
        assert after.issued["0"].authority == new.id
        assert len(after.chain) == 1
        assert certificates.due(after, units, ("1",), NOW) == []

    def test_the_old_one_is_retired_when_every_unit_uses_the_new_one_and_not_before(self):
        units = {"0": applicant(), "2": applicant()}
        before, old, _ = issue(Papers(), None, {**units, "1": applicant()})
        after, new, _ = issue(before, old, units, ("1",))

        half = {**use(before, units), "0": use(after, units)["0"]}
        assert certificates.settle(after, half) == after
        assert certificates.settle(after, {**use(after, units), "2": None}) == after
        settled = certificates.settle(after, use(after, units))

        assert settled.trusted == (new.certificate,)
        assert settled.retired == (old.certificate,)
        assert certificates.settle(settled, use(after, units)) == settled

    def test_one_that_departs_in_the_middle_of_it_makes_yet_another_one(self):
        units = {str(n): applicant() for n in range(3)}
        one, first, _ = issue(Papers(), None, units)
        del units["2"]
        two, second, _ = issue(one, first, units, ("2",))
        del units["1"]
        three, third, _ = issue(two, second, units, ("1", "2"))

        assert three.trusted == (third.certificate, second.certificate, first.certificate)
        settled = certificates.settle(three, use(three, units))
        assert settled.trusted == (third.certificate,)
        assert settled.retired == (second.certificate, first.certificate)

    def test_one_that_was_leaving_while_another_was_signed_for_is_not_forgotten(self):
        units = {str(n): applicant() for n in range(3)}
        before, old, _ = issue(Papers(), None, units)
        del units["2"]
        units["3"] = applicant()
        meanwhile, same, _ = issue(before, old, units)
        assert same == old

        (reason,) = certificates.due(meanwhile, units, ("2",), NOW)
        after, new, _ = issue(meanwhile, same, units, ("2",))

        assert reason == "controller 2 departed with a certificate: a new authority takes over"
        assert new != old
        assert set(after.issued) == set(units)
        assert certificates.due(after, units, ("2",), NOW) == []

    def test_authorities_of_long_ago_are_forgotten(self):
        units = {"0": applicant()}
        papers, authority, _ = issue(Papers(), None, units)
        for n in range(1, 2 * certificates.MOST_AUTHORITIES):
            papers, authority, _ = issue(papers, authority, {**units, str(n): applicant()})
            papers, authority, _ = issue(papers, authority, units, (str(n),))
            papers = certificates.settle(papers, use(papers, units))

        assert len(papers.retired) == len(papers.chain) == certificates.MOST_AUTHORITIES

    def test_a_secret_that_is_ahead_of_the_papers_is_the_truth(self):
        units = {"0": applicant()}
        papers, old, _ = issue(Papers(), None, units)
        ahead = signing.succeed(old, NOW, 8)

        after, same, _ = issue(papers, ahead, {**units, "1": applicant()})

        assert same == ahead
        assert after.trusted == (ahead.certificate, old.certificate)
        assert {i.authority for i in after.issued.values()} == {ahead.id}

    def test_a_secret_that_is_gone_makes_a_new_authority_and_both_are_trusted(self):
        units = {"0": applicant()}
        papers, old, _ = issue(Papers(), None, units)

        after, new, _ = issue(papers, None, {**units, "1": applicant()})

        assert after.trusted == (new.certificate, old.certificate)
        assert {i.authority for i in after.issued.values()} == {new.id}


def test_papers_come_back_as_they_were_published():
    assert Papers.parse(PAPERS.dump()) == PAPERS
    assert Papers.parse("") == Papers()
    assert Papers().dump() == ""


# Whole hooks.


def lead(machine: Machine, *numbers: int) -> testing.State:
    """The first hook of the leader of a new application with so many units, and then what it left behind."""
    machine.units(*numbers)
    peers = {f"unit{n}": UnitBag(str(n), f"10.0.0.{n + 4}", request=applicant().request) for n in numbers if n}
    return machine.run(machine.context.on.config_changed(), state(relation(**peers), "10.0.0.4/24"))


def secret_of(out: testing.State) -> signing.Authority:
    (secret,) = out.secrets
    content = secret.latest_content or secret.tracked_content
    assert content is not None
    return signing.Authority.parse(dict(content))


def test_the_leader_makes_the_authority_once_and_signs_for_everybody(machine: Machine):
    out = lead(machine, 0, 1, 2)

    papers = app_bag(out).papers
    (secret,) = out.secrets
    assert (secret.label, secret.owner) == (certificatesecret.LABEL, "app")
    assert secret_of(out).id == papers.authority
    assert {i: controller_in(papers, i) for i in papers.issued} == {"0": "0", "1": "1", "2": "2"}

    again = machine.settle(machine.context.on.update_status(), out)
    assert app_bag(again).papers == papers
    assert secret_of(again) == secret_of(out)


def test_nothing_is_put_in_place_before_it_was_read_back(machine: Machine):
    out = lead(machine, 0)
    assert not (machine.tls / "cert.pem").exists()
    assert machine.asked_for_hooks == 1

    again = machine.run(machine.context.on.update_status(), out)

    files = {file.name: file.read_bytes() for file in machine.tls.iterdir()}
    assert tlsfiles.check(files, "0").controller_id == "0"
    assert own_bag(again).certificate == certificates.digest(app_bag(out).papers.issued["0"].certificate)


def test_a_hook_that_fails_leaves_neither_authority_nor_certificate_behind(machine: Machine):
    before = state(relation(), "10.0.0.4/24")
    authorities = set()
    for _ in range(2):  # Its writes vanish, and the next hook begins with what there was.
        authorities.add(app_bag(machine.run(machine.context.on.config_changed(), before)).papers.authority)

    assert len(authorities) == 2
    assert not (machine.tls / "cert.pem").exists()


def test_a_new_leader_goes_on_with_the_authority_that_there_is(machine: Machine):
    machine.units(0, 1, 2)
    asking = UnitBag("2", "10.0.0.6", request=applicant().request)
    given = state(relation(FOUNDED, OWN, unit1=UnitBag("1", "10.0.0.5"), unit2=asking), "10.0.0.4/24")
    given = dataclasses.replace(given, secrets={SECRET})

    out = machine.run(machine.context.on.leader_elected(), given)

    papers = app_bag(out).papers
    assert papers.authority == AUTHORITY.id
    assert papers.issued["0"] == PAPERS.issued["0"]
    assert controller_in(papers, "2") == "2"
    assert secret_of(out) == AUTHORITY


def test_a_follower_never_asks_for_the_secret(machine: Machine):
    given = state(relation(FOUNDED, OWN), "10.0.0.4/24", leader=False)

    out = machine.run(machine.context.on.config_changed(), given)

    assert out.secrets == frozenset()
    assert own_bag(out).certificate == certificates.digest(PAPERS.issued["0"].certificate)


def test_a_lost_unit_ends_in_a_new_authority_that_everybody_uses(machine: Machine):
    given = state(relation(FOUNDED, OWN), "10.0.0.4/24")
    machine.units(0)
    out = machine.run(machine.context.on.config_changed(), dataclasses.replace(given, secrets={SECRET}))

    assert app_bag(out).departed == ("1",)
    assert secret_of(out) != AUTHORITY
    assert app_bag(out).papers.trusted == (secret_of(out).certificate, AUTHORITY.certificate)
    assert machine.asked_for_hooks == 1  # Nobody else would tell the leader to use its own.
    assert (machine.tls / "cert.pem").read_text().startswith(PAPERS.issued["0"].certificate)

    out = machine.settle(machine.context.on.update_status(), out)
    assert app_bag(out).papers.trusted == (secret_of(out).certificate,)
    assert (machine.tls / "ca.pem").read_text() == secret_of(out).certificate
    assert (machine.tls / "retired.pem").read_text() == AUTHORITY.certificate


def test_a_renewed_certificate_is_put_in_place_without_waiting_for_the_node(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
):
    def follower(papers: Papers, own: UnitBag) -> testing.State:
        return state(relation(dataclasses.replace(FOUNDED, papers=papers), own), "10.0.0.4/24", leader=False)

    first = own_bag(machine.run(machine.context.on.config_changed(), follower(PAPERS, OWN)))
    renewed, _, _ = issue(PAPERS, AUTHORITY, {"0": Applicant(first.request), "1": applicant()}, ("1",))
    waited = []
    monkeypatch.setattr("controlsocket.wait_until_serving", lambda _: waited.append(1))

    machine.run(machine.context.on.config_changed(), follower(renewed, first))

    assert (machine.tls / "cert.pem").read_text().startswith(renewed.issued["0"].certificate)
    assert waited == []


def test_a_revision_that_nobody_follows_any_more_is_removed(machine: Machine):
    fresh = signing.succeed(AUTHORITY, NOW, 8).dump()
    replaced = testing.Secret(AUTHORITY.dump(), latest_content=fresh, label=certificatesecret.LABEL, owner="app")
    other = testing.Secret(AUTHORITY.dump(), latest_content=fresh, label="somebody-else-s", owner="app")
    given = dataclasses.replace(state(relation(FOUNDED, OWN), "10.0.0.4/24"), secrets={replaced, other})

    machine.run(machine.context.on.secret_remove(other, revision=2), given)
    assert machine.context.removed_secret_revisions == []
    machine.run(machine.context.on.secret_remove(replaced, revision=2), given)
    assert machine.context.removed_secret_revisions == [2]


def test_a_former_leader_lets_go_of_the_revision_that_it_read(machine: Machine):
    fresh = signing.succeed(AUTHORITY, NOW, 8).dump()
    # Without an owner: ops.testing believes that no unit of the owner is ever told.
    replaced = testing.Secret(AUTHORITY.dump(), latest_content=fresh, label=certificatesecret.LABEL)
    other = testing.Secret(AUTHORITY.dump(), latest_content=fresh, label="somebody-else-s")
    given = state(relation(FOUNDED, OWN), "10.0.0.4/24", leader=False)

    for secret, followed in ((replaced, fresh), (other, AUTHORITY.dump())):
        before = dataclasses.replace(given, secrets={secret})
        out = machine.run(machine.context.on.secret_changed(secret), before)
        assert [s.tracked_content for s in out.secrets] == [followed]


def test_one_that_leaves_is_not_waited_for(machine: Machine):
    machine.units(0, dying=(1,))
    given = state(relation(FOUNDED, OWN, unit1=UnitBag("1", "10.0.0.5")), "10.0.0.4/24")

    out = machine.run(machine.context.on.config_changed(), dataclasses.replace(given, secrets={SECRET}))

    assert app_bag(out).papers.trusted == PAPERS.trusted  # It still is a member: nothing is replaced yet.


def test_a_unit_waits_visibly_while_nobody_has_signed_for_it(machine: Machine):
    unsigned = dataclasses.replace(FOUNDED, papers=Papers())

    out = machine.run(machine.context.on.start(), state(relation(unsigned, OWN), "10.0.0.4/24", leader=False))

    assert out.unit_status == ops.WaitingStatus("waiting for the leader to sign this unit's certificate")
    assert own_bag(out).request == REQUEST


def test_what_was_published_for_another_key_is_not_used(machine: Machine):
    machine.keep_key(key := signing.new_key(), signing.request(key))

    out = machine.run(machine.context.on.start(), state(relation(FOUNDED, OWN), "10.0.0.4/24", leader=False))

    assert not (machine.tls / "cert.pem").exists()
    assert out.unit_status == ops.WaitingStatus("waiting for the leader to sign this unit's certificate")


@pytest.mark.parametrize("damage", ["", "garbage", KEY[: len(KEY) // 2]])
def test_a_damaged_key_is_made_anew_and_asked_for_anew(machine: Machine, damage: str):
    (machine.tls / "key.pem").write_text(damage)

    out = machine.run(machine.context.on.update_status(), state(relation(FOUNDED, OWN), "10.0.0.4/24", leader=False))

    request = own_bag(out).request
    assert request != REQUEST
    assert signing.fits(request, (machine.tls / "key.pem").read_text())


def test_a_key_made_by_a_hook_that_was_killed_before_its_request_is_kept(machine: Machine):
    (machine.tls / "key.pem").write_text(other := signing.new_key())

    out = machine.run(machine.context.on.update_status(), state(relation(FOUNDED, OWN), "10.0.0.4/24", leader=False))

    assert (machine.tls / "key.pem").read_text() == other
    assert signing.fits(own_bag(out).request, other)


def test_certificates_that_do_not_fit_replace_nothing(machine: Machine):
    machine.run(machine.context.on.start(), state(relation(FOUNDED, OWN), "10.0.0.4/24", leader=False))
    before = {file.name: file.read_bytes() for file in machine.tls.iterdir()}
    foreign = dataclasses.replace(
        FOUNDED, papers=Papers.parse(PAPERS.dump().replace(json.dumps(AUTHORITY.certificate)[1:-1], "garbage"))
    )

    out = machine.run(machine.context.on.start(), state(relation(foreign, OWN), "10.0.0.4/24", leader=False))

    assert {file.name: file.read_bytes() for file in machine.tls.iterdir()} == before
    assert isinstance(out.unit_status, ops.WaitingStatus)
    assert "the certificate that was published is not used" in out.unit_status.message


@pytest.mark.parametrize(
    ("signed", "said"), [(datetime.timedelta(days=3), "is not valid before"), (-2 * YEAR, "expired at")]
)
def test_certificates_that_are_not_valid_now_replace_nothing_and_are_not_said_to_be_in_use(
    machine: Machine, signed: datetime.timedelta, said: str
):
    out = machine.run(machine.context.on.start(), state(relation(FOUNDED, OWN), "10.0.0.4/24", leader=False))
    before, uses = {file.name: file.read_bytes() for file in machine.tls.iterdir()}, own_bag(out).certificate
    papers, _, _ = issue(Papers(), None, {"0": Applicant(REQUEST)}, now=NOW + signed)
    other = dataclasses.replace(FOUNDED, papers=papers)

    out = machine.run(machine.context.on.start(), state(relation(other, OWN), "10.0.0.4/24", leader=False))

    assert {file.name: file.read_bytes() for file in machine.tls.iterdir()} == before
    assert own_bag(out).certificate == uses
    assert said in out.unit_status.message


def test_only_root_may_read_what_lies_there(machine: Machine):
    machine.run(machine.context.on.start(), state(relation(FOUNDED, OWN), "10.0.0.4/24", leader=False))

    for file in ("cert.pem", "ca.pem", "retired.pem", "key.pem"):
        assert stat.S_IMODE((machine.tls / file).stat().st_mode) == 0o600


def test_no_key_is_in_any_databag_log_or_status(machine: Machine, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    machine.units(0, 1)
    peer = UnitBag("1", "10.0.0.5", request=applicant().request)
    out = machine.run(machine.context.on.config_changed(), state(relation(unit1=peer), "10.0.0.4/24"))
    out = machine.settle(machine.context.on.update_status(), out)

    told = json.dumps([relation_of(out).local_app_data, relation_of(out).local_unit_data]) + caplog.text
    told += f"{out.unit_status} {out.app_status}" + "".join(line.message for line in machine.context.juju_log)
    for key in (KEY, secret_of(out).key):
        lines = key.splitlines()[1:-1]
        assert lines
        assert not any(line in told for line in lines)
    assert "PRIVATE KEY" not in told


def test_the_key_goes_with_the_unit(machine: Machine):
    machine.run(machine.context.on.start(), state(relation(FOUNDED, OWN), "10.0.0.4/24", leader=False))

    machine.run(machine.context.on.remove(), state(None))

    assert not any("key.pem" in path for path in machine.content())


def test_a_leader_whose_clock_is_wrong_says_so_and_signs_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    class Past(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return NOW - YEAR

    monkeypatch.setattr("charm.datetime.datetime", Past)
    machine.units(0, 1, 2)
    asking = UnitBag("2", "10.0.0.6", request=applicant().request)
    given = state(relation(FOUNDED, OWN, unit1=UnitBag("1", "10.0.0.5"), unit2=asking), "10.0.0.4/24")

    out = machine.run(machine.context.on.start(), dataclasses.replace(given, secrets={SECRET}))

    assert app_bag(out).papers == PAPERS
    assert isinstance(out.unit_status, ops.WaitingStatus)
    assert f"{APP}/0" not in app_bag(out).papers.issued
