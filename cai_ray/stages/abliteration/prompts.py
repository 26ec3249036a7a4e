"""Which prompts find a direction, which compare directions, which measure the result.  Prompt -> Probed.

Tested in tests/stages/abliteration/test_abliterate.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cai_ray.artifacts.artifact import Artifact, StageSpec
from cai_ray.artifacts.derived import Outcome, batched, derive
from cai_ray.dropped import DropRow, LeftOutReason
from cai_ray.errors import ConfigError
from cai_ray.row_ids import RESPONSES_IDS
from cai_ray.rows import MESSAGE, ROW_ID
from cai_ray.seeding import digest
from cai_ray.stages.abliteration.config import HARMFUL, HARMLESS, STAGE, Config

PROMPTS = "prompts"  # folder inside the stage's own
# One prompt and what it is for.
PROBED = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("side", pa.string(), nullable=False),  # "harmful" | "harmless"
        pa.field("part", pa.string(), nullable=False),  # "train" | "validation" | "test"
        pa.field("category", pa.string()),
        pa.field("messages", pa.list_(MESSAGE), nullable=False),
    ]
)


def parted(config: Config, source: Artifact, seed: int, spec: StageSpec) -> Artifact:
    """Every prompt of the run, for a part of the work or left out. Raises ConfigError for too few of a class."""
    return derive(spec.inner(PROMPTS, RESPONSES_IDS, source), batched(_outcomes(config, source, seed)), PROBED)


def _outcomes(config: Config, source: Artifact, seed: int) -> Iterator[Outcome]:
    rows = list(source.rows(["prompt_id", "kind", "category", "split", "messages"]))
    rows.sort(key=lambda row: digest(seed, STAGE, row["prompt_id"]))
    for side, kind in ((HARMFUL, "red_team"), (HARMLESS, "helpful")):
        mine = [row for row in rows if row["kind"] == kind]
        parts = _parts(config, [row["split"] for row in mine])
        if parts.count("train") < config.min_prompts or {"validation", "test"} - set(parts):
            raise ConfigError(
                f"{source.folder.shown} has {len(mine)} prompts of kind {kind}, which gives {parts.count('train')} to "
                f"average (at least min_prompts={config.min_prompts}), {parts.count('validation')} to compare "
                f"directions on and {parts.count('test')} to measure with; abliterate needs both kinds: add {side} "
                f"prompts (`kind: {kind}` of a prompt source), or lower num_train, num_validation, min_prompts"
            )
        for row, part in zip(mine, parts, strict=True):
            end: Any = DropRow(LeftOutReason.LIMIT, "more than num_train, num_validation and num_test")
            if part is not None:
                end = {name: row[name] for name in ("prompt_id", "category", "messages")} | {"side": side, "part": part}
            yield Outcome(row["prompt_id"], end)


def _parts(config: Config, splits: list[str]) -> list[str | None]:
    """What each prompt is for, in order: those of split test measure; where there are none, others do."""
    order = {"train": config.num_train, "validation": config.num_validation, "test": config.num_test}
    if "test" not in splits and len(splits) < sum(order.values()):
        # Too few for all: shared out as they would have been.
        share = len(splits) / sum(order.values())
        order = {part: max(1, round(num * share)) for part, num in order.items()}
    left, found = dict(order), []
    for split in splits:
        may = ("test",) if split == "test" else ("validation", "train", *(() if "test" in splits else ("test",)))
        part = next((name for name in may if left[name] > 0), None)
        if part is not None:
            left[part] -= 1
        found.append(part)
    return found


def prompts_of(probed: Artifact, side: str, part: str) -> list[Any]:
    """The messages of each prompt of a part, in order of its id."""
    rows = [row for row in probed.rows() if (row["side"], row["part"]) == (side, part)]
    return [row["messages"] for row in sorted(rows, key=lambda row: row["prompt_id"])]


def only_part(rows: pa.Table, *, part: str) -> pa.Table:
    """Units of work: the rows of a part, by their prompt."""
    units = rows.filter(pc.equal(rows["part"], part))
    return units.append_column(ROW_ID, units["prompt_id"])
