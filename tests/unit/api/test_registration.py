"""The registration string survives copying, and what is no such string is said to be none."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api import registration
from controller.api.registration import BadRegistration, Registration
from testauthority import TestAuthority

_text = st.text(max_size=50)


@functools.cache
def one() -> Registration:
    return Registration(
        user="admin",
        secret="s" * 22,
        controller_name="prod",
        controller_uuid="u",
        ca_cert=TestAuthority().current.certificate,
        addresses=("10.0.0.1:17070",),
    )


@given(st.builds(Registration, user=_text, secret=_text, controller_name=_text, controller_uuid=_text, ca_cert=_text,
                 addresses=st.lists(_text, max_size=3).map(tuple)))  # fmt: skip
def test_what_is_rendered_is_what_is_read(found: Registration):
    assert registration.parse(registration.render(found)) == found


def test_spaces_and_line_breaks_of_a_terminal_do_not_matter():
    text = registration.render(one())

    assert registration.parse("  " + "\n".join(text[i : i + 60] for i in range(0, len(text), 60)) + "\n") == one()
    assert len(text) < 1500


@pytest.mark.parametrize("cut", [6, 20, -1, -5, -200])
def test_a_string_that_is_not_whole_is_said_to_be_so(cut: int):
    with pytest.raises(BadRegistration, match="copy it again"):
        registration.parse(registration.render(one())[:cut])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "begins with"),
        ("hello", "begins with"),
        ("hac2_abc", "refresh hactl"),
        ("hac1_" + "A" * 70_000, "too long"),
    ],
)
def test_another_text_is_told_from_a_newer_form(text: str, says: str):
    with pytest.raises(BadRegistration, match=says):
        registration.parse(text)


@given(st.text(max_size=100))
def test_whatever_is_pasted_is_a_registration_or_none(text: str):
    with pytest.raises(BadRegistration):
        registration.parse("hac1_" + text)
