"""Policies that cannot be trained, preference models that cannot score, prompts that do not fit. No Ray."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cai_ray.artifacts.artifact import find
from cai_ray.config import EndpointConfig, ModelConfig, ThinkingConfig
from cai_ray.engines.models.scored_tokens import ScoredTokens
from cai_ray.errors import ConfigError
from cai_ray.stages.context import Context
from cai_ray.stages.ppo import train_ppo
from cai_ray.stages.ppo.models import models_of
from cai_ray.stages.ppo.turns import Turns, choose
from tests.scripted_ppo import PROMPTS, Script, context_of, models_folder, prompt_rows, small, use_script
from tests.tiny_models import save_tiny
from tests.tiny_policy import save_tiny_policy


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = models_folder(tmp_path_factory.mktemp("models"))
    save_tiny_policy(folder / "words")
    return folder


def with_model(context: Context, name: str, model: ModelConfig) -> Context:
    return replace(context, models={**context.models, name: model})


def context(folder: Path, models: Path, rows: list[dict[str, Any]] | None = None) -> Context:
    return context_of(folder, models, rows or prompt_rows(10))


def test_the_preference_model_scores_by_its_own_tokens(tmp_path: Path, models: Path) -> None:
    where = context(tmp_path, models)
    found = models_of(small(), where)
    messages = [{"role": "user", "content": "How do I paint my chair?"}]
    ids = found.scored_ids(messages, "Take a brush. ")
    assert ids[-1] == found._tokens.end_token_id
    assert found.value == found.scored, "the same tokenizer: values begin from the preference model"
    assert models_of(small(advantage={"kind": "rloo"}, samples_per_prompt=2), where).value is None

    other = models_of(small(), with_model(where, "sl_cai", ModelConfig(path=str(models / "words"))))
    assert other.value == other.policy, "another tokenizer: it cannot read what the policy writes"
    assert other.scored_ids(messages, "Take a brush.") == ids
    assert other.prompt_ids(messages) != found.prompt_ids(messages)


def test_a_trained_preference_model_reads_as_it_was_trained(tmp_path: Path, models: Path) -> None:
    folder = save_tiny(tmp_path / "trained", classifier=True)
    saved = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**saved, "cai_ray": {"system_role": "drop"}}))
    model = ModelConfig(path=str(folder), format="transcript")
    found = models_of(small(), with_model(context(tmp_path, models), "preference_model", model))
    assert isinstance(found._tokens, ScoredTokens) and found._tokens.system_role == "drop"
    assert found.scored.format == "chat", "its own template, and not that of the model it was trained from"


def test_reasoning_is_not_judged(tmp_path: Path, models: Path) -> None:
    where = context(tmp_path, models)
    thinking = where.models["sl_cai"].model_copy(update={"thinking": ThinkingConfig()})
    found = models_of(small(), with_model(where, "sl_cai", thinking))
    assert found.answer("<think>hm</think> Yes.") == "Yes."
    assert found.scored_ids([{"role": "user", "content": "u"}], "<think>hm</think> Yes.") == found.scored_ids(
        [{"role": "user", "content": "u"}], "Yes."
    )


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("preference_model", {"path": "policy"}, r"LlamaForCausalLM with .* it must be a sequence classifier"),
        ("preference_model", {"path": "nowhere"}, "no preference model at"),
        ("sl_cai", {"path": "nowhere"}, "no tokenizer at"),
        ("sl_cai", {"endpoint": "http://127.0.0.1:9/v1"}, "ppo needs the weights of model 'sl_cai', which is a server"),
    ],
)
def test_models_that_will_not_do(tmp_path: Path, models: Path, name: str, change: dict[str, str], message: str) -> None:
    where = context(tmp_path, models)
    if "endpoint" in change:
        model = ModelConfig(endpoint=EndpointConfig(base_url=change["endpoint"], model="m"))
    else:
        model = ModelConfig(path=str(models / change["path"]))
    with pytest.raises(ConfigError, match=message):
        models_of(small(), with_model(where, name, model))


def test_a_policy_without_an_end_token(tmp_path: Path, models: Path) -> None:
    folder = save_tiny(tmp_path / "endless")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("eos_token")
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}\n{% endfor %}")
    where = with_model(context(tmp_path, models), "sl_cai", ModelConfig(path=str(folder)))
    with pytest.raises(ConfigError, match="could not learn to stop"):
        models_of(small(), where)


def test_prompts_that_do_not_fit_are_dropped(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = prompt_rows(30)
    rows[3]["messages"] = [{"role": "user", "content": "x" * 300}]
    where = context(tmp_path, models, rows)
    use_script(monkeypatch, Script(), models)
    train_ppo.run(small(), where, PROMPTS)
    artifact = find(where.folder(train_ppo.STAGE))
    assert artifact is not None
    (dropped,) = artifact.dropped()
    assert (dropped["row_id"], dropped["reason"]) == ("prompt-0003", "too_long")
    assert artifact.manifest.rows_in == artifact.manifest.rows_out + 1
    assert "prompt-0003" not in {row["prompt_id"] for row in artifact.rows()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"max_prompt_tokens": 5},
            r"24 of 24 prompts do not fit \(prompt-0000: the prompt has \d+ tokens.*budget is 5",
        ),
        ({"sampling": {"max_tokens": 255}}, r"budget is 1\), more than ppo.max_dropped_fraction=0.2 allows"),
    ],
)
def test_too_many_that_do_not_fit_are_refused(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    script = Script()
    use_script(monkeypatch, script, models)
    with pytest.raises(ConfigError, match=message):
        train_ppo.run(small(**changes), context(tmp_path, models, prompt_rows(30)), PROMPTS)
    assert script.calls == [], "nothing was started"


def test_no_prompts_to_learn_from(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_script(monkeypatch, Script(), models)
    held_out = [row for row in prompt_rows(30) if row["split"] == "test"]
    with pytest.raises(ConfigError, match='holds no prompt of split "train"'):
        train_ppo.run(small(), context(tmp_path, models, held_out), PROMPTS)


def test_turns_do_not_depend_on_how_often_they_are_asked(tmp_path: Path, models: Path) -> None:
    where = context(tmp_path, models)
    chosen = choose(where.artifact(PROMPTS), models_of(small(), where), small())
    one, other = (Turns(chosen.prompts, 5, 2, seed=1) for _ in range(2))
    later = one.requests(3)
    assert [one.requests(step) for step in (1, 2)] + [later] == [other.requests(step) for step in (1, 2, 3)]
    seeds = [request.seed for step in range(1, 30) for request in one.requests(step)]
    assert len(set(seeds)) == len(seeds)
    assert Turns(chosen.prompts, 5, 2, seed=2).requests(1) != one.requests(1)
    # 8 prompts, 5 turns a step: two passes within three steps, and no answer twice.
    wanted = [pair for step in (1, 2, 3, 4) for pair in one.wanted(step)]
    assert len(set(wanted)) == len(wanted) == 40
