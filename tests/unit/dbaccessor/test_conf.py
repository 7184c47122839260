"""controller.conf: what is accepted, what is refused with which sentence, and what a bad file cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbaccessor.conf import BadConf, ConfReader, parse, successor_problem

GOOD = """\
schema: 1
controller-id: "0"
cluster-uuid: "8d0e"
bootstrap-controller: "0"
bootstrapped: true
generation: 4
db-bind-addresses:
  "0": "10.6.6.6"
  "1": "10.6.6.7"
db-unresolved: ["2"]
departed: ["3"]
dqlite-port: 17666
somebody-elses-key: {a: 1}
"""


def test_a_good_file_is_read_and_unknown_keys_pass_through():
    conf = parse(GOOD)

    assert conf.own_address == "10.6.6.6"
    assert conf.others == {"1": "10.6.6.7"}
    assert conf.extra == {"somebody-elses-key": {"a": 1}}


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"0": "10.6.6.6"', '0: "10.6.6.6"', "str"),
        ('controller-id: "0"', "controller-id: 0", "str"),
        ('controller-id: "0"', 'controller-id: ""', "controller-id is empty"),
        ('"10.6.6.7"', '"host-7"', "no IP address"),
        ('"10.6.6.7"', '"10.6.6.6"', "both have 10.6.6.6"),
        ("dqlite-port: 17666", "dqlite-port: 0", "not a port"),
        ("generation: 4", "generation: -1", "negative"),
        ("generation: 4", "generation: many", "int"),
        ("schema: 1", "schema: 2", "newer"),
        ('departed: ["3"]', 'departed: ["1"]', "both in db-bind-addresses and in departed"),
        ('db-unresolved: ["2"]', 'db-unresolved: ["1"]', "both in db-bind-addresses and in db-unresolved"),
        ("schema: 1", "schema: [", "not YAML"),
        ("schema: 1", "tls: maybe", "tls"),
        ("schema: 1", "tls: true", "tls"),
        ("schema: 1", "tls: off", "10.6.6.6 of controller 0 is no loopback address"),
        ("schema: 1", "management-space: {name: Mgmt}", "management-space: 'Mgmt' is no name of a space"),
        ("schema: 1", "management-space: {name: alpha}", "'alpha' has no subnets of its own"),
        ("schema: 1", "management-space: {name: m, subnets: [10.1.0.1/24]}", "'10.1.0.1/24' is no subnet"),
        ("schema: 1", "management-space: mgmt", "object"),
    ],
)
def test_a_wrong_value_is_refused_and_named(old, new, sentence):
    with pytest.raises(BadConf, match=sentence):
        parse(GOOD.replace(old, new))


def test_tls_is_required_unless_the_file_says_otherwise():
    assert parse(GOOD).tls == "required"


@pytest.mark.parametrize("off", ["off", '"off"', "false"])
def test_tls_may_be_off_where_no_address_is_another_machine_s(off):
    addresses = ("127.3.2.1", "::1", "::ffff:127.0.0.9")
    for address in addresses:
        assert parse(GOOD.replace("10.6.6.6", address).replace("10.6.6.7", "127.0.0.1") + f"tls: {off}\n").tls == "off"


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "12", "\x00", "a: b: c", "&a [*a]", "- " * 2000),
        *("a: 2026-13-45", "a: !!int abc", "a: !!timestamp foo", "a: !!bool x", "a: " + "9" * 5000, "a: !!binary é"),
    ],
)
def test_garbage_is_refused(text):
    with pytest.raises(BadConf):
        parse(text)


def test_every_torn_beginning_of_a_file_is_refused_or_complete():
    """A reader that looks while somebody writes in place sees a prefix; none may pass for another configuration."""
    whole = parse(GOOD)
    for length in range(len(GOOD)):
        try:
            conf = parse(GOOD[:length])
        except BadConf:
            continue
        # What parses lacks at most trailing keys: the numbered content is then caught by its generation.
        assert conf.covered() == whole.covered() or successor_problem(whole, conf) is not None


def test_a_successor_must_not_go_back_nor_change_under_one_number():
    old = parse(GOOD)

    assert successor_problem(old, old) is None
    assert "backwards" in (successor_problem(old, parse(GOOD.replace("generation: 4", "generation: 3"))) or "")
    assert "other content" in (successor_problem(old, parse(GOOD.replace("10.6.6.7", "10.6.6.8"))) or "")
    assert "controller-id" in (successor_problem(old, parse(GOOD.replace('id: "0"', 'id: "1"'))) or "")
    assert successor_problem(old, parse(GOOD.replace("generation: 4", "generation: 5"))) is None
    assert successor_problem(old, parse(GOOD + "db-last-index: 7\n")) is None
    assert "other content" in (successor_problem(old, parse(GOOD + "management-space: {name: mgmt}\n")) or "")


class TestReader:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "controller.conf"

    def test_no_file_is_no_problem_until_there_was_one(self, path):
        reader = ConfReader(path)

        assert not reader.read()
        path.write_text(GOOD)
        assert reader.read()
        path.unlink()
        assert reader.read()
        assert reader.conf is not None
        assert "is gone" in (reader.problem or "")

    @pytest.mark.parametrize("bad", [GOOD[:100], "", "\x00\xff", GOOD.replace("generation: 4", "generation: 3")])
    def test_a_bad_file_leaves_the_last_good_one_in_force_and_is_reported(self, path, bad):
        reader = ConfReader(path)
        path.write_text(GOOD)
        reader.read()
        good = reader.conf

        path.write_bytes(bad.encode("latin-1"))
        assert reader.read()

        assert reader.conf is good
        assert str(path) in (reader.problem or "")
        assert not reader.read(), "the same bad file is reported once"

    def test_the_problem_goes_when_the_file_is_good_again(self, path):
        reader = ConfReader(path)
        path.write_text("garbage: [")
        reader.read()
        path.write_text(GOOD)
        reader.read()

        assert reader.problem is None
        assert reader.conf == parse(GOOD)

    def test_a_generation_below_the_floor_is_refused_after_a_restart_too(self, path):
        path.write_text(GOOD)
        reader = ConfReader(path, floor=5)
        reader.read()

        assert reader.conf is None
        assert "older than 5" in (reader.problem or "")

    def test_a_huge_file_is_not_read(self, path):
        path.write_text("a" * (2 << 20))
        reader = ConfReader(path)
        reader.read()

        assert "larger than" in (reader.problem or "")
