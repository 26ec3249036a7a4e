"""Examples of one's own: every record once, sides by text, tests' prompts left out, learned beside revisions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cai_ray.engines.models.answer_tokens import AnswerTokens
from cai_ray.engines.models.reading import Renderer
from cai_ray.engines.training.token_files import read_tokens
from cai_ray.microworld.tokenizer import build_tokenizer
from cai_ray.row_ids import text_key
from cai_ray.stages.supervised.own_examples import ExampleSetConfig, own_examples
from cai_ray.stages.supervised.train_sft import Config, write_examples
from tests.stages.supervised.test_train_sft import open_sft, revision, revisions


def told(number: int, answer: str = "an answer") -> dict[str, Any]:
    asked = {"role": "user", "content": f"request {number}"}
    return {"messages": [asked, {"role": "assistant", "content": answer}]}


def write(folder: Path, records: list[Any], name: str = "own.jsonl") -> ExampleSetConfig:
    (folder / name).write_text("".join(f"{json.dumps(one)}\n" for one in records))
    return ExampleSetConfig(path=str(folder / name))


def test_every_record_ends_once_beside_the_revisions(tmp_path: Path) -> None:
    records = [*(told(k) for k in range(10)), told(3), told(4, "word " * 200), {"messages": told(5)["messages"][:1]}]
    config = Config(examples=(write(tmp_path, records),), eval_fraction=0)
    opened = open_sft(tmp_path)
    held_out = frozenset({text_key(told(9)["messages"][:1])})
    tokenise = AnswerTokens(Renderer(build_tokenizer(200)))
    ids, counts = write_examples(opened, revisions(tmp_path, [revision(0)]), config, tokenise, 60, 0, held_out)
    manifest = opened.commit(ids).manifest  # checks conservation over the files
    assert (manifest.rows_in, manifest.rows_out) == (15, 11)
    assert manifest.rows_dropped == {"duplicate": 1, "malformed": 1, "too_long": 1}
    assert manifest.rows_left_out == {"held_out": 1}
    assert read_tokens(opened.folder, "train").num_rows == counts["num_train"] == 11


def test_alone_and_by_text_on_one_side(tmp_path: Path) -> None:
    sets = [write(tmp_path, [told(k, name) for k in range(200)], f"{name}.jsonl") for name in ("x", "y")]
    sides: dict[str, set[str]] = {}
    for one in own_examples(sets, 0.3, frozenset(), seed=0):
        sides.setdefault(one.row["messages"][0]["content"], set()).add(one.row["split"])
    assert len(sides) == 200 and all(len(found) == 1 for found in sides.values())
    assert 30 < sum(found == {"eval"} for found in sides.values()) < 90
    only_test = [sets[0].model_copy(update={"split": "test"})]
    assert {one.row["split"] for one in own_examples(only_test, 0, frozenset(), 0)} == {"eval"}


def test_two_sets_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"two of examples are called 'a'.*set `name`"):
        Config(examples=(ExampleSetConfig(path="x/a.jsonl"), ExampleSetConfig(path="y/a.jsonl")))
