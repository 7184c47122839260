"""The main job, chapter by chapter. Each states what must come true, waits for it, and notes what it took."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

from demo import history, machinelog
from demo.report import Findings
from demo.stage import APP, Failed, Stage
from demo.telling import Check, Teller

_KILLS = 5
_FAILOVER_LIMIT_MS = 1000.0
_THREE_VOTERS_LIMIT_SECONDS = 10.0
_MACHINES = 12
_AGENTS = 4
_MOST_AGENTS = 12
_FIND_LIMIT_SECONDS = 5.0
_TAKEOVER_LIMIT_SECONDS = 10.0  # Six are promised; the command itself, and a machine that has more to do, take some.

# Deadlines: generous, because they only bound a failure. What is promised is checked as a number.
_HOOKS_SECONDS = 180.0
_RECOVER_SECONDS = 30.0


class Story:
    """One telling. `findings` holds whatever was found, also after a chapter failed."""

    def __init__(self, stage: Stage, teller: Teller, findings: Findings) -> None:
        self._stage = stage
        self._teller = teller
        self._findings = findings
        self._writes = False

    def tell(self) -> None:
        """Tell all chapters. Raises Failed from the first that cannot go on."""
        for chapter in (
            self._one_unit,
            self._three_units,
            self._kill_the_leader,
            self._machines,
            self._agents_and_a_client,
            self._power_cut,
            self._two_addresses,
            self._five_units,
            self._shrink_in_order,
            self._lose_two_at_once,
        ):
            chapter()

    def _one_unit(self) -> None:
        self._teller.chapter("One unit")
        self._stage.juju("deploy", ".", APP)
        self._until_active(1)
        self._write()
        self._until_written_after(time.monotonic())
        self._holds("a lone unit is active and writable", "the writer outside has its first row acknowledged")

    def _three_units(self) -> None:
        self._teller.chapter("Two more: three voters")
        self._stage.juju("add-unit", APP, "-n", "2")
        self._until_roles("three voters", {"voter": 3})
        reached = self._roles_since({"voter": 3})
        self._until_active(3)
        started = max(self._stage.service_started(unit) for unit in self._stage.units())
        took = self._findings.to_three_voters_s = round(reached - started, 2)
        self._check(
            "three voters within 10 s of the third unit's start",
            took <= _THREE_VOTERS_LIMIT_SECONDS,
            f"{took:.1f} s after the third controllerd was started",
        )
        self._show_hactl()

    def _kill_the_leader(self) -> None:
        self._teller.chapter(f"kill -9 of the leader's controllerd, {_KILLS} times")
        gaps: list[float] = []
        for count in range(1, _KILLS + 1):
            leader = self._settled_leader()
            begun = time.monotonic()
            self._stage.juju("kill", leader)
            self._until_written_after(time.monotonic())
            self._until_whole(leader)
            gap = history.gap_ms(self._stage.attempts(), history.Outage(begun, time.monotonic()))
            if gap is None:
                raise Failed("no row was acknowledged after the kill")
            gaps.append(gap)
            self._teller.say(f"kill {count}: {gap:.0f} ms without a committed row; {leader} is back")
        self._findings.failover_ms = gaps
        self._holds("the leader comes back each time", f"{_KILLS} kills, {_KILLS} returns")
        median = history.median(gaps) or 0.0
        self._check(
            "failover under 1 s in the median",
            median < _FAILOVER_LIMIT_MS,
            f"{median:.0f} ms in the median, {max(gaps):.0f} ms at worst",
        )

    def _machines(self) -> None:
        self._teller.chapter("Machines are added, and who makes them dies")
        unit = min(self._stage.units(), key=_number)
        self._hactl(unit, "controller-config", f"local-provider={self._stage.cloud()}")
        self._hactl(unit, "add-machine", "-n", str(_MACHINES))
        self._stage.until("the first machines", lambda: self._started(unit, 2), _RECOVER_SECONDS)
        first = machinelog.askers(self._stage.cloud_log())[-1]
        victim = self._stage.unit_of(_controller(first))
        self._teller.say(f"{first} makes them, which is {victim}")
        begun = time.monotonic()
        self._stage.juju("kill", victim)
        successor = self._until_taken_over(begun)
        took = self._findings.takeover_s = round(successor.at - begun, 2)
        self._check(
            "another takes over within 10 s of the kill",
            took <= _TAKEOVER_LIMIT_SECONDS,
            f"{successor.who} spoke to the cloud {took:.1f} s after it",
        )
        asked = next(u for u in sorted(self._stage.units(), key=_number) if u != victim)
        self._stage.until(
            f"{_MACHINES} machines", lambda: self._started(asked, _MACHINES), _RECOVER_SECONDS + _MACHINES
        )
        lives = machinelog.lives(self._stage.cloud_log())
        doubled = machinelog.doubled(lives)
        there = self._findings.machines = sum(life.ended is None for life in lives)
        self._check(
            "each machine has one instance, by the cloud's own log",
            not doubled and there == len(lives) == _MACHINES,
            "; ".join(doubled) or f"{len(lives)} were made, {there} are there",
        )
        self._hactl(asked, "remove-machine", *map(str, range(_MACHINES)))
        self._stage.until("them to be gone", self._no_instance, _RECOVER_SECONDS + _MACHINES)
        self._until_whole(victim)

    def _agents_and_a_client(self) -> None:
        self._teller.chapter("Agents and a client lose the controller they talk to")
        unit = min(self._stage.units(), key=_number)
        visitors = self._stage.visitors
        self._stage.register_client(unit)
        hers = visitors.client()
        machines: list[int] = []
        # Where an agent goes is chance: more come until one talks to the controller that the client talks to.
        while len(machines) < _AGENTS or hers not in _talk_to(visitors.agents()):
            if len(machines) == _MOST_AGENTS:
                raise Failed(f"none of {_MOST_AGENTS} agents came to controller {hers}")
            machines.append(self._stage.add_agent(unit))
            self._stage.until("the agent to be connected", self._all_connected, _RECOVER_SECONDS)
        before = visitors.agents()
        cut = [n for n, (controller, _) in enumerate(before) if controller == hers]
        self._teller.say(f"the client and {len(cut)} of {len(before)} agents talk to controller {hers}")
        begun = time.monotonic()
        self._stage.juju("kill", self._stage.unit_of(hers))
        let_in = visitors.client()
        took = round(time.monotonic() - begun, 1)
        self._check(
            "the client is let in within 5 s of the kill",
            bool(let_in) and took <= _FIND_LIMIT_SECONDS,
            f"by controller {let_in or '-'} after {took:.1f} s",
        )

        def all_again() -> tuple[bool, str]:
            now = visitors.agents()
            back = [n for n in cut if now[n][0] and now[n][1] > before[n][1]]
            return len(back) == len(cut) and all(c for c, _ in now), f"{len(back)} of {len(cut)} are connected again"

        self._stage.until("the agents to be connected again", all_again, _RECOVER_SECONDS)
        took = round(time.monotonic() - begun, 1)
        self._check(
            "its agents are connected again within 5 s of the kill",
            took <= _FIND_LIMIT_SECONDS,
            f"{len(cut)} after {took:.1f} s",
        )
        visitors.end()
        self._hactl(self._stage.unit_of(let_in), "remove-machine", *map(str, machines))
        self._until_whole(self._stage.unit_of(hers))

    def _all_connected(self) -> tuple[bool, str]:
        there = _talk_to(self._stage.visitors.agents())
        return all(there), f"{sum(map(bool, there))} of {len(there)} agents are connected"

    def _until_taken_over(self, moment: float) -> machinelog.Takeover:
        """Wait until somebody else speaks to the cloud."""
        found: list[machinelog.Takeover] = []

        def fact() -> tuple[bool, str]:
            if (taken := machinelog.takeover(self._stage.cloud_log(), moment)) is not None:
                found.append(taken)
            return bool(found), "nobody asked the cloud for anything yet"

        self._stage.until("somebody else to go on", fact, _RECOVER_SECONDS)
        return found[-1]

    def _started(self, unit: str, count: int) -> tuple[bool, str]:
        states = [machine["state"] for machine in self._stage.machines(unit)]
        return states.count("started") >= count, f"{states.count('started')} of {len(states)} machines started"

    def _no_instance(self) -> tuple[bool, str]:
        there = sum(life.ended is None for life in machinelog.lives(self._stage.cloud_log()))
        return there == 0, f"{there} are still there"

    def _hactl(self, unit: str, *words: str) -> None:
        self._stage.juju("exec", "--unit", unit, "--", "hactl", *words)

    def _power_cut(self) -> None:
        self._teller.chapter("A power cut of all three at once")
        cut = time.monotonic()
        self._stage.juju("restart-all")
        dark = time.monotonic()
        back = self._until_written_after(dark)
        self._until_active(3)
        self._until_whole(f"{APP}/0")
        self._findings.power_cut_s = round(back - cut, 2)
        self._holds("the cluster comes back from a power cut", f"the next row {back - cut:.1f} s after the cut")

    def _two_addresses(self) -> None:
        self._teller.chapter("A unit with two addresses: it does not guess")
        before = set(self._stage.units())
        self._stage.juju("add-unit", APP, "--extra-address", "10.99.0.14/24")
        (new,) = set(self._stage.units()) - before
        self._stage.until(f"{new} to say which address it cannot choose", self._is(new, "blocked"), _HOOKS_SECONDS)
        message = self._message(new)
        self._teller.say(f"{new} is blocked: {message}")
        self._check("blocked names the remedy", "juju bind" in message and "db-cluster" in message, message)
        self._stage.juju("add-space", "database", "10.77.0.0/24")
        self._stage.juju("bind", APP, "db-cluster=database")
        self._until_active(4)
        self._holds("it unblocks by itself once bound", f"{new} is active")

    def _five_units(self) -> None:
        self._teller.chapter("Five units: Dqlite gives the roles")
        self._stage.juju("add-unit", APP)
        self._until_active(5)
        self._until_roles("3 voters and 2 stand-bys", {"voter": 3, "stand-by": 2})
        self._holds("five units are 3 voters and 2 stand-bys", _spoken(self._stage.roles()))

    def _shrink_in_order(self) -> None:
        self._teller.chapter("Down to one, in order")
        # From the first to the last: so the leader leaves too, and the unit that once founded the cluster.
        for unit in sorted(self._stage.units(), key=_number)[:-1]:
            begun = time.monotonic()
            left = len(self._stage.units()) - 1
            self._stage.juju("remove-unit", unit)
            self._stage.until(f"{unit} to be gone", self._gone(unit), _HOOKS_SECONDS)
            self._stage.until(
                f"Dqlite to have {left} members", functools.partial(self._members, left), _RECOVER_SECONDS
            )
            self._until_written_after(time.monotonic())
            gap = history.gap_ms(self._stage.attempts(), history.Outage(begun, time.monotonic())) or 0.0
            self._teller.say(f"{unit} left; at most {gap:.0f} ms without a committed row")
        self._until_active(1)
        self._until_roles("one voter", {"voter": 1})
        self._holds("an orderly shrink ends in one writable voter", _spoken(self._stage.roles()))

    def _lose_two_at_once(self) -> None:
        self._teller.chapter("Second act: three again, then two are lost at once")
        self._stage.juju("add-unit", APP, "-n", "2")
        self._until_active(3)
        self._until_roles("three voters", {"voter": 3})
        leader = self._settled_leader()
        survivor = next(u for u in sorted(self._stage.units(), key=_number) if u != leader)
        victims = [unit for unit in self._stage.units() if unit != survivor]
        epoch = self._epoch(leader)
        self._rest()
        end = self._stage.last_index(leader)
        self._stage.until(
            f"{survivor} to have everything that {leader} has",
            self._reaches(survivor, end),
            _RECOVER_SECONDS,
        )
        self._teller.say(f"{survivor}, no leader, has the log up to index {end}; the writer rests")
        begun = time.monotonic()
        self._stage.juju("remove-unit", "--force", *victims)
        self._write()
        back = self._until_written_after(begun, timeout_seconds=60.0)
        self._findings.scale_to_one_s = round(back - begun, 2)
        self._holds("the survivor reconfigures itself and is writable", f"{back - begun:.1f} s after the loss")
        self._until_active(1)
        self._check(
            "the epoch rose by one",
            self._epoch(survivor) == epoch + 1,
            f"from {epoch} to {self._epoch(survivor)}",
        )
        self._until_roles("one voter", {"voter": 1})
        self._show_hactl()

    def count_rows(self) -> None:
        """Read every row back and compare with the history. Raises Failed when they cannot be read."""
        self._teller.chapter("Every row is counted")
        self._rest()
        self._stage.outsider("read")
        self._stage.until(
            "the rows to be read back",
            lambda: (bool(self._stage.events("rows")), "the outsider reads"),
            _RECOVER_SECONDS,
        )
        told = self._stage.events("rows")[-1]
        if "error" in told:
            raise Failed(f"the rows could not be read back: {told['error']}")
        verdict = history.judge(self._stage.attempts(), dict(told["rows"]))
        self._findings.verdict = verdict
        self._check(
            "every acknowledged row is there, once, and no refused one",
            not verdict.wrong and verdict.acknowledged > 0,
            "; ".join(f"{what}: {list(n)[:20]}" for what, n in verdict.wrong.items())
            or f"{verdict.acknowledged} acknowledged, {verdict.refused} refused, {verdict.indefinite} indefinite",
        )

    # What chapters are made of

    def _check(self, name: str, ok: bool, detail: str) -> None:
        check = Check(name, ok, detail)
        self._findings.checks.append(check)
        self._teller.check(check)

    def _holds(self, name: str, detail: str) -> None:
        """Note a check that was made by waiting for it."""
        self._check(name, True, detail)

    def _until_active(self, count: int) -> None:
        def fact() -> tuple[bool, str]:
            units = self._stage.units()
            states = {name: unit["workload-status"]["current"] for name, unit in units.items()}
            active = [s for s in states.values() if s == "active"]
            return len(units) == len(active) == count, ", ".join(f"{n} {s}" for n, s in sorted(states.items()))

        plural = "unit" if count == 1 else "units"
        self._stage.until(f"{count} active {plural}", fact, _HOOKS_SECONDS)

    def _until_roles(self, what: str, wanted: dict[str, int]) -> None:
        self._stage.until(
            what,
            lambda: (
                bool(self._stage.units()) and _counted(self._stage.roles()) == wanted,
                _spoken(self._stage.roles()),
            ),
            _HOOKS_SECONDS,
        )

    def _roles_since(self, wanted: dict[str, int]) -> float:
        """Return when the outsider first saw these roles, after it last saw others."""
        since = time.monotonic()
        for event in reversed(self._stage.events("members")):
            if _counted(event["roles"]) != wanted:
                break
            since = event["at"]
        return since

    def _until_written_after(self, moment: float, timeout_seconds: float = _RECOVER_SECONDS) -> float:
        """Wait for a row that was sent after `moment` and acknowledged; return when it was."""
        written: list[float] = []

        def fact() -> tuple[bool, str]:
            self._stage.units()  # Keeps the outsider's addresses fresh.
            attempts = self._stage.attempts()
            first = history.first_acknowledged(attempts, moment)
            if first is not None:
                written.append(first)
            return first is not None, attempts[-1].reason if attempts else "nothing tried yet"

        self._stage.until("a row to be acknowledged", fact, timeout_seconds)
        return written[-1]

    def _settled_leader(self) -> str:
        """Wait until the outsider sees a leader; return that unit's name."""
        leaders: list[str] = []

        def fact() -> tuple[bool, str]:
            leader = self._stage.leader()
            if leader is None:
                return False, "nobody leads"
            leaders.append(self._stage.unit_of(leader))
            return True, ""

        self._stage.until("a leader", fact, _RECOVER_SECONDS)
        return leaders[-1]

    def _until_whole(self, unit: str) -> None:
        """Wait until `unit` itself calls the cluster healthy, so that it is back and everybody answers it."""

        def fact() -> tuple[bool, str]:
            status = self._stage.hactl(unit)
            if status is None:
                return False, f"controllerd of {unit} does not answer yet"
            if status.cluster is None or status.cluster.health != "healthy" or status.state != "serving":
                return False, f"{unit} is {status.state}: {status.cluster.advice if status.cluster else status.reason}"
            return True, ""

        self._stage.until(f"{unit} to be back in a healthy cluster", fact, _RECOVER_SECONDS)

    def _is(self, unit: str, wanted: str) -> Callable[[], tuple[bool, str]]:
        def fact() -> tuple[bool, str]:
            workload = self._stage.units()[unit]["workload-status"]
            return workload["current"] == wanted, f"{workload['current']}: {workload.get('message', '')}"

        return fact

    def _message(self, unit: str) -> str:
        return str(self._stage.units()[unit]["workload-status"].get("message", ""))

    def _gone(self, unit: str) -> Callable[[], tuple[bool, str]]:
        def fact() -> tuple[bool, str]:
            units = self._stage.units()
            return unit not in units, f"{unit} is still there"

        return fact

    def _reaches(self, unit: str, index: int) -> Callable[[], tuple[bool, str]]:
        def fact() -> tuple[bool, str]:
            have = self._stage.last_index(unit)
            return have >= index, f"index {have} of {index}"

        return fact

    def _members(self, count: int) -> tuple[bool, str]:
        roles = self._stage.roles()
        return len(roles) == count and self._stage.leader() is not None, _spoken(roles)

    def _rest(self) -> None:
        """Let the writer finish its row and stop."""
        if not self._writes:
            return
        self._writes = False
        rests = len(self._stage.events("resting"))
        self._stage.outsider("rest")
        self._stage.until(
            "the writer to finish its row",
            lambda: (len(self._stage.events("resting")) > rests, "still writing"),
            _RECOVER_SECONDS,
        )

    def _write(self) -> None:
        self._stage.outsider("write")
        self._writes = True

    def _epoch(self, unit: str) -> int:
        """Return the epoch's number as the unit says it. Raises Failed when it is in no cluster."""
        status = self._stage.hactl(unit)
        if status is None or status.cluster is None:
            raise Failed(f"{unit} is in no cluster: {status.reason if status else 'it does not answer'}")
        return status.cluster.epoch.number

    def _show_hactl(self) -> None:
        unit = min(self._stage.units(), key=_number)
        for line in self._stage.juju("exec", "--unit", unit, "--", "hactl", "status").splitlines():
            self._teller.say(line)


def _talk_to(agents: list[tuple[str, int]]) -> list[str]:
    return [controller for controller, _ in agents]


def _counted(roles: dict[str, str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for role in roles.values():
        counts[role] = counts.get(role, 0) + 1
    return counts


def _spoken(roles: dict[str, str]) -> str:
    return ", ".join(f"controller {i} {role}" for i, role in roles.items()) or "no roles seen yet"


def _controller(asker: str) -> str:
    """Return the controller's id in "controller 2, token 1.7"."""
    return asker.split()[1].rstrip(",")


def _number(unit: str) -> int:
    return int(unit.rpartition("/")[2])
