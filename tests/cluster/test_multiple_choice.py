"""Multiple choice on real Ray: several models, one of them a preference model, scripted and with the micro model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.summaries.multiple_choice import MultipleChoiceSummary
from cai_ray.artifacts.summaries.summary import summary_of
from cai_ray.config import EngineConfig, ModelConfig
from cai_ray.engines.backends.scripted import ScriptedBackend
from cai_ray.prompt_layouts.multiple_choice import parse_item
from cai_ray.stages.evaluation import multiple_choice
from cai_ray.stages.evaluation.multiple_choice import run, summarise
from tests.scripted_choices import REFUSED, must_not_be_asked, takes
from tests.stages.evaluation.test_multiple_choice import config, context, record, write
from tests.stages.evaluation.test_multiple_choice import values as margin_of
from tests.tiny_models import save_tiny

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]

SCALING = {"rows_per_task": 4, "rows_per_part": 8}


def test_every_model_answers_every_item_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [record(f"Tea {k}?", "A" if k % 4 else "B") for k in range(20)]
    path = write(tmp_path / "items.jsonl", [*records, record(REFUSED), {"prompt": "?"}])
    models = {name: ModelConfig(path=str(save_tiny(tmp_path / "model"))) for name in "AB"}
    models["pm"] = ModelConfig(path=str(save_tiny(tmp_path / "pm", classifier=True)))
    letters = {id(model): name for name, model in models.items()}
    monkeypatch.setattr(
        multiple_choice,
        "backend_factory",
        lambda model: partial(ScriptedBackend, partial(takes, letters[id(model)])),
    )
    chosen = config(path, models=("A", "B"), preference_models=("pm",), scaling=SCALING)
    artifact = run(chosen, context(tmp_path / "run", models))

    summary = summary_of(artifact, MultipleChoiceSummary, summarise)
    values = {name: one.accuracy.value for name, one in summary.models.items() if one.accuracy}
    assert (values["A"], values["B"]) == (0.75, 0.25)
    assert [summary.models[name].first_option_rate for name in "AB"] == [1.0, 0.0]
    assert summary.models["A"].dropped == {"request_rejected": 1} and not summary.models["pm"].dropped
    assert summary.records_dropped == {"malformed": 1}
    assert (artifact.manifest.rows_in, artifact.manifest.rows_out) == (3 * 21 + 1, 3 * 21 - 2)
    assert artifact.manifest.counters["num_requests"] == 40
    assert {row["row_id"] for row in artifact.dropped()} == {
        "record:21",
        *(f"{name}/{parse_item(record(REFUSED)).item_id}/0" for name in "AB"),
    }

    # Lost between the last answer and the commit: the models' answers are kept, nothing is asked again.
    for name in ("manifest.json", "summary.json"):
        (tmp_path / "run" / "multiple_choice" / name).unlink()
    monkeypatch.setattr(multiple_choice, "backend_factory", lambda model: partial(ScriptedBackend, must_not_be_asked))
    assert rows(run(chosen, context(tmp_path / "run", models))) == rows(artifact)
    assert summary_of(artifact, MultipleChoiceSummary, summarise) == summary


def rows(artifact: Artifact) -> list[dict[str, Any]]:
    return sorted(artifact.rows(), key=lambda row: (row["policy"], row["prompt_id"]))


def test_the_micro_model_answers_in_both_layouts_and_forms(micro_model: Path, tmp_path: Path) -> None:
    """What vLLM says of each option is what transformers says of the same text."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    items = [record(f"Please tell me about tea number {k}.", "AB"[k % 2]) for k in range(6)]
    path = write(tmp_path / "items.jsonl", items)
    engine = EngineConfig(max_num_seqs=8, max_num_batched_tokens=2048)
    models = {form: ModelConfig(path=str(micro_model), format=form, engine=engine) for form in ("chat", "transcript")}
    chosen = config(path, models=tuple(models), scaling=SCALING)
    where = context(tmp_path / "run", models)
    artifact = run(chosen, where)
    assert artifact.manifest.rows_out == 12

    tokenizer = AutoTokenizer.from_pretrained(micro_model)
    model = AutoModelForCausalLM.from_pretrained(micro_model, dtype=torch.float32).eval()
    a, b = (tokenizer.convert_tokens_to_ids(letter) for letter in "AB")
    values = {(row["policy"], row["prompt_id"]): margin_of(row)[1] for row in artifact.rows()}
    for one in map(parse_item, items):
        ids = tokenizer(one.prompt + " (", return_tensors="pt", add_special_tokens=False).input_ids
        with torch.inference_mode():
            logits = model(ids).logits[0, -1].log_softmax(-1)
        lead = float(logits[a] - logits[b]) * (1 if one.first_is_correct else -1)
        assert values["transcript", one.item_id] == pytest.approx(lead, abs=1e-4)
        assert values["chat", one.item_id] != values["transcript", one.item_id]
