"""What was measured and what was checked: as data for a program, and as a table for a person. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from demo import history
from demo.telling import Check


@dataclass
class Findings:
    """Collected while the story runs. A number that was never reached stays None."""

    checks: list[Check] = field(default_factory=list)
    failover_ms: list[float] = field(default_factory=list)
    to_three_voters_s: float | None = None
    scale_to_one_s: float | None = None
    power_cut_s: float | None = None
    takeover_s: float | None = None
    machines: int | None = None
    verdict: history.Verdict | None = None

    @property
    def ok(self) -> bool:
        """True when every check held, and the rows were read back at all."""
        return self.verdict is not None and all(check.ok for check in self.checks)


def as_data(findings: Findings) -> dict[str, Any]:
    """Return what --json writes. `lost` is None, not 0, when the rows could not be read back."""
    verdict = findings.verdict
    return {
        "ok": findings.ok,
        "checks": [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in findings.checks],
        "failover_ms": findings.failover_ms,
        "to_three_voters_s": findings.to_three_voters_s,
        "scale_to_one_s": findings.scale_to_one_s,
        "power_cut_s": findings.power_cut_s,
        "takeover_s": findings.takeover_s,
        "machines": findings.machines,
        "acknowledged": verdict.acknowledged if verdict else 0,
        "refused": verdict.refused if verdict else 0,
        "indefinite": verdict.indefinite if verdict else 0,
        "lost": len(verdict.lost) if verdict else None,
    }


def as_table(findings: Findings) -> Table:
    """Return the numbers for the end of the story."""
    table = Table(title="What was measured, on this machine, in this run", title_justify="left")
    table.add_column("measure")
    table.add_column("value", justify="right")
    gaps = findings.failover_ms
    table.add_row("failover, each (ms)", ", ".join(f"{gap:.0f}" for gap in gaps) or "-")
    table.add_row("failover, median (ms)", _number(history.median(gaps), 0))
    table.add_row("third unit's start to three voters (s)", _number(findings.to_three_voters_s, 1))
    table.add_row("power cut of all to the next row (s)", _number(findings.power_cut_s, 1))
    table.add_row("forced down to one, to the next row (s)", _number(findings.scale_to_one_s, 1))
    table.add_row("responsible controller killed to the next (s)", _number(findings.takeover_s, 1))
    table.add_row("machines made, one instance each", str(findings.machines or "-"))
    if verdict := findings.verdict:
        table.add_section()
        table.add_row("rows acknowledged", str(verdict.acknowledged))
        table.add_row("rows refused (none may be there)", str(verdict.refused))
        table.add_row("rows indefinite (may be there)", f"{verdict.indefinite}, {verdict.indefinite_kept} there")
        table.add_row("acknowledged and lost", str(len(verdict.lost)))
    return table


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
