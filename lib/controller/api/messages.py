"""Flow 3, hop 3: the messages on the wire, in Juju's framing and words. Pure.

One JSON object a websocket message. A request names a facade, its version and a method; a response repeats the
request's number and carries either a result or an error with one of Juju's codes. Unknown fields are ignored on both
sides, so that either may be newer; an unknown facade, version or method is refused with the code that Juju's own
clients understand.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec

# Of one message, before and after the login. A client's first words are short; what it may send later is not much more.
MOST_BYTES_BEFORE_LOGIN = 64 * 1024
MOST_BYTES = 1024 * 1024
# What one request may ask about.
MOST_ENTITIES = 200

# Clients of Juju compare the major version and refuse another than their own; this is the protocol that is spoken.
SERVER_VERSION = "3.6.0"

# Juju's error codes: what a client does next depends on them alone.
UNAUTHORIZED = "unauthorized access"
NOT_IMPLEMENTED = "not implemented"
NOT_FOUND = "not found"
NOT_VALID = "not valid"
BAD_REQUEST = "bad request"
MODEL_NOT_FOUND = "model not found"
TRY_AGAIN = "try again"
QUOTA_EXCEEDED = "quota limit exceeded"
STOPPED = "stopped"
REDIRECT = "redirection required"
# Ours: the one who asks has heard of a newer epoch of this cluster than the controller it asks.
SUPERSEDED = "superseded"

_T = TypeVar("_T")


class RPCError(Exception):
    """A request that was answered with an error. `code` is one of the above, or "" where there is none."""

    def __init__(self, message: str, code: str = "", info: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.info = info


class BadMessage(ValueError):
    """What came is no message. The text is one sentence. `request_id` is the number it had, 0 where that is unknown."""

    def __init__(self, message: str, request_id: int = 0) -> None:
        super().__init__(message)
        self.request_id = request_id


class Request(msgspec.Struct, frozen=True, rename="kebab", omit_defaults=True, kw_only=True):
    """One question: method `request` of `version` of the facade `type`; `id` names an object of it, as a watcher."""

    request_id: int
    type: str
    request: str
    version: int = 0
    id: str = ""
    params: msgspec.Raw = msgspec.Raw(b"{}")


class Response(msgspec.Struct, frozen=True, rename="kebab", omit_defaults=True, kw_only=True):
    """The answer to one request. Beside an `error` the `response` says nothing, but python-libjuju wants one."""

    request_id: int
    response: msgspec.Raw = msgspec.Raw(b"")
    error: str = ""
    error_code: str = ""
    error_info: dict[str, Any] | None = None


class _Numbered(msgspec.Struct, frozen=True, rename="kebab"):
    request_id: int = 0


class Epoch(msgspec.Struct, frozen=True, order=True):
    """The number of a cluster's forced reconfigurations, and the random tag that came with the last."""

    number: int = 0
    tag: str = ""


