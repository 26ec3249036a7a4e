"""Write what load_prompts reads.  records -> Prompt artifact.

Reading is fast next to everything after it and bound by one reader, so it runs in the driver and an
interrupted load starts over.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.derived import Outcome, batched, derive
from cai_ray.artifacts.identity import Input
from cai_ray.config import MICROWORLD
from cai_ray.fingerprint import local_files
from cai_ray.row_ids import PROMPT_IDS, text_key
from cai_ray.rows import PROMPT
from cai_ray.seeding import digest
from cai_ray.stages.context import Context
from cai_ray.stages.held_out import BARRED, held_out_texts
from cai_ray.stages.inputs.sides import PROMPTS_MOVED, TEXTS_SHARED
from cai_ray.stages.inputs.sources import STAGE as STAGE
from cai_ray.stages.inputs.sources import load
from cai_ray.stages.prompt_sources import Config as Config
from cai_ray.stages.step import Step

PPO_PROMPTS = "load_ppo_prompts"  # what `ppo.prompts` asks for


def input_identity(config: Config) -> dict[str, Any]:
    """For the fingerprint: name, size and the hash of both ends of each local input file."""
    return {
        source.source: [_name_and_ends(file) for file in local_files(source.path)] for source in config.all_sources()
    }


def input_files(config: Config) -> list[Input]:
    """What the prompts are read from."""
    return [
        Input(source.path, f"prompt set {source.source}", source.format)
        for source in config.all_sources()
        if source.path != MICROWORLD
    ]


def _name_and_ends(file: Path) -> dict[str, Any]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(2**20)
        stream.seek(max(0, size - 2**20))
        tail = stream.read()
    return {"name": file.name, "size": size, "ends": digest(head.hex(), tail.hex()).hex()}


def run(config: Config, context: Context, stage: str = STAGE) -> Artifact:
    """Load every source; each record ends as one Prompt, dropped or left out.

    Prompts for training alone (PPO_PROMPTS) are left out where the run's own prompts hold them in split test.
    """
    found = load(config, context.seed)
    if stage == PPO_PROMPTS:
        found = _without(held_out_texts(context), found)
    return derive(context.spec(stage, config, PROMPT_IDS), batched(found), PROMPT)


def _without(held_out: Container[bytes], found: Iterable[Outcome]) -> Iterator[Outcome]:
    for one in found:
        is_barred = one.drop is None and one.row["split"] == "train" and text_key(one.row["messages"]) in held_out
        yield one._replace(end=BARRED) if is_barred else one


def shared_texts(artifact: Artifact) -> Table | None:
    """For the terminal: what sources have in common; None where that is nothing."""
    counters = artifact.manifest.counters
    if not counters.get(TEXTS_SHARED):
        return None
    table = Table(title="Texts in more than one source")
    for name in ("texts", "prompts that changed sides"):
        table.add_column(name, justify="right")
    table.add_row(f"{counters[TEXTS_SHARED]:,}", f"{counters.get(PROMPTS_MOVED, 0):,}")
    return table


def step(config: Config, stage: str = STAGE) -> Step:
    """Of a run: its first, or PPO_PROMPTS."""
    return Step(
        stage,
        config,
        lambda context: run(config, context, stage),
        identity=lambda: input_identity(config),
        files=lambda: input_files(config),
        summary=shared_texts,
    )
