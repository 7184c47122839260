"""What is kept of a secret lets only that secret in, and does not give it away."""

from __future__ import annotations

import pytest

from controller.api import passwords


def test_only_the_password_itself_matches_and_no_two_hashes_are_alike():
    kept = passwords.hashed("correct horse")

    assert passwords.matches("correct horse", kept)
    assert not passwords.matches("correct hors", kept)
    assert not passwords.matches("", kept)
    assert "correct" not in kept
    assert passwords.hashed("correct horse") != kept


def test_the_cost_is_kept_with_the_hash_so_that_an_older_one_still_matches():
    salt = "AAAAAAAAAAAAAAAAAAAAAA=="
    cheap = "scrypt$4.8.1$" + salt + "$" + passwords._text(passwords._scrypt("old", bytes(16), 4, 8, 1))

    assert passwords.matches("old", cheap)
    assert passwords.hashed("new").startswith("scrypt$14.8.5$")


@pytest.mark.parametrize(
    "kept", [None, "", "plain", "scrypt$14.8.5$x", "scrypt$a.b.c$AA==$AA==", "scrypt$60.8.5$AA==$AA==", "md5$1.1.1$$"]
)
def test_what_is_no_hash_lets_nobody_in(kept: str | None):
    assert not passwords.matches("anything", kept)


@pytest.mark.parametrize("password", ["", "x" * 1025])
def test_an_empty_or_endless_password_is_not_taken(password: str):
    with pytest.raises(passwords.Unsuitable):
        passwords.hashed(password)
    assert not passwords.matches(password, passwords.hashed("x"))


def test_a_secret_is_128_random_bits_and_only_its_digest_is_kept():
    secret = passwords.new_secret()
    kept = passwords.hashed_secret(secret)

    assert len(secret) == 22
    assert passwords.new_secret() != secret
    assert secret not in kept
    assert passwords.secret_matches(secret, kept)
    assert not passwords.secret_matches(secret + "x", kept)
    assert not passwords.secret_matches(secret, None)
    assert not passwords.secret_matches("", None)
