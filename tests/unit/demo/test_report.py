"""demo.report: ok means that every check held and every row was counted, and nothing less."""

from __future__ import annotations

from demo import history
from demo.report import Findings, as_data, as_table
from demo.telling import Check
from rich.console import Console

KEPT = history.judge([history.Attempt(1, "acknowledged", 0.0, 0.1)], {1: 1})
LOST = history.judge([history.Attempt(1, "acknowledged", 0.0, 0.1)], {})


def findings(**changes: object) -> Findings:
    whole = Findings(
        checks=[Check("a", True, "held")],
        failover_ms=[120.0, 300.0, 200.0],
        to_three_voters_s=2.5,
        scale_to_one_s=4.0,
        verdict=KEPT,
    )
    for name, value in changes.items():
        setattr(whole, name, value)
    return whole


def test_the_data_has_the_promised_keys():
    data = as_data(findings())

    assert data["ok"] is True
    assert data["checks"] == [{"name": "a", "ok": True, "detail": "held"}]
    assert data["failover_ms"] == [120.0, 300.0, 200.0]
    assert (data["to_three_voters_s"], data["scale_to_one_s"]) == (2.5, 4.0)
    assert (data["acknowledged"], data["lost"]) == (1, 0)


def test_one_check_that_did_not_hold_is_not_ok():
    assert not findings(checks=[Check("a", True, ""), Check("b", False, "")]).ok


def test_rows_that_were_never_read_back_are_not_called_zero_lost():
    data = as_data(findings(verdict=None))

    assert data["ok"] is False
    assert data["lost"] is None


def test_lost_rows_are_counted():
    assert as_data(findings(verdict=LOST))["lost"] == 1


def test_the_table_shows_the_median_and_says_so_when_something_was_not_reached():
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(as_table(findings(scale_to_one_s=None)))
    console.file.close()

    shown = console.export_text()

    assert "200" in next(line for line in shown.splitlines() if "median" in line)
    assert next(line for line in shown.splitlines() if "forced down" in line).split()[-2:] == ["-", "│"]
