"""Certificates: which files can be used, what a connection made with them proves, and what happens when they change."""

from __future__ import annotations

import datetime
import logging
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import signing
from dbaccessor import tls, tlsfiles
from dbaccessor.tls import Contexts, Keyring, Peer
from dbaccessor.tlsfiles import BadCredentials
from testauthority import NOW, TestAuthority, put

YEAR = datetime.timedelta(days=365)


@pytest.fixture
def authority() -> TestAuthority:
    return TestAuthority()


def keyring(authority: TestAuthority, folder: Path, controller_id: str) -> Keyring:
    return Keyring(authority.write(folder / controller_id, controller_id), controller_id)


def shake_hands(caller: Contexts, called: Contexts) -> tuple[Peer, Peer]:
    """Return whom the caller and the called one see. Raises ssl.SSLError, as the first side that refuses does."""
    inward, outward = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = caller.client.wrap_bio(inward, outward)
    server = called.server.wrap_bio(outward, inward, server_side=True)
    for _ in range(3):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return caller.identify(client), called.identify(server)


def test_each_side_learns_which_controller_the_other_is(authority: TestAuthority, tmp_path: Path):
    zero, one = (keyring(authority, tmp_path, i).current() for i in ("0", "1"))

    assert shake_hands(zero, one) == (Peer("1"), Peer("0"))


def test_a_certificate_of_another_authority_is_refused_by_either_side(authority: TestAuthority, tmp_path: Path):
    ours = keyring(authority, tmp_path, "0").current()
    theirs = keyring(TestAuthority(), tmp_path, "1").current()

    for pair in ((ours, theirs), (theirs, ours)):
        with pytest.raises(ssl.SSLCertVerificationError) as refused:
            shake_hands(*pair)
        assert "not of a trusted authority" in tls.explain(refused.value)


def test_older_tls_is_not_spoken(authority: TestAuthority, tmp_path: Path):
    here = keyring(authority, tmp_path, "0").current()
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    outward = ssl.MemoryBIO()
    server = here.server.wrap_bio(outward, ssl.MemoryBIO(), server_side=True)

    with pytest.raises(ssl.SSLWantReadError):
        old.wrap_bio(ssl.MemoryBIO(), outward).do_handshake()
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        server.do_handshake()


def test_a_caller_without_a_certificate_is_refused(authority: TestAuthority, tmp_path: Path):
    here = keyring(authority, tmp_path, "0").current()
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.check_hostname, nobody.verify_mode = False, ssl.CERT_NONE
    inward, outward = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = here.server.wrap_bio(outward, inward, server_side=True)
    client = nobody.wrap_bio(inward, outward)

    with pytest.raises(ssl.SSLError) as refused:
        for _ in range(3):
            for side in (client, server):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue

    assert tls.explain(refused.value) == "it shows no certificate"


class TestRotation:
    def test_who_knows_only_the_old_authority_and_who_has_the_new_one_trust_each_other(self, authority, tmp_path):
        old = keyring(authority, tmp_path, "0").current()
        authority.rotate()
        new = keyring(authority, tmp_path, "1").current()

        assert shake_hands(old, new) == (Peer("1"), Peer("0"))
        assert shake_hands(new, old) == (Peer("0"), Peer("1"))

    @pytest.mark.parametrize("times", [1, 2, 5])
    def test_a_retired_certificate_proves_who_that_is_and_is_known_for_retired(self, authority, tmp_path, times):
        lost = keyring(authority, tmp_path, "0").current()
        for _ in range(times):
            authority.rotate(retire=True)
        survivor = keyring(authority, tmp_path, "1").current()

        assert shake_hands(lost, survivor) == (Peer("1"), Peer("0", retired=True))
        assert shake_hands(survivor, lost) == (Peer("0", retired=True), Peer("1"))

    def test_who_holds_a_retired_authority_s_key_cannot_make_certificates_of_today(self, authority, tmp_path):
        thief = TestAuthority()
        thief.current, thief.trusted = authority.current, [*authority.trusted]
        authority.rotate(retire=True)
        survivor = keyring(authority, tmp_path, "1").current()
        # It makes an authority of its own, and lets the old one vouch for it, as a rotation does.
        thief.rotate()
        forged = Keyring(thief.write(tmp_path / "forged", "2"), "2").current()

        assert shake_hands(forged, survivor)[1] == Peer("2", retired=True)

    def test_a_program_that_is_no_controller_does_not_trust_what_was_retired(self, authority, tmp_path):
        lost = keyring(authority, tmp_path, "0").current()
        authority.rotate(retire=True)
        outsider = Keyring(authority.write(tmp_path / "1", "1")).current()

        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(outsider, lost)


def without(name: str) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda files: {n: c for n, c in files.items() if n != name}


def having(name: str, content: bytes) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda files: {**files, name: content}


