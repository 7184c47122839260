"""Juju's framing: what comes is read leniently and refused clearly, what goes is what Juju's clients expect."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api import messages


def test_a_request_of_libjuju_is_read_and_its_unknown_fields_are_ignored():
    text = json.dumps(
        {
            "type": "Admin",
            "request": "Login",
            "version": 3,
            "params": {"auth-tag": "user-admin", "credentials": "s3cret", "client-version": "3.6.1", "cli-args": "x"},
            "request-id": 1,
            "trace-id": "new",
        }
    )

    asked = messages.request(text)
    params = messages.params(asked, messages.LoginParams)

    assert (asked.type, asked.version, asked.request, asked.request_id) == ("Admin", 3, "Login", 1)
    assert (params.auth_tag, params.credentials, params.epoch) == ("user-admin", "s3cret", None)


def test_what_we_ask_is_what_we_read():
    sent = messages.ask(7, "NotifyWatcher", 1, "Next", "3", messages.Entities((messages.Entity("machine-0"),)))

    asked = messages.request(sent)

    assert (asked.request_id, asked.id) == (7, "3")
    assert messages.params(asked, messages.Entities).entities == (messages.Entity("machine-0"),)


def test_an_answer_has_no_error_key_because_libjuju_takes_one_for_a_failure():
    assert json.loads(messages.answer(1, messages.Nothing())) == {"request-id": 1, "response": {}}


def test_a_refusal_carries_the_words_and_the_code_of_juju():
    sent = json.loads(messages.refusal(4, messages.RPCError("permission denied", messages.UNAUTHORIZED)))

    assert sent == {"request-id": 4, "response": {}, "error": "permission denied", "error-code": "unauthorized access"}


def test_an_answer_with_an_error_is_raised_with_its_code():
    found = messages.response(messages.refusal(4, messages.RPCError("no", messages.TRY_AGAIN, {"seconds": 3})))

    with pytest.raises(messages.RPCError, match="no") as raised:
        messages.result(found, messages.Nothing)
    assert (raised.value.code, raised.value.info) == (messages.TRY_AGAIN, {"seconds": 3})


def test_an_answer_of_another_shape_is_no_answer():
    found = messages.response(messages.answer(1, {"servers": 5}))

    with pytest.raises(messages.BadMessage, match="HostPortsResult"):
        messages.result(found, messages.HostPortsResult)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", 0),
        ("[]", 0),
        ("{}", 0),
        ("\x00", 0),
        ('{"request-id": 3}', 3),
        ('{"request-id": 3, "type": 5, "request": "Login"}', 3),
        ('{"request-id": 3, "type": "", "request": ""}', 3),
        ('{"request-id": 0, "type": "Admin", "request": "Login"}', 0),
        ('{"request-id": -1, "type": "Admin", "request": "Login"}', 0),
        ('{"request-id": 1e400, "type": "Admin", "request": "Login"}', 0),
        ("[" * 100_000, 0),
    ],
)
def test_what_is_no_request_is_said_with_its_number_where_it_has_one(text: str, number: int):
    with pytest.raises(messages.BadMessage) as raised:
        messages.request(text)
    assert raised.value.request_id == number


def test_parameters_that_do_not_fit_are_a_bad_request_that_names_the_method_and_the_field():
    asked = messages.request(messages.ask(1, "Admin", 3, "Login", params={"auth-tag": 5}))

    with pytest.raises(messages.RPCError, match=r"Admin\(3\)\.Login.*auth-tag") as raised:
        messages.params(asked, messages.LoginParams)
    assert raised.value.code == messages.BAD_REQUEST


def test_parameters_that_are_null_are_no_parameters():
    asked = messages.request('{"request-id": 1, "type": "A", "request": "B", "params": null}')

    assert messages.params(asked, messages.Entities) == messages.Entities()


def test_a_login_result_has_the_keys_of_juju_and_a_list_for_each_controller():
    one = messages.HostPort(value="10.0.0.1", port=17070, scope="local-cloud", space_name="alpha")
    other = messages.HostPort(value="fd00::2", port=17070, type="ipv6", scope="local-cloud")
    found = messages.LoginResult(
        controller_tag="controller-u",
        server_version=messages.SERVER_VERSION,
        servers=((one,), (other,)),
        facades=(messages.FacadeVersions("Pinger", (1,)),),
        user_info=messages.UserInfo(display_name="admin", identity="user-admin", controller_access="superuser"),
    )

    sent = json.loads(messages.answer(1, found))["response"]

    assert sent["servers"][0] == [
        {"value": "10.0.0.1", "port": 17070, "type": "ipv4", "scope": "local-cloud", "space-name": "alpha"}
    ]
    assert sent["facades"] == [{"name": "Pinger", "versions": [1]}]
    assert sent["user-info"]["controller-access"] == "superuser"
    assert (str(one), str(other)) == ("10.0.0.1:17070", "[fd00::2]:17070")


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_whatever_comes_is_a_message_or_a_bad_message(data: str | bytes):
    for read in (messages.request, messages.response):
        try:
            read(data)
        except messages.BadMessage:
            continue
