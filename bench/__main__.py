"""scripts/bench: measure, print a table, write JSON. What is measured stands in docs/reference/benchmark.md."""

from __future__ import annotations

import json
import os
import platform
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench import etcd, wakeups
from bench.cluster import BenchError, Cluster
from bench.numbers import ratio, spread

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Bench:
    """Measures round after round; `values` holds what each round gave, by the measure's name."""

    def __init__(self, say: Callable[[str], None], rounds: int, seconds: float) -> None:
        self._say = say
        self._rounds = rounds
        self._seconds = seconds
        self.values: dict[str, list[float]] = {}
        self.skipped: dict[str, str] = {}

    def note(self, name: str, value: float) -> None:
        self.values.setdefault(name, []).append(value)
        self._say(f"{name}: {value:g}")

    def ours(self, cluster: Cluster) -> None:
        for _ in range(self._rounds):
            leader = cluster.leader()
            follower = (leader + 1) % 3
            one = cluster.ask(leader, do="single", seconds=self._seconds)
            self.note("single writer on the leader, per s", one["per_s"])
            self.note("single writer on the leader, p50 ms", one["p50_ms"])
            for where, n in (("the leader", leader), ("another voter", follower)):
                self._reads(cluster, n, where)
            self._echo("")
            self._awake(cluster, leader)
            for clients in (64, 256):
                share = [clients // 3 + (n < clients % 3) for n in range(3)]
                said = cluster.ask_all(
                    {n: {"do": "group", "clients": share[n], "seconds": self._seconds} for n in range(3)}
                )
                self.note(f"group commit, {clients} callers on three controllers, per s", _sum(said, "per_s"))
                self.note(
                    f"group commit, {clients} callers on three controllers, worst p99 ms",
                    max(s["p99_ms"] for s in said.values()),
                )

    def _reads(self, cluster: Cluster, asked: int, where: str) -> None:
        for consistency in ("linearizable", "leader"):
            read = cluster.ask(asked, do="read", seconds=self._seconds, consistency=consistency)
            self.note(f"{consistency} read on {where}, p50 ms", read["p50_ms"])
            self.note(f"{consistency} read on {where}, p99 ms", read["p99_ms"])

    def _awake(self, cluster: Cluster, leader: int) -> None:
        """The reads of the leader without what it costs to wake a processor, which is the machine's affair."""
        try:
            with wakeups.none_asleep():
                self._reads(cluster, leader, "the leader, processors awake")
                self._echo(", processors awake")
        except OSError as error:
            self.skipped["reads with the processors kept awake"] = str(error)

    def _echo(self, how: str) -> None:
        said = wakeups.echo(min(2, self._seconds))
        self.note(f"a byte to another process and back{how}, p50 ms", said["p50_ms"])
        self.note(f"a byte to another process and back{how}, p99 ms", said["p99_ms"])

    def tls(self, clear: Cluster, under_tls: Cluster) -> None:
        """The single writer, in clear and under TLS in turn, so that both meet the same machine."""
        for number in range(2 * self._rounds):
            pair = [("in clear", clear), ("under TLS", under_tls)]
            for word, cluster in pair if number % 2 else reversed(pair):
                one = cluster.ask(cluster.leader(), do="single", seconds=self._seconds)
                self.note(f"single writer {word}, per s", one["per_s"])
                read = cluster.ask(cluster.leader(), do="read", seconds=self._seconds)
                self.note(f"linearizable read {word}, p50 ms", read["p50_ms"])

    def failover(self, cluster: Cluster, rounds: int) -> None:
        """The leader goes, in order or not, while another member writes."""
        for how, end in (("kill -9", cluster.kill), ("a planned stop", cluster.stop)):
            for _ in range(rounds):
                leader = cluster.leader()
                writer = (leader + 1) % 3
                cluster.tell({writer: {"do": "gap", "seconds": 3}})
                time.sleep(1)
                end(leader)
                self.note(f"failover by {how}, longest gap between two rows, ms", cluster.answer(writer)["gap_ms"])
                cluster.start(leader)
                self._settle(cluster, writer)

    def takeovers(self, cluster: Cluster, rounds: int) -> None:
        """A lease at the default duration goes from hand to hand: given up, or its holder killed, which leads or not.

        Counted from the order, or the kill, to when another member holds it, all on the machine's one clock.
        """
        for number in range(rounds):
            other = (cluster.leader() + 1 - number % 2) % 3
            holder = (other + 1) % 3
            cluster.ask(holder, do="hold")
            cluster.tell({other: {"do": "hold"}})
            time.sleep(1)  # The other waits for it by then, as those who are to take over always do.
            given_up = cluster.ask(holder, do="give_up")["at"]
            taken = cluster.answer(other)["at"]
            self.note("lease taken after it was given up, ms", round(1000 * (taken - given_up), 1))
            cluster.tell({holder: {"do": "hold"}})
            time.sleep(2.5)  # Some renewals later, so that it is killed at no special moment.
            whom = "the holder and leader" if cluster.leader(asked=other) == other else "the holder"
            killed = time.monotonic()
            cluster.kill(other)
            said = cluster.answer(holder)
            self.note(f"lease of {said['seconds']:g} s taken after kill -9 of {whom}, s", round(said["at"] - killed, 3))
            cluster.start(other)
            self._settle(cluster, holder)
            cluster.ask(holder, do="give_up")

    def frozen(self, cluster: Cluster, seconds: float) -> None:
        """The first seconds after the freeze do not count: the voter is demoted then."""
        leader = cluster.leader()
        normal = cluster.ask(leader, do="single", seconds=min(seconds, 5))
        victim = (leader + 1) % 3
        cluster.signal(victim, signal.SIGSTOP)
        try:
            cluster.ask(leader, do="single", seconds=2)
            frozen = cluster.ask(leader, do="single", seconds=seconds)
        finally:
            cluster.signal(victim, signal.SIGCONT)
        self.note("single writer, p50 ms before one peer is frozen", normal["p50_ms"])
        self.note("single writer, p50 ms while one peer is frozen", frozen["p50_ms"])
        self._settle(cluster, leader)

    def theirs(self, folder: Path, loads: list[str]) -> None:
        problem = etcd.available()
        if problem is not None:
            self.skipped["etcd"] = problem
            return
        with etcd.Etcd(folder) as members:
            for load in loads:
                clients, ceiling = etcd.LOADS[load]
                name = f"etcd puts, {clients} clients (at most {ceiling}), per s"
                try:
                    self.note(name, members.puts_per_second(load))
                except BenchError as error:
                    # A load that is too much for three members on so few cores says nothing about the others.
                    self.skipped[f"etcd, {clients} clients"] = str(error)

    def _settle(self, cluster: Cluster, asked: int) -> None:
        deadline = time.monotonic() + 60
        while list(cluster.ask(asked, do="status")["roles"].values()).count("voter") < 3:
            if time.monotonic() > deadline:
                raise BenchError("the roles did not come back")
            time.sleep(0.2)

    def document(self, latency: str) -> dict[str, Any]:
        compared = {}
        for ours, theirs in (("64", "500"), ("256", "1000")):
            mine = self._named(f"group commit, {ours} callers", "per s")
            other = self._named(f"etcd puts, {theirs} clients", "per s")
            if mine and other:
                compared[f"group commit at {ours} / etcd's puts by {theirs} clients"] = ratio(mine, other)
        clear, under_tls = (
            self._named("single writer in clear", "per s"),
            self._named("single writer under TLS", "per s"),
        )
        if clear and under_tls:
            compared["single writer, under TLS / in clear"] = ratio(under_tls, clear)
        for percentile in ("p50", "p99"):
            read = self._named(f"linearizable read on the leader, {percentile}")
            unconfirmed = self._named(f"leader read on the leader, {percentile}")
            if read and unconfirmed:
                compared[f"read on the leader, {percentile}, linearizable / unconfirmed"] = ratio(read, unconfirmed)
        before, during = self._named("single writer, p50 ms before"), self._named("single writer, p50 ms while")
        if before and during:
            compared["one frozen peer, p50 while / before"] = ratio(during, before)
        return {
            "schema": 1,
            "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()},
            "load-average-at-start": latency,
            "measures": {name: {**spread(values), "rounds": values} for name, values in self.values.items()},
            "ratios": compared,
            "skipped": self.skipped,
        }

    def _named(self, start: str, end: str = "") -> list[float]:
        return next((v for name, v in self.values.items() if name.startswith(start) and name.endswith(end)), [])


def _sum(said: Mapping[int, Mapping[str, Any]], key: str) -> float:
    return round(sum(float(answer[key]) for answer in said.values()), 1)


@app.command()
def main(
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all numbers to this file as well.", dir_okay=False)
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="One short round of each measure, about two minutes.")] = False,
) -> None:
    """Measure three real nodes on loopback, and etcd beside them where the machine has it."""
    console = Console(highlight=False)
    load = f"{os.getloadavg()[0]:.1f}"
    bench = Bench(lambda line: console.print(line), rounds=1 if quick else 3, seconds=2 if quick else 5)
    try:
        with tempfile.TemporaryDirectory(prefix="ha-controller-bench-") as name:
            folder = Path(name)
            with Cluster(folder) as cluster:
                with Cluster(folder, tls=True) as under_tls:
                    bench.tls(cluster, under_tls)
                bench.ours(cluster)
                bench.frozen(cluster, 5 if quick else 25)
                bench.failover(cluster, 2 if quick else 8)
                bench.takeovers(cluster, 2 if quick else 6)
            bench.theirs(folder, ["l"] if quick else ["l", "xl", "l"])
        problem = ""
    except BenchError as error:
        problem = str(error)
    # What was measured before something failed was measured all the same.
    document = bench.document(load)
    if json_file is not None:
        json_file.write_text(json.dumps(document, indent=2) + "\n")
    _show(console, document)
    if problem:
        console.print(f"bench: {problem}")
        raise typer.Exit(1)


def _show(console: Console, document: Mapping[str, Any]) -> None:
    table = Table("measure", "median", "min", "max")
    for part in ("measures", "ratios"):
        for name, found in document[part].items():
            table.add_row(name, *(f"{found[key]:g}" for key in ("median", "min", "max")))
    console.print(table)
    for what, why in document["skipped"].items():
        console.print(f"{what} was left out: {why}")
    console.print(f"load of the machine at the start: {document['load-average-at-start']}")


if __name__ == "__main__":
    app()
