"""The funnel and the bill: numbers of the manifest, by the names under which stages count."""

from __future__ import annotations

import json
from pathlib import Path

from cai_ray.artifacts import counters
from cai_ray.artifacts.storage import Storage
from cai_ray.metrics.training_keys import EXAMPLES_PER_S
from cai_ray.rows import SFT_EXAMPLE
from cai_ray.stages.report.source import RunSource
from cai_ray.stages.report.stages import stages_of
from tests.stages.report.report_runs import commit


def test_counters_are_shown_under_their_names(tmp_path: Path) -> None:
    run = Storage(str(tmp_path))
    counted = {
        counters.REQUESTS: 1,
        counters.PROMPT_TOKENS: 2,
        counters.CACHED_TOKENS: 3,
        counters.OUTPUT_TOKENS: 4,
        counters.ENGINE_STARTS: 5,
        counters.ASKED_AGAIN: 9,
        counters.TRAINED_TOKENS: 6,
        counters.flag_counter("no_op"): 7,
        counters.flag_counter("truncated"): 8,
        counters.flag_counter("meta"): 0,
    }
    commit(run, "revise", [], SFT_EXAMPLE, "example_id", **counted)
    # Counters are summed over parts; this stage has none, so its manifest is told by hand.
    manifest = json.loads((run / "revise").read("manifest.json"))
    (run / "revise").write("manifest.json", json.dumps({**manifest, "counters": counted}).encode())
    (run / "revise").write(
        "metrics.jsonl", "".join(json.dumps({EXAMPLES_PER_S: speed}) + "\n" for speed in (10.0, 30.0, 50.0)).encode()
    )
    (found,) = stages_of(RunSource(run), ["revise"])
    assert (found.requests, found.prompt_tokens, found.cached_tokens, found.output_tokens) == (1, 2, 3, 4)
    assert (found.engine_starts, found.trained_tokens, found.examples_per_s) == (5, 6, 30.0)
    assert found.asked_again == 9
    assert list(found.flagged.items()) == [("truncated", 8), ("no_op", 7)]


def test_flags_are_the_counters_of_flags() -> None:
    assert counters.flags({"flag.no_op": 2, "flag.meta": 0, "num_requests": 3}) == {"no_op": 2}
