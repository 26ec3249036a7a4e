"""Runs on real text, which no oracle can judge: odd letters, long words, code, many dialogues. Made without a model."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

from cai_ray.artifacts.storage import Storage
from cai_ray.artifacts.summaries import summary as summary_file
from cai_ray.artifacts.summaries.evaluation import EvaluationSummary
from cai_ray.artifacts.summaries.revision import RevisionSummary, TextLogprobs
from cai_ray.row_ids import EVALUATION_IDS, RESPONSES_IDS
from cai_ray.rows import EVALUATION, RESPONSES, REVISION
from cai_ray.stages.evaluation import summary as evaluate_summary
from cai_ray.stages.evaluation.scorers import TEXT_SCORERS, Answer, RuleScorer, evaluation, scores_of
from cai_ray.stages.revision import summary as revise_summary
from tests.finished_stages import finished, spec_of
from tests.stages.evaluation.evaluate_runs import saying

STAGES = ("load_prompts", "revise", "evaluate", "train_ppo")
POLICIES = ("policy", "sl_cai")
ODD = (
    "Donaudampfschifffahrtsgesellschaftskapitänsmützenhersteller" * 6,
    "👩‍👩‍👧‍👦🏳️‍🌈 Family day! 🎉🎉🎉 👍🏽",
    "שלום, איך אפשר לעזור? אפשר לכתוב גם English באמצע.",
    "مرحبا، كيف يمكنني المساعدة اليوم؟",
    "```python\ndef square(number):\n    return number * number  # " + "x" * 200 + "\n```",
    "https://example.com/" + "path/" * 60,
    "   \n\t  ",
    "the same again, " * 120,
    "| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 40,
    "我可以帮助你做很多事情，比如写作和学习。" * 12,  # noqa: RUF001
)
WORDS = re.findall(
    r"\w+",
    "the a garden letter river bread question answer people often never however because morning paper friend know help "
    "cannot sorry please would should could write read walk make take leave old new small large good quiet green",
)


def prose(rng: random.Random, num_chars: int) -> str:
    """Some text of about this length; one in twelve is odd."""
    if rng.random() < 1 / 12:
        return rng.choice(ODD)
    text = ""
    while len(text) < num_chars:
        text += " ".join(rng.choices(WORDS, k=rng.randint(4, 16))).capitalize() + ". "
    return text.strip()


def write_real_run(folder: Path, num_dialogues: int = 60, num_rounds: int = 4, num_chars: int = 260) -> Storage:
    """A finished run of `revise` and `evaluate`, the scorers by rules alone, on texts of about `num_chars`."""
    rng = random.Random(3)
    run = Storage(str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    recipe = {"name": "real", "seed": 3, "constitution": "harmlessness", "models": {"policy": {"path": ODD[0]}}}
    run.write("recipe.json", json.dumps(recipe).encode())
    kinds = ("red_team", "helpful")
    prompts = [
        saying(f"Nr. {k}: {prose(rng, 120)}", category=rng.choice(ODD[:5])[:60], kind=kinds[k % 3 == 0])
        for k in range(num_dialogues)
    ]
    _write_revise(run, prompts, num_rounds, num_chars, rng)
    _write_evaluate(run, prompts, num_chars, rng)
    return run


def _write_revise(
    run: Storage, prompts: list[dict[str, Any]], num_rounds: int, num_chars: int, rng: random.Random
) -> None:
    rows = [
        {
            **{name: row[name] for name in ("prompt_id", "kind", "source", "category", "split", "license", "messages")},
            "sample_index": 0,
            "initial_response": prose(rng, num_chars),
            "initial_flags": [],
            "revisions": [
                {
                    "principle_id": "kindness",
                    "critique": prose(rng, num_chars),
                    "revision": prose(rng, num_chars),
                    "flags": ["truncated"],
                }
                for _ in range(num_rounds)
            ],
            "thinking": None,
            "finish_reasons": ["length"] * (2 * num_rounds + 1),
            "num_neutralised": 0,
            "num_prompt_tokens": 400,
            "num_cached_tokens": 300,
            "num_output_tokens": 500,
        }
        for row in prompts
    ]
    artifact = finished(spec_of(run / "revise", "revise", RESPONSES_IDS, "r"), REVISION, rows)
    texts = ["answer", *(f"{what} {k + 1}" for k in range(num_rounds) for what in ("critique", "revision"))]
    one = TextLogprobs(num_texts=256, num_tokens=24_000, mean=-1.25, incoherent_share=0.02)
    made = revise_summary.summarise(artifact).model_copy(update={"logprobs": dict.fromkeys(texts, one)})
    assert isinstance(made, RevisionSummary) and not made.harmful_rate
    summary_file.write(run / "revise", made)


def _write_evaluate(run: Storage, prompts: list[dict[str, Any]], num_chars: int, rng: random.Random) -> None:
    scorers = [RuleScorer(name) for name in TEXT_SCORERS]
    scored: list[dict[str, Any]] = []
    for policy in POLICIES:
        answers = []
        for row in prompts:
            text = prose(rng, num_chars)
            copied = {name: row[name] for name in ("prompt_id", "messages", "kind", "category", "split")}
            counts = {f"num_{what}_tokens": 50 for what in ("prompt", "cached", "output")}
            answers.append(
                {**copied, "responses": [text], "temperatures": [1.0], "policy": policy, "finish_reasons": ["stop"]}
                | counts
            )
            answer = Answer(policy, row["prompt_id"], 0, row["messages"], text, row["kind"], row["category"])
            scored.append(evaluation(answer, scores_of(scorers, answer)))
        finished(spec_of(run / "evaluate" / "answers" / policy, "evaluate", RESPONSES_IDS, "a"), RESPONSES, answers)
    config = {"policies": list(POLICIES), "samples_per_prompt": 1, "judges": []}
    artifact = finished(spec_of(run / "evaluate", "evaluate", EVALUATION_IDS, "e", **config), EVALUATION, scored)
    summary_file.summary_of(artifact, EvaluationSummary, evaluate_summary.summarise)
