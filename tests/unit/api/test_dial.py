"""The race: when attempts start, who wins, what becomes of the others, and what is said when nobody wins."""

from __future__ import annotations

import asyncio
import errno
import ssl

import pytest

import jumpingloop
from controller.api import dial
from controller.api.dial import DialError, Failure, Kind, Pace, PeerError, Rejected, Unreachable, Untrusted
from controller.api.scopes import HostPort

A, B, C = (HostPort(f"10.0.0.{n}", 17070) for n in (1, 2, 3))
PACE = Pace(interval=0.2, attempt=3, total=10)

REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")


def bad_certificate() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = 19, "self-signed certificate in certificate chain"
    return error


class Net:
    """Connections that take some seconds and then stand (None), fail, or never end. `log` has every start and end."""

    def __init__(self, **after: tuple[float, Exception | None]) -> None:
        self.after = {{"a": A, "b": B, "c": C}[name]: what for name, what in after.items()}
        self.log: list[tuple[float, str, HostPort]] = []
        self.closed: list[HostPort] = []
        self.failed: list[Failure] = []
        self.open = 0

    async def connect(self, address: HostPort) -> HostPort:
        self._say("start", address)
        seconds, error = self.after[address]
        self.open += 1
        try:
            await asyncio.sleep(seconds)
            if error is not None:
                raise error
        except BaseException:
            self.open -= 1
            self._say("end", address)
            raise
        self._say("up", address)
        return address

    async def discard(self, address: HostPort) -> None:
        self.open -= 1
        self.closed.append(address)

    def _say(self, what: str, address: HostPort) -> None:
        self.log.append((round(asyncio.get_running_loop().time(), 6), what, address))

    def starts(self) -> list[tuple[float, HostPort]]:
        return [(at, address) for at, what, address in self.log if what == "start"]

    def dial(self, *addresses: HostPort, pace: Pace = PACE) -> HostPort:
        async def inside() -> HostPort:
            address, connection = await dial.dial(
                addresses, self.connect, discard=self.discard, pace=pace, on_failure=self.failed.append
            )
            assert address == connection
            assert self.open == 1, "all but the winner are closed"
            return address

        return jumpingloop.run(inside())

    def fails(self, *addresses: HostPort, pace: Pace = PACE) -> DialError:
        with pytest.raises(DialError) as raised:
            self.dial(*addresses, pace=pace)
        assert self.open == 0
        return raised.value


NEVER = (1e6, None)


def test_a_first_address_that_answers_is_the_only_one_dialled():
    net = Net(a=(0.1, None), b=(0, None))

    assert net.dial(A, B) == A
    assert net.starts() == [(0, A)]


def test_the_next_starts_after_the_interval_and_the_first_success_wins():
    net = Net(a=NEVER, b=(0.1, None), c=(0.1, None))

    assert net.dial(A, B, C) == B
    assert net.starts() == [(0, A), (0.2, B)]


def test_the_next_starts_at_once_after_a_failure():
    net = Net(a=(0.01, REFUSED), b=(0.01, REFUSED), c=(0, None))

    assert net.dial(A, B, C) == C
    assert net.starts() == [(0, A), (0.01, B), (0.02, C)]
    assert [(f.address, f.kind) for f in net.failed] == [(A, Kind.NETWORK), (B, Kind.NETWORK)]


def test_a_slow_first_address_may_still_win_over_a_later_one():
    net = Net(a=(0.5, None), b=(1, None))

    assert net.dial(A, B) == A
    assert (0.5, "end", B) in net.log


def test_a_connection_that_came_about_in_the_same_moment_is_closed():
    net = Net(a=(0.25, None), b=(0.05, None))

    won = net.dial(A, B)

    assert {won, *net.closed} == {A, B}


def test_a_silent_address_costs_its_time_and_no_more():
    net = Net(a=NEVER, b=NEVER)

    error = net.fails(A, B)

    assert isinstance(error, Unreachable)
    assert str(error) == (
        "no controller can be reached: 10.0.0.1:17070: no answer within 3 s; 10.0.0.2:17070: no answer within 3 s"
    )
    assert net.log[-1] == (3.2, "end", B)


def test_an_address_given_twice_is_dialled_once():
    net = Net(a=(0, REFUSED))

    net.fails(A, A)

    assert net.starts() == [(0, A)]


def test_no_address_is_said_at_once():
    assert str(Net().fails()) == "there is no address to dial"


def test_without_retry_each_address_is_dialled_once():
    net = Net(a=(0, REFUSED), b=(0, REFUSED))

    error = net.fails(A, B)

    assert net.starts() == [(0, A), (0, B)]
    assert str(error) == (
        "no controller can be reached: 10.0.0.1:17070: connection refused; 10.0.0.2:17070: connection refused"
    )


def test_with_retry_an_address_comes_again_until_the_time_is_over():
    net = Net(a=(0, REFUSED))

    net.fails(A, pace=Pace(interval=0.2, attempt=3, total=5, retry=2))

    assert net.starts() == [(0, A), (2, A), (4, A)]


