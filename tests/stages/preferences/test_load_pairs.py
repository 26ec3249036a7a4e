"""Sets of pairs from outside: every record once, an order that is drawn, sides by text, layouts told apart."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cai_ray.artifacts.derived import derive
from cai_ray.artifacts.storage import Storage
from cai_ray.dropped import DropReason
from cai_ray.errors import ConfigError
from cai_ray.prompt_layouts.pairs import ParsedPair
from cai_ray.row_ids import PAIR_IDS
from cai_ray.rows import PAIR
from cai_ray.stages.preferences.comparisons import PairOptions, comparisons, training_pair
from cai_ray.stages.preferences.load_pairs import STAGE, Config, outcomes
from cai_ray.stages.preferences.pair_sources import HelpfulPairsConfig, PairSetConfig, PreferenceSetConfig, read_pairs
from tests.finished_stages import spec_of


def write(folder: Path, records: list[Any], name: str = "own.jsonl") -> str:
    file = folder / name
    file.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in records))
    return str(file)


def two(number: int, **more: Any) -> dict[str, Any]:
    return {"prompt": f"Q{number}", "response_a": f"first {number}", "response_b": f"second {number}", **more}


def test_every_record_ends_once(tmp_path: Path) -> None:
    turned = {"prompt": "Q0", "response_a": "second 0", "response_b": "first 0"}
    empty = {"prompt": "Q", "response_a": " ", "response_b": "b"}
    source = write(tmp_path, [two(0), "{", turned, empty, two(1, response_b=3), two(2)])
    config = Config(sources=(PairSetConfig(path=source),))
    made = derive(spec_of(Storage(str(tmp_path / STAGE)), STAGE, PAIR_IDS), [list(outcomes(config, 0))], PAIR)
    assert made.manifest.rows_in == 6 and made.manifest.rows_out == 2
    assert made.manifest.rows_dropped == {"duplicate": 1, "empty_response": 1, "malformed": 1, "not_text": 1}
    first = next(made.rows())
    assert (first["pair_id"], first["policy"], first["kind"]) == ("own:0", "own", "red_team")
    assert math.isnan(first["temperature_a"])


def test_which_answer_is_a_is_drawn_by_the_run(tmp_path: Path) -> None:
    source = write(tmp_path, [{"prompt": f"Q{k}", "chosen": "good", "rejected": "bad"} for k in range(100)])
    config = Config(sources=(PairSetConfig(path=source),))
    orders = [[one.row["response_a"] == "good" for one in outcomes(config, seed)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert 30 < sum(orders[0]) < 70


def test_a_text_is_on_one_side_in_every_set(tmp_path: Path) -> None:
    sets = [write(tmp_path, [two(k, response_b=name) for k in range(200)], f"{name}.jsonl") for name in ("x", "y")]
    config = Config(sources=tuple(PairSetConfig(path=path, test_fraction=0.3) for path in sets))
    sides: dict[str, set[str]] = {}
    for one in outcomes(config, 0):
        sides.setdefault(one.row["messages"][0]["content"], set()).add(one.row["split"])
    assert len(sides) == 200 and all(len(found) == 1 for found in sides.values())
    assert 30 < sum(found == {"test"} for found in sides.values()) < 90


def test_preferences_of_ones_own(tmp_path: Path) -> None:
    marks = (("good", 4), ("bad", 1), ("so", 2))
    rated = [{"prompt": "Q", "response": text, "helpfulness": number} for text, number in marks]
    source = write(tmp_path, [*rated, *({**one, "prompt": "R", "helpfulness": 3} for one in rated[:2])])
    options = PairOptions(preferences=(PreferenceSetConfig(path=source, label_source="ai", weight=2.0),))
    pair, tie = comparisons(options, [], 0)
    assert (pair.pair_id, pair.chosen, pair.rejected) == ("own:0", "good", "bad")
    assert (pair.label_source, pair.weight) == ("ai", 2)
    assert tie.pair_id == "own:3" and tie.problem is not None and tie.problem.reason is DropReason.TIE
    row = training_pair(pair, options, lambda messages, text: ([1], [2]), 8, 0)
    assert (row["prob_chosen"], row["label_source"]) == (1.0, "ai")


def test_an_exported_label_keeps_its_probability_and_people_are_certain(tmp_path: Path) -> None:
    source = write(tmp_path, [{"prompt": "Q", "chosen": "a", "rejected": "b", "prob_chosen": 0.75}])
    probs = {}
    for kind in (PreferenceSetConfig, HelpfulPairsConfig):
        ((_, found),) = read_pairs(kind(path=source))
        assert isinstance(found, ParsedPair)
        probs[kind] = found.prob_chosen
    assert probs == {PreferenceSetConfig: 0.75, HelpfulPairsConfig: 1.0}


def test_faults_of_the_config(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"two of preferences and helpful_pairs are called 'a'"):
        PairOptions(
            preferences=(PreferenceSetConfig(path="x/a.jsonl"),), helpful_pairs=(HelpfulPairsConfig(path="y/a.jsonl"),)
        )
    source = PreferenceSetConfig(path=write(tmp_path, [two(0)]))
    with pytest.raises(ConfigError, match=r"own\.jsonl: layout chosen_rejected needs a column for 'chosen'"):
        list(read_pairs(source))
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl does not exist; looked for it"):
        list(read_pairs(PairSetConfig(path="nowhere.jsonl")))
