"""How a row says which unit of work it answers, for each kind of row that stages write.

Each stage must account for every unit exactly once (artifacts/parts.py), so its rows are told apart by these ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from cai_ray.rows import ROW_ID
from cai_ray.seeding import digest, stable_id


@dataclass(frozen=True)
class RowIds:
    """The columns that tell a row from all others and, joined by "/", make its id, as the functions below do."""

    columns: tuple[str, ...]

    def __call__(self, rows: pa.Table) -> pa.Array:
        """The units that these rows answer: string array [num_rows]. Reads `columns` and nothing else."""
        parts = [rows[name].combine_chunks().cast(pa.string()) for name in self.columns]
        return parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, "/")


def prompt_id_of(messages: list[dict[str, str]], source: str) -> str:
    """The key of a prompt: hash of its normalised messages and its source.

    Normalised: surrounding white space of each content is not significant, everything else is.
    """
    return stable_id("prompt", [[m["role"], m["content"].strip()] for m in messages], source)


def text_key(messages: Sequence[Mapping[str, str]]) -> bytes:
    """8 bytes that tell what is said in a prompt from all else, whatever its source and its system message."""
    spoken = [[m["role"], m["content"].strip()] for m in messages if m["role"] != "system"]
    return digest("text", spoken, num_bytes=8)


def revision_row_id(prompt_id: str, sample_index: int) -> str:
    """The key of one unit of revise work, also used in Dropped rows: "<prompt_id>/<sample_index>"."""
    return f"{prompt_id}/{sample_index}"


def pair_id_of(prompt_id: str, first: int, second: int) -> str:
    """The key of a pair: "<prompt_id>/<i>-<j>", i < j the sample indices of its answers."""
    return f"{prompt_id}/{first}-{second}"


def example_id_of(prompt_id: str, sample_index: int, revision_index: int | None) -> str:
    """The key of an SFT example: "<prompt_id>/<sample_index>/<revision_index>", "helpful" where there is none."""
    return f"{prompt_id}/{sample_index}/{'helpful' if revision_index is None else revision_index}"


def evaluation_row_id(policy: str, prompt_id: str, sample_index: int) -> str:
    """The key of one evaluated answer, also used in Dropped rows: "<policy>/<prompt_id>/<sample_index>"."""
    return f"{policy}/{prompt_id}/{sample_index}"


def rollout_row_id(step: int, prompt_id: str, sample_index: int) -> str:
    """The key of a logged rollout: "<step>/<prompt_id>/<sample_index>"."""
    return f"{step}/{prompt_id}/{sample_index}"


def match_id_of(policy_a: str, policy_b: str, prompt_id: str, sample_index: int) -> str:
    """The key of a match and its game: "<policy_a>/<policy_b>/<prompt_id>/<sample_index>"."""
    return f"{policy_a}/{policy_b}/{prompt_id}/{sample_index}"


PROMPT_IDS = RowIds(("source_row",))  # one per record read, or per request written
SHOT_IDS = RowIds((ROW_ID,))
ASK_IDS = RowIds(("ask_id",))
REVISION_IDS = RowIds(("prompt_id", "sample_index"))
EXAMPLE_IDS = RowIds(("example_id",))
RESPONSES_IDS = RowIds(("prompt_id",))  # all samples of a prompt are one unit
PAIR_IDS = RowIds(("pair_id",))  # of pairs, their labels and what is learned of them
ROLLOUT_IDS = RowIds(("step", "prompt_id", "sample_index"))
ITEM_IDS = RowIds(("item_id",))
EVALUATION_IDS = RowIds(("policy", "prompt_id", "sample_index"))  # of answers and judgements too
MATCH_IDS = RowIds(("match_id",))
GAME_IDS = RowIds(("policy_a", "policy_b", "prompt_id", "sample_index"))
