"""Full critique chains of a few rows, for the terminal.

Tested in tests/cluster/test_quickstart.py.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from cai_ray.artifacts.artifact import find
from cai_ray.artifacts.parts import begun_parts, read_table
from cai_ray.artifacts.storage import Storage
from cai_ray.errors import ConfigError
from cai_ray.stages.revision import revise


def print_dialogues(run: Storage, num_rows: int, console: Console) -> None:
    """Print `num_rows` dialogues of the revise stage, finished or under way. Raises ConfigError when there are none."""
    rows = list(islice(_rows(run / revise.STAGE), num_rows))
    if not rows:
        raise ConfigError(f"{run.shown} holds no revisions yet; run the recipe first: cai-ray run RECIPE")
    for row in rows:
        console.print(_panel(row))


def _rows(folder: Storage) -> Any:
    artifact = find(folder)
    if artifact is not None:
        yield from artifact.rows()
        return
    for record in begun_parts(folder):
        if record.rows:
            yield from read_table(folder, record.rows.name).to_pylist()


def _panel(row: dict[str, Any]) -> Panel:
    """Model text goes through `Text`, so that square brackets in it are never markup."""
    text = Text()
    for message in row["messages"]:
        text.append(f"{message['role']}: ", style="bold cyan")
        text.append(message["content"] + "\n")
    text.append("initial answer: ", style="bold yellow")
    text.append(row["initial_response"] + "\n")
    for k, done in enumerate(row["revisions"], 1):
        text.append(f"\nround {k}, principle {done['principle_id']}\n", style="bold")
        if done["critique"] is not None:
            text.append("critique: ", style="magenta")
            text.append(done["critique"] + "\n")
        text.append("revision: ", style="green")
        text.append(done["revision"] + "\n")
        if done["flags"]:
            text.append(f"flags: {', '.join(done['flags'])}\n", style="dim")
    return Panel(text, title=f"{row['prompt_id'][:8]} sample {row['sample_index']}", subtitle=row["category"])
