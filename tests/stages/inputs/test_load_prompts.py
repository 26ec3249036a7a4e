"""load_prompts: every record ends exactly once; sources mix by weight; nothing depends on the order of records."""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from cai_ray.dropped import DROPPED, DropReason, LeftOutReason, dropped_row
from cai_ray.errors import ConfigError
from cai_ray.row_ids import prompt_id_of
from cai_ray.rows import PROMPT
from cai_ray.stages.inputs.sources import STAGE, load
from cai_ray.stages.prompt_sources import Config
from tests.published import published


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def numbered(path: Path, count: int, prefix: str = "What is thing") -> str:
    return write(path, [{"prompt": f"{prefix} {number}?"} for number in range(count)])


def run(seed: int = 0, **config: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The prompts and the dropped rows; both fit their schemas and no record ends twice."""
    ends = list(load(Config(**config), seed))
    prompts = [end.row for end in ends if end.drop is None]
    dropped = [dropped_row(end.row_id, STAGE, end.drop) for end in ends if end.drop is not None]
    pa.Table.from_pylist(prompts, PROMPT).validate(full=True)
    pa.Table.from_pylist(dropped, DROPPED).validate(full=True)
    row_ids = [row["source_row"] for row in prompts] + [row["row_id"] for row in dropped]
    assert len(set(row_ids)) == len(row_ids)
    assert len({row["prompt_id"] for row in prompts}) == len(prompts)
    assert {row["reason"] for row in dropped} <= {*DropReason, *LeftOutReason}
    return prompts, dropped


def test_each_record_ends_once_with_its_reason(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "prompt": "Tea?"},
        {"id": "b", "prompt": ""},
        {"id": "c", "prompt": None},
        {"id": "d", "prompt": 4},
        {"id": "e", "prompt": "x\ud800"},
        {"id": "a", "prompt": "Coffee?"},
        {"id": "f", "prompt": "  Tea? "},
        {"id": "g"},
        {"id": "b", "prompt": "Milk?"},  # its first bearer was no prompt, so the id is free
    ]
    prompts, dropped = run(path=write(tmp_path / "mine.jsonl", rows), license="CC0", split="test")
    assert prompts[0] == {
        "prompt_id": prompt_id_of([{"role": "user", "content": "Tea?"}], "mine"),
        "messages": [{"role": "user", "content": "Tea?"}],
        "kind": "red_team",
        "source": "mine",
        "source_row": "mine:0",
        "category": None,
        "split": "test",
        "license": "CC0",
    }
    assert [row["source_row"] for row in prompts] == ["mine:0", "mine:8"]
    assert {row["row_id"]: row["reason"] for row in dropped} == {
        "mine:1": "empty",
        "mine:2": "null",
        "mine:3": "not_text",
        "mine:4": "not_utf8",
        "mine:5": "duplicate_id",
        "mine:6": "duplicate",
        "mine:7": "malformed",
    }
    assert {(row["stage"], row["attempts"]) for row in dropped} == {("load_prompts", 1)}


def test_a_file_of_bad_records_only_is_all_dropped(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_bytes(b"{\n" * 150 + b"\xff\n" * 150)
    prompts, dropped = run(path=str(tmp_path / "bad.jsonl"))
    assert not prompts
    assert Counter(row["reason"] for row in dropped) == {"malformed": 150, "not_utf8": 150}


def test_a_layout_is_found_behind_many_bad_records(tmp_path: Path) -> None:
    (tmp_path / "late.jsonl").write_bytes(b"{\n" * 250 + b'{"prompt": "Hi"}\n')
    prompts, dropped = run(path=str(tmp_path / "late.jsonl"))
    assert [row["source_row"] for row in prompts] == ["late:250"]
    assert len(dropped) == 250


def test_the_kind_is_the_recipes_then_the_sets_then_red_team(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [{"prompt": "A?", "kind": "helpful"}, {"prompt": "B?"}])
    assert [row["kind"] for row in run(path=path)[0]] == ["helpful", "red_team"]
    assert [row["kind"] for row in run(path=path, kind="helpful")[0]] == ["helpful", "helpful"]


def test_categories_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [{"prompt": f"{c}?", "category": c} for c in ("tea", "milk", "", "tea ")])
    prompts, dropped = run(path=path, include_categories=["tea"])
    assert [row["category"] for row in prompts] == ["tea", "tea"]
    assert Counter(row["reason"] for row in dropped) == {"category": 2}
    assert len(run(path=path, exclude_categories=["tea"])[0]) == 2


def test_a_limit_ends_the_reading(tmp_path: Path) -> None:
    path = numbered(tmp_path / "x.jsonl", 20)
    prompts, dropped = run(path=path, limit=5)
    assert [row["source_row"] for row in prompts] == [f"x:{number}" for number in range(5)]
    assert not dropped
    assert len(run(sources=[{"path": path, "limit": 3}])[0]) == 3


def test_the_split_goes_by_the_prompt_not_by_the_run(tmp_path: Path) -> None:
    path = numbered(tmp_path / "x.jsonl", 1000)
    first = {row["prompt_id"]: row["split"] for row in run(path=path, test_fraction=0.2)[0]}
    assert first == {row["prompt_id"]: row["split"] for row in run(seed=1, path=path, test_fraction=0.2)[0]}
    assert 150 < Counter(first.values())["test"] < 250


def test_shares_match_the_weights_and_every_record_is_counted(tmp_path: Path) -> None:
    sources = [
        {"path": numbered(tmp_path / "a.jsonl", 90), "weight": 2, "kind": "red_team"},
        {"path": numbered(tmp_path / "b.jsonl", 60), "weight": 1, "kind": "helpful"},
    ]
    prompts, dropped = run(sources=sources)
    assert Counter(row["source"] for row in prompts) == {"a": 90, "b": 45}
    assert Counter(row["reason"] for row in dropped) == {"weight": 15}
    assert Counter(row["kind"] for row in run(sources=sources, limit=30)[0]) == {"red_team": 20, "helpful": 10}


def test_the_mixture_does_not_depend_on_the_order_of_records(tmp_path: Path) -> None:
    rows = [{"prompt": f"What is thing {number}?"} for number in range(200)]
    other = numbered(tmp_path / "b.jsonl", 50)
    chosen: list[set[str]] = []
    for seed in (0, 0, 1):
        random.Random(len(chosen)).shuffle(rows)
        sources = [{"path": write(tmp_path / "a.jsonl", rows), "weight": 1}, {"path": other, "weight": 1}]
        chosen.append({row["prompt_id"] for row in run(seed, sources=sources)[0]})
    assert chosen[0] == chosen[1]
    assert chosen[0] != chosen[2]
    assert [len(ids) for ids in chosen] == [100, 100, 100]


def test_sources_without_weights_are_all_taken_and_a_limit_takes_of_each(tmp_path: Path) -> None:
    sources = [{"path": numbered(tmp_path / "a.jsonl", 90)}, {"path": numbered(tmp_path / "b.jsonl", 30)}]
    assert len(run(sources=sources)[0]) == 120
    assert Counter(row["source"] for row in run(sources=sources, limit=40)[0]) == {"a": 30, "b": 10}


def test_near_duplicates_are_left_out_across_sources(tmp_path: Path) -> None:
    text = "Tell me how to mend the old brown chair that stands behind the door of my small kitchen"
    first = write(tmp_path / "a.jsonl", [{"prompt": text}, {"prompt": "What is tea?"}])
    second = write(tmp_path / "b.jsonl", [{"prompt": text.upper() + "?"}, {"prompt": "What is milk?"}])
    sources = [{"path": first}, {"path": second}]
    prompts, dropped = run(sources=sources, near_duplicate_jaccard=0.8)
    assert len(prompts) == 3
    assert [row["reason"] for row in dropped] == ["similar"]
    # The prompt with the smaller id stays, whichever source comes first.
    assert {row["prompt_id"] for row in prompts} == {
        row["prompt_id"] for row in run(sources=sources[::-1], near_duplicate_jaccard=0.8)[0]
    }


def test_the_micro_world_is_a_source() -> None:
    prompts, dropped = run(num_prompts=40, harmful_fraction=0.5, harmless_kind="helpful")
    assert not dropped
    assert Counter(row["kind"] for row in prompts) == {"red_team": 20, "helpful": 20}
    assert {row["source"] for row in prompts} == {"microworld"}
    assert all(row["category"] for row in prompts)
    same, _ = run(seed=9, num_prompts=40, harmful_fraction=0.5, harmless_kind="helpful", microworld_seed=0)
    assert same == prompts
    assert run(seed=9, num_prompts=40)[0] != run(seed=8, num_prompts=40)[0]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/tests.jsonl.gz", "tests"),
        ("data/*.csv", "data"),
        ("s3://bucket/set.v2.parquet", "set.v2"),
        ("hf://org/set:default:test", "org/set"),
        ("folder/", "folder"),
        ("*.csv", "prompts"),
    ],
)
def test_a_source_is_called_after_its_file(path: str, name: str) -> None:
    assert Config(path=path).all_sources()[0].source == name
    assert Config(path=path, name="mine").all_sources()[0].source == "mine"


def test_the_resolved_config_loads_again() -> None:
    for config in (Config(), Config(path="a.csv", columns={"prompt": "q"}), Config(sources=[{"path": "a.csv"}])):
        assert Config.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"path": ""}, "path is empty"),
        ({"path": "a.csv", "layout": "alpaca"}, "Input should be 'auto', 'messages'"),
        ({"path": "a.csv", "num_prompts": 3}, 'num_prompts is for path "microworld"'),
        ({"path": "a.csv", "colums": {}}, "Extra inputs are not permitted"),
        ({"path": "a.csv", "sources": [{"path": "b.csv"}]}, "path given beside sources"),
        ({"sources": [{"path": "b.csv"}], "license": "CC0"}, "license given beside sources"),
        ({"sources": [{"path": "x/b.csv"}, {"path": "y/b.csv"}]}, "two sources are called 'b'"),
        ({"sources": [{"path": "a.csv", "weight": 1}, {"path": "b.csv"}]}, "give it to all or to none"),
        ({"sources": [{"path": "a.csv", "weight": 0}]}, "greater than 0"),
        ({"path": "a.csv", "functional_categories": []}, "at least 1 item"),
    ],
)
def test_a_wrong_config_says_what_is_wrong(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Config(**config)
    assert message in str(caught.value)


def test_a_wrong_input_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        run(path=str(tmp_path / "none.jsonl"))
    path = write(tmp_path / "x.jsonl", [{"mine": "Hi"}])
    with pytest.raises(ConfigError, match=r"x\.jsonl: no known layout has the columns 'mine'"):
        run(path=path)
    assert len(run(path=path, columns={"prompt": "mine"})[0]) == 1
    bad = write(tmp_path / "bad.jsonl", [{"prompt": ""}])
    with pytest.raises(ConfigError, match="the mixture is empty: no usable prompt in bad"):
        run(sources=[{"path": bad, "weight": 1}, {"path": numbered(tmp_path / "a.jsonl", 3), "weight": 1}])


@pytest.mark.slow
def test_memory_holds_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl.gz"
    with gzip.open(path, "wt", compresslevel=1) as file:
        for number in range(5000):
            file.write(json.dumps({"prompt": f"{number} " + "long " * 400}) + "\n")  # 10 MB of text
    tracemalloc.start()
    try:
        count = sum(1 for _ in load(Config(path=str(path)), 0))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 5000
    assert peak_bytes < 3e6


def test_all_real_conversations_become_prompts_or_are_dropped() -> None:
    prompts, dropped = run(path=str(published("hh_rlhf/harmless-base-test.jsonl.gz")))
    assert len(prompts) + len(dropped) == 2312
    assert Counter(row["reason"] for row in dropped) == {"duplicate": 2}
    assert sum(len(row["messages"]) > 1 for row in prompts) == 1650  # multi-turn: 71%
    assert all(row["messages"][0]["role"] == row["messages"][-1]["role"] == "user" for row in prompts)
