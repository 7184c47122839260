"""What counts as one place: what a single machine can take at will, and no more."""

from __future__ import annotations

import pytest

from controller.api.limits import place_of


@pytest.mark.parametrize(
    ("one", "another", "same"),
    [
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("::1", "::ffff:10.0.0.1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("?", "?", True),
        ("?", "10.0.0.1", False),
    ],
)
def test_a_place_is_an_ipv4_address_or_a_whole_network_of_ipv6(one: str, another: str, same: bool):
    assert (place_of(one) == place_of(another)) is same
