"""What every provider must keep, as checks that any of them can be put through.

`python -m providercontract URL` puts the local one through them, where the service at URL can be reached.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Awaitable, Callable

from controller.workers.localprovider import LocalProvider
from controller.workers.provider import Gone, Instance, Provider, Refused, Spec, TryAgain

SPEC = Spec("machine-1")
_TRIES = 3
# Gives a provider whose instances have this tag.
Maker = Callable[[str], Provider]


async def a_start_is_listed_and_a_second_one_finds_it(make: Maker) -> None:
    provider, one = make("a"), fresh()

    started = await provider.start(one, SPEC)

    assert started.uuid == one and started.id
    assert await provider.start(one, SPEC) == started
    assert await provider.list() == (started,)


async def started_at_once_by_many_it_is_one_instance(make: Maker) -> None:
    one = fresh()

    found: list[Instance] = await asyncio.gather(*(make("b").start(one, SPEC) for _ in range(8)))

    assert len(set(found)) == 1
    assert len(await make("b").list()) == 1


async def a_list_shows_the_own_model_only(make: Maker) -> None:
    mine, other = fresh(), fresh()
    await make("c").start(mine, SPEC)
    await make("d").start(other, SPEC)

    assert [i.uuid for i in await make("c").list()] == [mine]


async def what_was_stopped_never_starts_again(make: Maker) -> None:
    provider, one = make("e"), fresh()
    await provider.start(one, SPEC)

    await provider.stop(one)
    await provider.stop(one)

    assert await provider.list() == ()
    assert await refusal(provider.start(one, SPEC)) is Gone
    assert await provider.list() == ()


async def a_stop_that_comes_before_the_start_is_remembered(make: Maker) -> None:
    provider, one = make("f"), fresh()

    await provider.stop(one)

    assert await refusal(provider.start(one, SPEC)) is Gone
    assert await provider.list() == ()


async def a_stop_beside_a_start_ends_with_nothing(make: Maker) -> None:
    provider = make("g")
    for _ in range(5):
        one = fresh()
        starting = asyncio.create_task(outcome(provider.start(one, SPEC)))
        await asyncio.sleep(0)
        await provider.stop(one)
        await starting

        assert await provider.list() == ()
        assert await refusal(provider.start(one, SPEC)) is Gone


async def who_stops_waiting_does_not_undo_the_start(make: Maker) -> None:
    provider, one = make("h"), fresh()
    starting = asyncio.create_task(provider.start(one, SPEC))
    await asyncio.sleep(0.02)
    starting.cancel()
    await asyncio.wait([starting])

    started = await provider.start(one, SPEC)

    assert await provider.list() == (started,)


async def a_wrong_request_is_refused(make: Maker) -> None:
    assert await refusal(make("i").start("nonsense", SPEC)) is Refused
    assert await refusal(make("i").start(fresh(), Spec("Not A Host!"))) is Refused
    assert await make("i").list() == ()


async def whose_machines_these_are_has_one_name_for_all_models(make: Maker) -> None:
    assert make("j").name == make("k").name != ""


CHECKS = (
    a_start_is_listed_and_a_second_one_finds_it,
    started_at_once_by_many_it_is_one_instance,
    a_list_shows_the_own_model_only,
    what_was_stopped_never_starts_again,
    a_stop_that_comes_before_the_start_is_remembered,
    a_stop_beside_a_start_ends_with_nothing,
    who_stops_waiting_does_not_undo_the_start,
    a_wrong_request_is_refused,
    whose_machines_these_are_has_one_name_for_all_models,
)


def fresh() -> str:
    return str(uuid.uuid4())


async def outcome(work: Awaitable[object]) -> object:
    """Return what came of it, an error included."""
    (found,) = await asyncio.gather(work, return_exceptions=True)
    return found


async def refusal(work: Awaitable[object]) -> type:
    return type(await outcome(work))


class Patient(LocalProvider):
    """Asks again where it is told to, as everybody who starts machines has to: a host may fail to boot."""

    async def start(self, uuid: str, spec: Spec) -> Instance:
        for _ in range(_TRIES - 1):
            try:
                return await super().start(uuid, spec)
            except TryAgain as error:
                print(error, file=sys.stderr, flush=True)
        return await super().start(uuid, spec)


async def _main(url: str) -> None:
    for check in CHECKS:
        await check(lambda tag: Patient(url, {"model": tag}, "the contract"))
        print(check.__name__, flush=True)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