class HostPort(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """One address of a controller, as Juju's clients expect it."""

    value: str
    port: int
    type: str = "ipv4"
    scope: str = ""
    space_name: str = ""

    def __str__(self) -> str:
        return f"[{self.value}]:{self.port}" if ":" in self.value else f"{self.value}:{self.port}"


# One inner list a controller.
Servers = tuple[tuple[HostPort, ...], ...]


class LoginParams(msgspec.Struct, frozen=True, rename="kebab", omit_defaults=True, kw_only=True):
    """Who wants in. Agents send their nonce; ours send the newest epoch they have heard of."""

    auth_tag: str | None = None
    credentials: str | None = None
    nonce: str | None = None
    client_version: str | None = None
    epoch: Epoch | None = None


class FacadeVersions(msgspec.Struct, frozen=True):
    """One facade that may be asked on this connection, and its versions."""

    name: str
    versions: tuple[int, ...]


class UserInfo(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """Who a client is to the controller."""

    display_name: str
    identity: str
    controller_access: str
    model_access: str = ""


class LoginResult(msgspec.Struct, frozen=True, rename="kebab", omit_defaults=True, kw_only=True):
    """What a login returns. `servers` and `ca_cert`: where to go and whom to trust from now on."""

    controller_tag: str
    server_version: str
    servers: Servers = ()
    facades: tuple[FacadeVersions, ...] = ()
    model_tag: str = ""
    public_dns_name: str = ""
    user_info: UserInfo | None = None
    epoch: Epoch | None = None
    controller_name: str = ""
    ca_cert: str = ""


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error inside a result, of one entity among several."""

    message: str
    code: str = ""


class Nothing(msgspec.Struct, frozen=True):
    """No parameters, or no result."""


class Entity(msgspec.Struct, frozen=True):
    """Whom one part of a request is about, by its tag."""

    tag: str


# What is answered of one entity is much longer than its tag: without an end a request of 1 MiB gets 100 MiB back.
SomeEntities = Annotated[tuple[Entity, ...], msgspec.Meta(max_length=MOST_ENTITIES)]


class Entities(msgspec.Struct, frozen=True):
    """Whom a request is about. Absent or null: nobody is named."""

    entities: SomeEntities | None = None


class ErrorResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of an order to one entity: no error is success."""

    error: Fault | None = None


class ErrorResults(msgspec.Struct, frozen=True):
    """One for each entity of the request, in its order."""

    results: tuple[ErrorResult, ...] = ()


class NotifyWatchResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """The watcher that was made. Its first event has happened: what there is now is to be read."""

    NotifyWatcherId: str
    error: Fault | None = None


class HostPortsResult(msgspec.Struct, frozen=True):
    """Of Machiner's APIHostPorts: where the controllers are for agents."""

    servers: Servers


class StringsResult(msgspec.Struct, frozen=True):
    """A list of texts."""

    result: tuple[str, ...] = ()


class BytesResult(msgspec.Struct, frozen=True):
    """Of Machiner's CACert: the authorities that a controller's certificate comes from, as PEM; base64 on the wire."""

    result: bytes = b""


class EntityPassword(msgspec.Struct, frozen=True):
    """A new password for the one with this tag."""

    tag: str
    password: str


class EntityPasswords(msgspec.Struct, frozen=True):
    """Of Agent's SetPasswords."""

    changes: tuple[EntityPassword, ...] = ()


class RegisterParams(msgspec.Struct, frozen=True, kw_only=True):
    """Of Registration's Complete: the one-time secret of a registration string, and the password to set with it."""

    user: str
    secret: str
    password: str


def request(data: str | bytes) -> Request:
    """Return the request in one websocket message. Raises BadMessage."""
    try:
        found = msgspec.json.decode(data, type=Request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"not a request: {error}", _number(data)) from None
    if found.request_id < 1:
        raise BadMessage(f"request-id is {found.request_id}; it must be 1 or more")
    if not found.type or not found.request:
        raise BadMessage("a request names its type and its request", found.request_id)
    return found


def response(data: str | bytes) -> Response:
    """Return the response in one websocket message. Raises BadMessage."""
    try:
        return msgspec.json.decode(data, type=Response)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"not a response: {error}") from None


def params(asked: Request, kind: type[_T]) -> _T:
    """Return a request's parameters as `kind`. Raises RPCError (bad request) naming what does not fit."""
    raw = bytes(asked.params)
    try:
        return msgspec.json.decode(b"{}" if raw == b"null" else raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RPCError(f"{asked.type}({asked.version}).{asked.request}: {error}", BAD_REQUEST) from None


def ask(number: int, type: str, version: int, name: str, id: str = "", params: Any = None) -> bytes:
    """Return the message of a request."""
    body = msgspec.Raw(b"{}" if params is None else msgspec.json.encode(params))
    return msgspec.json.encode(Request(request_id=number, type=type, version=version, request=name, id=id, params=body))


def answer(number: int, result: Any) -> bytes:
    """Return the message of a successful response."""
    return msgspec.json.encode(Response(request_id=number, response=msgspec.Raw(msgspec.json.encode(result))))


def refusal(number: int, error: RPCError) -> bytes:
    """Return the message of a response that says no."""
    return msgspec.json.encode(
        Response(
            request_id=number,
            response=msgspec.Raw(b"{}"),
            error=str(error) or "failed",
            error_code=error.code,
            error_info=error.info,
        )
    )


def result(found: Response, kind: type[_T]) -> _T:
    """Return what a response carries, as `kind`. Raises RPCError, and BadMessage for an answer of another shape."""
    if found.error:
        raise RPCError(found.error, found.error_code, found.error_info)
    try:
        return msgspec.json.decode(bytes(found.response) or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"the answer is not a {kind.__name__}: {error}", found.request_id) from None


def _number(data: str | bytes) -> int:
    try:
        return max(0, msgspec.json.decode(data, type=_Numbered).request_id)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
