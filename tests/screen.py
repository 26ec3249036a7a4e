"""What a terminal shows of a table."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table


def on_screen(table: Table, width: int = 80) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(table)
    return stream.getvalue()


def check_fits(table: Table, width: int = 80) -> None:
    """Nothing of the table is wrapped or cut at this width, its title neither."""
    lines = on_screen(table, width).splitlines()
    assert [line.rstrip() for line in lines] == [line.rstrip() for line in on_screen(table, 1000).splitlines()]
    assert "…" not in "".join(lines) and str(table.title) in lines[0]
