"""agent.conf, the text: what is read, what a change touches, and what is refused."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.api.agent import agentconf
from controller.api.agent.agentconf import AgentConf, BadAgentConf, NewerFormat, WouldStrand
from controller.api.messages import Epoch
from controller.api.scopes import HostPort

A, A2, B, C = (HostPort(h, 17070) for h in ("10.0.0.1", "fd00::1", "10.0.0.2", "10.0.0.3"))

# As Juju writes it, with one key that nobody knows and a comment that somebody left.
JUJU = """\
# format 2.0
tag: machine-3
datadir: /var/lib/juju
logdir: /var/log/juju
nonce: machine-0:5d0fa6ae-2b6b-4bc4-8a3e-1d2c6d4b3c11
jobs:
- JobHostUnits
upgradedToVersion: 4.0.1
cacert: |
  -----BEGIN CERTIFICATE-----
  MIICRTCCAcqgAwIBAgIUMpfaHZ
  -----END CERTIFICATE-----
controller: controller-4d5ae9b0-7c6b-4a3c-8f0e-0f1b6f6a3a11
model: model-8e1f2d6c-26bd-4a11-9f35-0e5ae5be6a51
apiaddresses:
- 10.0.0.1:17070
- '[fd00::1]:17070'
# By hand, on a Monday: keep.
- 10.0.0.2:17070
apipassword: 12345678901234567890

# What comes next is of the future.
future-key: {a: [1, 2.50, ~], "b": 'c'}
oldpassword: ""
loggingconfig: <root>=INFO
values:
  AGENT_SERVICE_NAME: jujud-machine-3
  api-address-groups: 2,1