def test_an_address_that_comes_up_later_is_found_by_retrying():
    net = Net(a=(0, REFUSED))

    async def connect(address: HostPort) -> HostPort:
        if asyncio.get_running_loop().time() >= 4:
            net.after[A] = (0, None)
        return await net.connect(address)

    async def inside() -> tuple[HostPort, HostPort]:
        pace = Pace(interval=0.2, attempt=3, total=5, retry=2)
        return await dial.dial([A], connect, discard=net.discard, pace=pace)

    assert jumpingloop.run(inside()) == (A, A)


def test_a_certificate_error_is_not_retried_and_is_the_first_thing_said():
    net = Net(a=(0, REFUSED), b=(0.1, bad_certificate()), c=NEVER)

    error = net.fails(A, B, C, pace=Pace(interval=0.2, attempt=3, total=5, retry=2))

    assert isinstance(error, Untrusted)
    assert [f.kind for f in error.failures] == [Kind.CERTIFICATE, Kind.SILENCE, Kind.NETWORK]
    assert str(error).startswith("no controller can be trusted: 10.0.0.2:17070: its certificate is not of a trusted")
    assert [address for _, address in net.starts()].count(B) == 1
    assert [address for _, address in net.starts()].count(A) > 1


def test_a_certificate_error_of_one_does_not_keep_from_another():
    net = Net(a=(0, bad_certificate()), b=(0, None))

    assert net.dial(A, B) == B


def test_somebody_who_answers_wrongly_tells_more_than_somebody_who_does_not_answer():
    net = Net(a=(0, REFUSED), b=(0, PeerError(Kind.ANSWER, "HTTP status 404")))

    error = net.fails(A, B)

    assert isinstance(error, Rejected)
    assert str(error).startswith("nobody answers as a controller does: 10.0.0.2:17070: HTTP status 404; 10.0.0.1")


def test_the_whole_race_has_a_deadline():
    net = Net(a=NEVER, b=(0, REFUSED))

    error = net.fails(A, B, pace=Pace(interval=0.2, attempt=4, total=4, retry=1.5))

    assert net.log[-1][0] == 4
    assert {f.address for f in error.failures} == {A, B}


def test_who_is_cancelled_leaves_no_attempt_behind():
    net = Net(a=NEVER, b=NEVER)

    async def inside() -> None:
        task = asyncio.create_task(dial.dial([A, B], net.connect, discard=net.discard, pace=PACE))
        await asyncio.sleep(1)
        assert net.open == 2
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert net.open == 0
        assert len(asyncio.all_tasks()) == 1

    jumpingloop.run(inside())


def test_a_connection_that_will_not_be_closed_holds_nobody_up():
    net = Net(a=(0.2, None), b=(0, None))

    async def discard(_: HostPort) -> None:
        await asyncio.Event().wait()

    async def inside() -> float:
        await dial.dial([A, B], net.connect, discard=discard, pace=PACE)
        return asyncio.get_running_loop().time()

    assert jumpingloop.run(inside()) <= 1.3


def test_a_defect_in_connect_is_not_taken_for_a_bad_network():
    async def connect(_: HostPort) -> HostPort:
        raise TypeError("a defect")

    async def inside() -> None:
        await dial.dial([A], connect, discard=Net().discard, pace=PACE)

    with pytest.raises(TypeError):
        jumpingloop.run(inside())


@pytest.mark.parametrize("pace", [(0, 1, 1), (2, 1, 3), (1, 3, 2)])
def test_a_pace_that_makes_no_sense_is_refused(pace: tuple[float, float, float]):
    with pytest.raises(ValueError):
        Pace(*pace)


def test_on_real_sockets_a_silent_one_a_closed_one_and_a_good_one():
    """No fakes: the silent one accepts and never speaks, the closed one is a port that nobody has."""

    async def connect(address: HostPort) -> asyncio.StreamWriter:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        try:
            if await reader.readexactly(2) != b"hi":
                raise PeerError(Kind.ANSWER, "no greeting")
        except BaseException:
            writer.close()
            raise
        return writer

    async def discard(writer: asyncio.StreamWriter) -> None:
        writer.close()

    ended = asyncio.Semaphore(0)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        ended.release()

    async def good(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hi")
        await silent(reader, writer)

    async def inside() -> None:
        servers = [await asyncio.start_server(h, "127.0.0.1", 0) for h in (silent, good, good)]
        ports = [server.sockets[0].getsockname()[1] for server in servers]
        servers[2].close()
        closed, quiet, well = (HostPort("127.0.0.1", ports[n]) for n in (2, 0, 1))
        failed: list[Failure] = []
        address, writer = await dial.dial(
            [closed, quiet, well], connect, discard=discard, pace=PACE, on_failure=failed.append
        )
        assert address == well
        assert [(f.address, f.reason) for f in failed] == [(closed, "connection refused")]
        writer.close()
        async with asyncio.timeout(5):
            await ended.acquire()  # The silent one's other side was closed by the race,
            await ended.acquire()  # the winner's just now.
        for server in servers[:2]:
            server.close()
            await server.wait_closed()

    asyncio.run(inside())
