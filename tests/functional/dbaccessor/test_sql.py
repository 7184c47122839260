"""hactl sql against running controllers: what it reads, what it writes only when told, and how it is given up."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

from dbaccessor import confsocket
from libraryversion import queries_on_threads
from loopback import LIB, Cluster
from offline import hactl, insert, rows, told

ENDLESS = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"


def under_way(cluster: Cluster) -> int:
    """How many requests to the database t the controller has under way."""
    code, text = confsocket.request(cluster.state_dir(0) / confsocket.CONTROL, "GET", "/metrics", b"", 10)
    assert code == 200
    lines = [x for x in text.decode().splitlines() if x.startswith('juju_db_requests_total{namespace="t"}')]
    return int(float(lines[0].split()[1])) if lines else 0


class Terminal:
    """A shell of hactl's in a terminal of its own. A context manager that ends it."""

    def __init__(self, *arguments: object) -> None:
        self._keyboard, screen = pty.openpty()
        self.process = subprocess.Popen(
            # Whoever runs the tests in the background ignores the signal, and so would all that is started here.
            ["env", "--default-signal=INT", sys.executable, "-m", "controller.cli", *map(str, arguments)],
            stdin=screen,
            stdout=screen,
            stderr=screen,
            env={**os.environ, "PYTHONPATH": str(LIB), "TERM": "dumb"},
            start_new_session=True,
        )
        os.close(screen)
        self._screen = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._keyboard)

    def type(self, text: str) -> None:
        os.write(self._keyboard, text.encode())

    def read_until(self, words: str, seconds: float = 20) -> str:
        """Return what was shown since the last time, up to these words."""
        deadline = time.monotonic() + seconds
        while words not in self._screen:
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self._keyboard], [], [], left)[0], self._screen
            self._screen += os.read(self._keyboard, 4096).decode()
        seen, _, self._screen = self._screen.partition(words)
        return seen + words


def test_the_shell_reads_writes_only_when_told_and_says_what_it_does(cluster):
    cluster.form(1)
    insert(cluster, [0], range(5))

    def ask(*words: str, **more):
        return hactl("--state-dir", cluster.state_dir(0), "sql", *words, **more)

    assert told(ask("--format", "json", ".namespaces"))["rows"][0] == ["controller"]
    assert "controller_node" in ask(".tables").stdout
    assert "CREATE TABLE controller_node" in ask(".ddl controller_node").stdout
    assert "leader: controller 0" in ask(".cluster").stdout
    unknown = ask("--namespace", "tt", "SELECT 1")
    assert (unknown.returncode, "there is no database tt" in unknown.stderr) == (1, True)
    here = ("--namespace", "t", "--unlisted")

    found = ask(*here, "--limit", "2", "SELECT n FROM t ORDER BY n DESC")
    assert found.stdout.split() == ["n", "-", "4", "3"]
    assert "only the first 2 rows" in found.stderr
    assert told(ask(*here, "--format", "json", "SELECT x'00' AS b, 9e999 AS r, NULL"))["rows"] == [
        [{"blob": "00"}, {"real": "inf"}, None]
    ]
    refused = ask(*here, "DELETE FROM t")
    assert (refused.returncode, "--write" in refused.stderr) == (1, True)
    unsure = ask(*here, "--write", "DELETE FROM t WHERE n < 2")
    assert (unsure.returncode, "this changes 2 rows" in unsure.stderr, rows(cluster, [0])) == (1, True, [0, 1, 2, 3, 4])
    assert ask(*here, "--write", "--yes", "DELETE FROM t WHERE n < 2").stdout == "done: 2 rows changed\n"
    assert rows(cluster, [0]) == [2, 3, 4]
    drop = ask(*here, "--write", "DROP TABLE t")
    assert (drop.returncode, "this changes the schema and takes 3 rows away" in drop.stderr) == (1, True)
    assert rows(cluster, [0]) == [2, 3, 4]
    assert ask(*here, "--write", "--yes", "CREATE TABLE u (n INTEGER)").stdout == "done: the schema is changed\n"
    wrong = ask("SELECT nonsense FROM controller_node")
    assert (wrong.returncode, "no such column" in wrong.stderr) == (1, True)


@pytest.mark.parametrize("words", [(".namespaces",), ("SELECT 1",), ("--write", "DELETE FROM controller_dropped")])
def test_without_a_quorum_a_short_deadline_is_no_quorum_too(cluster, words):
    cluster.form(3)
    cluster.kill(1, 2)

    began = time.monotonic()
    done = hactl("--state-dir", cluster.state_dir(0), "sql", "--timeout", "1", *words)

    assert done.returncode == 4, done
    assert "not done: " in done.stderr
    assert time.monotonic() - began < 5


def test_a_long_query_is_given_up_and_the_node_lives(cluster):
    cluster.form(1)
    insert(cluster, [0], [1])
    long = "WITH RECURSIVE c(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM c LIMIT 10000000) SELECT count(*) FROM c"

    late = hactl("--state-dir", cluster.state_dir(0), "sql", "--timeout", "0.1", long)

    assert late.returncode != 0
    insert(cluster, [0], [2])
    assert rows(cluster, [0]) == [1, 2]
    assert cluster.terminate(0) == 0


@queries_on_threads
def test_control_c_gives_a_statement_up_and_a_query_without_an_end_holds_up_no_stop(cluster):
    cluster.form(1)
    insert(cluster, [0], [1])
    here = ("--namespace", "t", "--unlisted", "--timeout", "600")

    with Terminal("--state-dir", cluster.state_dir(0), "sql", *here) as shell:
        shell.read_until("t> ")
        shell.type(f"{ENDLESS};\n")
        shell.read_until("count(*) FROM c;")
        cluster.wait(lambda: under_way(cluster) == 1, "the query to run")
        shell.process.send_signal(signal.SIGINT)

        assert "given up; the node goes on" in shell.read_until("t> ")
        cluster.wait(lambda: under_way(cluster) == 0, "the query to be given up")
        shell.type("SELECT 40 + 2 AS answer;\n")
        assert "42" in shell.read_until("t> ").split()
        shell.type("\x04")
        assert shell.process.wait(20) == 0
    # Nothing can interrupt the query in the node. Its process ends all the same, and says why it did so in this way.
    assert cluster.terminate(0) == 1
    assert "a query that does not end runs on it" in (cluster.root / "0.log").read_text()
    cluster.start(0)
    cluster.wait(lambda: cluster.serving(0), "the controller to serve again")
    assert rows(cluster, [0]) == [1]