agent-logfile-max-size: 100
querytracingthreshold: 1000000000
"""


def document(text: str) -> dict[str, object]:
    loaded = yaml.safe_load(text)
    assert isinstance(loaded, dict)
    return loaded


def test_what_an_agent_needs_is_read():
    conf = agentconf.parse(JUJU)

    assert conf.tag == "machine-3"
    assert conf.controller.startswith("controller-4d5ae9b0")
    assert conf.apiaddresses == (A, A2, B)
    assert conf.controllers == ((A, A2), (B,))
    assert conf.apipassword == "12345678901234567890", "a password of digits is text"
    assert conf.oldpassword == ""
    assert conf.cacert.startswith("-----BEGIN CERTIFICATE-----\n")
    assert conf.epoch is None


def test_a_secret_is_in_no_repr_and_in_no_error():
    conf = agentconf.parse(JUJU)

    assert "12345678901234567890" not in repr(conf)
    for broken in (
        "apipassword: [s3cret]\n",
        "apipassword: {s3cret: x}\n",
        "apipassword: 's3cret\n",
        "x: &s3cret *t\n",
    ):
        with pytest.raises(BadAgentConf) as refused:
            agentconf.parse(f"# format 2.0\ntag: machine-0\n{broken}")
        assert "s3cret" not in str(refused.value)
        assert refused.value.__cause__ is None


def test_the_same_set_in_another_order_changes_no_byte():
    conf = agentconf.parse(JUJU)

    assert agentconf.with_servers(conf, [(B,), (A2, A)]) is conf


def test_an_address_that_two_controllers_have_stands_once_and_the_groups_stay():
    told = [(A, C), (B, C), (C,)]

    changed = agentconf.with_servers(agentconf.parse(JUJU), told)

    assert document(changed.text)["apiaddresses"] == [str(A), str(C), str(B)]
    assert changed.controllers == ((A, C), (B,))
    assert agentconf.with_servers(changed, told) is changed


def test_new_addresses_touch_their_two_keys_and_nothing_else():
    conf = agentconf.parse(JUJU)

    changed = agentconf.with_servers(conf, [(C,), (B, A2)])

    assert changed.apiaddresses == (C, B, A2)
    assert changed.controllers == ((C,), (B, A2))
    wanted = document(JUJU)
    wanted["apiaddresses"] = ["10.0.0.3:17070", "10.0.0.2:17070", "[fd00::1]:17070"]
    wanted["values"] = {"AGENT_SERVICE_NAME": "jujud-machine-3", "api-address-groups": "1,2"}
    assert document(changed.text) == wanted
    assert list(document(changed.text)) == list(wanted)
    untouched = JUJU.splitlines()
    for line in [*untouched[15:19], *untouched[25:28]]:
        untouched.remove(line)
    assert [line for line in changed.text.splitlines() if line in untouched] == untouched


def test_a_key_that_was_not_there_comes_at_the_end():
    conf = agentconf.parse("# format 2.0\ntag: machine-0\nzebra: 1  # stripes\n# the end")

    changed = agentconf.with_servers(conf, [(A,)])

    assert changed.text == (
        "# format 2.0\ntag: machine-0\nzebra: 1  # stripes\n"
        'apiaddresses:\n- "10.0.0.1:17070"\nvalues:\n  "api-address-groups": "1"\n# the end'
    )


def test_a_comment_before_the_next_key_stays_when_a_key_changes():
    changed = agentconf.with_passwords(agentconf.parse(JUJU), "new", "12345678901234567890")

    assert '\napipassword: "new"\n\n# What comes next is of the future.\nfuture-key:' in changed.text
    assert (changed.apipassword, changed.oldpassword) == ("new", "12345678901234567890")
    assert agentconf.with_passwords(changed, "new", "12345678901234567890") is changed


def test_no_address_at_all_is_refused():
    conf = agentconf.parse(JUJU)

    for nothing in ([], [()], [(), ()]):
        with pytest.raises(WouldStrand):
            agentconf.with_servers(conf, nothing)
    with pytest.raises(WouldStrand):
        agentconf.with_authorities(conf, " \n")


def test_a_list_that_somebody_else_wrote_has_no_groups():
    for groups in ("2,2", "3,0", "x", "", "-1,4", "٣"):
        conf = agentconf.parse(JUJU.replace("api-address-groups: 2,1", f"api-address-groups: '{groups}'"))

        assert conf.controllers == ((A,), (A2,), (B,)), groups


def test_the_newest_epoch_is_kept():
    conf = agentconf.with_epoch(agentconf.parse(JUJU), Epoch(3, "abc"))

    assert conf.epoch == Epoch(3, "abc")
    assert agentconf.with_epoch(conf, Epoch(3, "abc")) is conf
    assert agentconf.parse(JUJU.replace("values:", "values:\n  controller-epoch: nonsense")).epoch is None


def test_the_authorities_are_replaced_as_a_block():
    pem = "-----BEGIN CERTIFICATE-----\nnew\n-----END CERTIFICATE-----\n"

    conf = agentconf.with_authorities(agentconf.parse(JUJU), pem)

    assert conf.cacert == pem
    assert "cacert: |\n  -----BEGIN CERTIFICATE-----\n  new\n" in conf.text
    assert agentconf.with_authorities(conf, pem.strip()) is conf


@pytest.mark.parametrize("line", ["# format 2.1", "# format 3.0", "# format 10.0"])
def test_a_newer_format_is_refused_and_says_what_to_do(line: str):
    with pytest.raises(NewerFormat, match=r"newer than the 2\.0 this version reads: refresh this agent"):
        agentconf.parse(JUJU.replace("# format 2.0", line))


HEAD = "# format 2.0\ntag: machine-0\n"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "first line"),
        ("tag: machine-0\n", "first line"),
        ("#format 2.0\ntag: machine-0\n", "first line"),
        ("# format 1.18\ntag: machine-0\n", "older"),
        ("# format 2.0\n", "mapping"),
        ("# format 2.0\n- a\n", "mapping"),
        ("# format 2.0\n{tag: machine-0}\n", "one a line"),
        ("# format 2.0\nnonce: x\n", "no tag"),
        ("# format 2.0\ntag: machine\n", "no tag"),
        ("# format 2.0\ntag: robot-0\n", "no tag"),
        ("# format 2.0\ntag: [machine-0]\n", "tag is no text"),
        (HEAD + "tag: machine-1\n", "tag is there twice"),
        (HEAD + "controller: here\n", "controller"),
        (HEAD + "apiaddresses: 10.0.0.1:17070\n", "apiaddresses is no list"),
        (HEAD + "apiaddresses: [10.0.0.1]\n", "'10.0.0.1' is not host:port"),
        (HEAD + "apiaddresses: [[a]]\n", "apiaddresses is no text"),
        (HEAD + "values: [a]\n", "values is no mapping"),
        (HEAD + "a: b: c\n", "line 3"),
        (HEAD + "a: \x01\n", "characters"),
        (HEAD + "? [a]\n: b\n", "a key in line 3"),
        (HEAD + "--- \na: b\n", "YAML"),
        (HEAD + "a: " + "[" * 5000, "nested"),
    ],
)
def test_what_is_no_agent_conf_is_refused_by_name(text: str, named: str):
    with pytest.raises(BadAgentConf) as refused:
        agentconf.parse(text)

    assert named in str(refused.value)


@pytest.mark.parametrize("part", ["apiaddresses:\n", "apiaddresses: []\n", "apiaddresses: ~\n", ""])
def test_a_file_without_addresses_can_be_read(part: str):
    assert agentconf.parse(HEAD + part).apiaddresses == ()


def test_a_change_that_would_touch_another_key_is_refused():
    conf = agentconf.parse(HEAD + "apipassword: &p old\noldpassword: *p\nmirror: *p\n")

    with pytest.raises(BadAgentConf, match="write them plainly"):
        agentconf.with_passwords(conf, "new", "old")


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Co", "Cn"]), max_size=30)
# Every byte-for-byte oddity that YAML allows between keys.
FILLINGS = st.sampled_from(["", "\n", "# note\n", "\n\n# note: x\n", "#\n"])
UNKNOWN = st.lists(
    st.tuples(
        st.from_regex(r"[a-z][a-z-]{0,8}x", fullmatch=True),
        st.one_of(
            st.integers(), st.booleans(), st.none(), TEXTS, st.lists(TEXTS, max_size=3), st.dictionaries(TEXTS, TEXTS)
        ),
        st.sampled_from([None, '"', "'", "|", ">"]),
        FILLINGS,
    ),
    unique_by=lambda entry: entry[0],
    max_size=6,
)
SERVERS = st.lists(st.lists(st.sampled_from([A, A2, B, C]), max_size=3, unique=True), min_size=1, max_size=4).map(
    lambda groups: [g for g in groups if g]
)


@settings(max_examples=60, deadline=None)
@given(UNKNOWN, SERVERS, st.integers(0, 6), TEXTS)
def test_whatever_else_is_in_the_file_stays_byte_by_byte(unknown, servers, position: int, password: str):
    parts = [
        yaml.safe_dump({key: value}, default_style=style, allow_unicode=True).replace("...\n", "") + filling
        for key, value, style, filling in unknown
    ]
    for own in ("tag: machine-0\n", "apipassword: old\n", "apiaddresses: [10.9.9.9:1]\n"):
        parts.insert(position % (len(parts) + 1), own)
    text = "# format 2.0\n" + "".join(parts)
    conf = agentconf.parse(text)
    seen = {address for group in servers for address in group}

    if len(seen) != sum(map(len, servers)) or not seen:
        return  # One address of two controllers: not what this test is about.
    changed: AgentConf = agentconf.with_passwords(agentconf.with_servers(conf, servers), password, "old")

    assert changed.text.startswith("# format 2.0\n")
    for key, value, style, _ in unknown:
        lines = yaml.safe_dump({key: value}, default_style=style, allow_unicode=True).replace("...\n", "")
        assert lines in changed.text
        assert document(changed.text)[key] == document(text)[key]
    assert (changed.apipassword, changed.oldpassword) == (password, "old")
    assert changed.controllers == tuple(map(tuple, servers))
    assert agentconf.parse(changed.text) == changed
    # And the way back, to the very same values.
    back = agentconf.with_passwords(agentconf.with_servers(changed, conf.controllers), "old", "")
    assert back.controllers == conf.controllers
    assert agentconf.with_servers(changed, reversed(servers)) is changed
