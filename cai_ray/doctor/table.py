"""The findings for people, 80 columns wide, and for programs.

Tested in tests/doctor/test_examination.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cai_ray.doctor.facts import Facts, Finding


def show(findings: Sequence[Finding], console: Console) -> None:
    table = Table(box=None, padding=(0, 1, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        mend = f"\n[bold]mend:[/] {escape(finding.mend)}" if finding.mend else ""
        state = "[green]ok[/]" if finding.is_well else "[bold red]no[/]"
        table.add_row(state, finding.check, f"{escape(finding.told)}{mend}")
    console.print(table, highlight=False)
    num_wrong = sum(not finding.is_well for finding in findings)
    console.print(f"{num_wrong} of {len(findings)} to mend" if num_wrong else f"All {len(findings)} are well.")


def as_json(facts: Facts, findings: Sequence[Finding]) -> str:
    """One line."""
    body = {
        "is_well": all(finding.is_well for finding in findings),
        "findings": [finding.model_dump() for finding in findings],
        "facts": facts.model_dump(mode="json"),
    }
    return json.dumps(body)