@pytest.mark.parametrize(
    ("change", "kind", "sentence"),
    [
        (without("cert.pem"), "missing", "cert.pem is not there yet"),
        (without("ca.pem"), "missing", "ca.pem is not there yet"),
        (without("key.pem"), "missing", "key.pem is not there yet"),
        (having("cert.pem", b" \n"), "missing", "cert.pem is not there yet"),
        (having("cert.pem", b"garbage"), "unreadable", "cert.pem holds no certificate"),
        (having("ca.pem", b"\x00\xff"), "unreadable", "ca.pem holds no certificate"),
        (
            having("ca.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "unreadable",
            "ca.pem cannot be read",
        ),
        (having("key.pem", b"garbage"), "unreadable", "key.pem holds no private key"),
        (having("key.pem", signing.new_key().encode()), "mismatch", "cert.pem is for another key than key.pem"),
        (
            having("ca.pem", TestAuthority().current.certificate.encode()),
            "mismatch",
            "cert.pem is not signed by an authority in ca.pem",
        ),
    ],
)
def test_files_that_do_not_fit_are_named_with_what_is_wrong(authority: TestAuthority, change, kind, sentence):
    with pytest.raises(BadCredentials, match=sentence) as bad:
        tlsfiles.check(change(authority.files("0")), "0")

    assert bad.value.kind == kind
    assert bad.value.remedy


def test_the_certificate_of_another_controller_is_not_used(authority: TestAuthority):
    with pytest.raises(BadCredentials, match=r"cert.pem is of controller 1, and this is controller 0"):
        tlsfiles.check(authority.files("1"), "0")
    assert tlsfiles.check(authority.files("1"), None).controller_id == "1"


@given(st.text(min_size=1, max_size=40))
@settings(deadline=None, max_examples=30)
def test_any_text_can_be_a_controller_id(controller_id: str):
    authority = TestAuthority()

    assert tlsfiles.check(authority.files(controller_id), controller_id).controller_id == controller_id


def test_a_key_that_others_may_read_is_not_used_and_its_text_is_told_to_nobody(authority, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    folder = authority.write(tmp_path / "0", "0")
    text = (folder / "key.pem").read_text()
    (folder / "key.pem").chmod(0o640)

    with pytest.raises(BadCredentials, match=r"key.pem may be read by others than its owner") as bad:
        Keyring(folder, "0").current()
    put(folder / "key.pem", text.replace("PRIVATE", "PRIVAT").encode())
    with pytest.raises(BadCredentials, match=r"key.pem holds no private key"):
        Keyring(folder, "0").current()

    assert text.splitlines()[1] not in caplog.text + str(bad.value) + bad.value.remedy


class TestTime:
    @pytest.mark.parametrize(
        ("when", "kind", "sentence"),
        [(2 * YEAR, "expired", "expired at"), (-YEAR, "early", "is not valid before")],
    )
    def test_a_certificate_outside_its_time_is_refused_with_the_date(self, authority, tmp_path, when, kind, sentence):
        ring = Keyring(authority.write(tmp_path, "0"), "0", now=lambda: NOW + when)

        with pytest.raises(BadCredentials, match=sentence) as bad:
            ring.current()
        assert bad.value.kind == kind

    def test_it_is_noticed_when_it_happens(self, authority, tmp_path):
        now = [NOW]
        ring = Keyring(authority.write(tmp_path, "0"), "0", now=lambda: now[0])
        ring.current()

        now[0] += 2 * YEAR

        with pytest.raises(BadCredentials, match="expired"):
            ring.current()
        authority.write(tmp_path, "0", now[0])
        assert ring.current()
        assert ring.problem() is None

    def test_a_leader_whose_clock_runs_ahead_signs_what_everybody_accepts(self, authority, tmp_path):
        authority.write(tmp_path, "0", NOW + YEAR)

        assert Keyring(tmp_path, "0").current()

    def test_files_that_are_not_valid_yet_leave_the_last_good_ones_in_force_until_they_are(self, authority, tmp_path):
        now = [NOW]
        ring = Keyring(authority.write(tmp_path, "0"), "0", now=lambda: now[0])
        before = ring.current()

        TestAuthority(NOW + datetime.timedelta(days=3)).write(tmp_path, "0")

        assert ring.current() is before
        assert "is not valid before" in str(ring.problem())
        now[0] += datetime.timedelta(days=3)
        assert ring.current() is not before
        assert ring.problem() is None

    def test_files_that_are_not_valid_yet_are_what_is_told_of_when_the_last_good_ones_have_expired(
        self, authority, tmp_path
    ):
        now = [NOW]
        ring = Keyring(authority.write(tmp_path, "0"), "0", now=lambda: now[0])
        ring.current()
        TestAuthority(NOW + 3 * YEAR).write(tmp_path, "0")
        ring.current()

        now[0] += 2 * YEAR

        with pytest.raises(BadCredentials, match="is not valid before"):
            ring.current()


class TestReload:
    def test_nothing_is_made_anew_while_the_files_are_the_same(self, authority, tmp_path):
        ring = keyring(authority, tmp_path, "0")

        assert ring.current() is ring.current()

    def test_the_next_connection_is_made_with_what_is_there_now(self, authority, tmp_path):
        ring, other = keyring(authority, tmp_path, "0"), keyring(authority, tmp_path, "1")
        before = ring.current()
        authority.rotate(retire=True)
        for i in ("0", "1"):
            authority.write(tmp_path / i, i)

        assert ring.current() is not before
        assert shake_hands(ring.current(), other.current()) == (Peer("1"), Peer("0"))

    @pytest.mark.parametrize("name", ["ca.pem", "cert.pem", "key.pem"])
    def test_files_that_make_no_sense_leave_the_last_good_ones_in_force_and_are_told(self, authority, tmp_path, name):
        ring = keyring(authority, tmp_path, "0")
        before, good = ring.current(), (tmp_path / "0" / name).read_bytes()

        put(tmp_path / "0" / name, good[: len(good) // 2])

        assert ring.current() is before
        assert name in str(ring.problem())
        put(tmp_path / "0" / name, good)
        assert ring.problem() is None

    def test_what_comes_later_is_taken_as_soon_as_it_is_whole(self, authority, tmp_path):
        ring = Keyring(tmp_path, "0")
        files = authority.files("0")
        for name in ("key.pem", "ca.pem", "cert.pem"):
            with pytest.raises(BadCredentials, match="is not there yet"):
                ring.current()
            put(tmp_path / name, files[name])

        assert ring.current().credentials.controller_id == "0"
