"""What a model may be called."""

from __future__ import annotations

import pytest

from controller.models import model
from dbaccessor import errors


@pytest.mark.parametrize("name", ["a", "controller", "0", "a-b", "x" * 63, "deadbeef"])
def test_names_as_juju_has_them_are_good(name: str):
    assert model.check_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "-a", "a_b", "a b", "ä", "x" * 64, "a\n", "../a"])
def test_other_names_are_refused(name: str):
    with pytest.raises(errors.Refused, match="is no name for a model"):
        model.check_name(name)


def test_a_name_that_looks_like_a_uuid_is_refused_because_verbs_take_either():
    with pytest.raises(errors.Refused, match="looks like a uuid"):
        model.check_name(model.new_uuid())


def test_only_the_usual_form_is_a_uuid():
    uuid = model.new_uuid()
    assert model.check_uuid(uuid) == uuid
    for wrong in (uuid.upper(), uuid.replace("-", ""), uuid[:-1], ""):
        with pytest.raises(errors.Refused, match="no uuid"):
            model.check_uuid(wrong)
