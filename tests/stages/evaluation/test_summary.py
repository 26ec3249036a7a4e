"""The summary: each number against the function that makes it, what could not be judged, and the table."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cai_ray.artifacts.summaries.evaluation import ByMetric, EvaluationSummary, JudgedPolicy, JudgeFacts
from cai_ray.artifacts.summaries.summary import summary_of
from cai_ray.chat import Message
from cai_ray.dropped import DropReason, DropRow
from cai_ray.errors import ConfigError
from cai_ray.metrics.intervals import Estimate, clustered_rate, rate
from cai_ray.microworld.language import comply, refuse
from cai_ray.microworld.oracle import parse_request
from cai_ray.stages.evaluation.evaluate import Config
from cai_ray.stages.evaluation.folders import ANSWERS
from cai_ray.stages.evaluation.summary import summarise, table
from tests.stages.evaluation.evaluate_runs import Scripted, microworld_prompts, saying, write_prompts

PROMPTS = microworld_prompts(32)  # 20 harmful
HARMFUL = [row for row in PROMPTS if (task := parse_request(row["messages"][-1]["content"])) and task.harmful]


def answering(harmful_share: float, lost: str | None = None) -> Any:
    """A policy that helps with harmful requests in this share of its answers, and declines well in the others."""

    def answer(prompt_id: str, messages: Sequence[Message], seed: int) -> str:
        task = parse_request(messages[-1]["content"])
        if prompt_id == lost:
            raise DropRow(DropReason.TOO_LONG, "too long")
        if task is None:
            return "Pardon?"
        rng = random.Random(seed)
        return comply(rng, task) if not task.harmful or rng.random() < harmful_share else refuse(rng, task)

    return answer


def rendered(summary: EvaluationSummary) -> str:
    """As a terminal of 80 columns shows it: every line whole, and few of them."""
    console = Console(file=io.StringIO(), width=80)
    console.print(table(summary))
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    text = "\n".join(lines)
    assert len(lines) <= 12 and max(map(len, lines)) <= 80 and "…" not in text
    assert lines[0].startswith("Answers to ") and lines[-1].endswith("and the report")
    return text


def test_policies_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prompts(tmp_path, PROMPTS)
    scripted = Scripted(monkeypatch, tmp_path, {"policy": answering(1.0), "sl_cai": answering(0.0)})
    artifact = scripted.run(Config())
    summary = summary_of(artifact, EvaluationSummary, summarise)
    assert json.loads(artifact.folder.read("summary.json")) == summary.model_dump(mode="json")
    assert summary == summarise(artifact)
    always, never = rate(20, 20), rate(0, 20)
    assert always is not None and never is not None
    assert summary.policies["policy"]["harmful"] == always
    assert summary.policies["sl_cai"]["harmful"] == never
    helpful, difference = summary.policies["sl_cai"]["helpful"], summary.differences["sl_cai"]["harmful"]
    assert helpful is not None and (helpful.value, helpful.n) == (1.0, 12)
    assert difference is not None and (difference.value, difference.n, difference.low) == (-1.0, 20, -1.0)
    assert difference.high > -1.0
    assert list(summary.differences) == ["sl_cai"] and summary.reference == "policy"
    for category, found in summary.categories["policy"].items():
        num = sum(row["category"] == category for row in HARMFUL)
        assert found.get("harmful") == rate(num, num)
    assert summary.unjudged == {"policy": {}, "sl_cai": {}} == summary.dropped
    assert (summary.num_prompts, summary.samples_per_prompt) == (32, 1)
    shown = rendered(summary)
    assert shown.splitlines()[1].split() == ["harmful", "helpful", "evasive"]
    policy, sl_cai, change = (" ".join(line.split()) for line in shown.splitlines()[2:5])
    assert policy.startswith("policy 100% [") and sl_cai.startswith("sl_cai 0% [0, ")
    assert change.startswith("change -100.0 [-100.0, -") and "missing" not in shown


def test_prompts_that_were_left_out_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prompts(tmp_path, PROMPTS)
    scripted = Scripted(monkeypatch, tmp_path, {"policy": answering(1.0), "sl_cai": answering(0.0)})
    summary = summarise(scripted.run(Config(limit=10)))
    assert sum(summary.rows_left_out.values()) == 2 * 22
    assert summary.num_prompts == 10 and rendered(summary).startswith("Answers to 10 prompts")


def test_several_answers_per_prompt_are_clustered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prompts(tmp_path, PROMPTS)
    scripted = Scripted(monkeypatch, tmp_path, {"policy": answering(0.5)})
    artifact = scripted.run(Config(policies=("policy",), samples_per_prompt=4))
    hits, clusters = [], []
    for row in artifact.rows():
        for score in row["scores"]:
            if score["metric"] == "harmful":
                hits.append(score["value"] == 1.0)
                clusters.append(row["prompt_id"])
    expected = clustered_rate(hits, clusters)
    summary = summary_of(artifact, EvaluationSummary, summarise)
    assert expected is not None and expected.n == 80 and len(set(clusters)) == 20
    assert summary.policies["policy"]["harmful"] == expected
    assert summary.differences == {} and "change" not in rendered(summary).partition("\n")[2]


def test_what_was_dropped_and_what_could_not_be_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = HARMFUL[0]["prompt_id"]
    write_prompts(tmp_path, [*PROMPTS, saying("Wie geht es dir?")])
    scripted = Scripted(monkeypatch, tmp_path, {"policy": answering(1.0), "sl_cai": answering(0.0, lost)})
    summary = summary_of(scripted.run(Config(samples_per_prompt=2)), EvaluationSummary, summarise)
    assert summary.unjudged == {"policy": {"harmful": 2}, "sl_cai": {"harmful": 2}}
    assert summary.dropped == {"policy": {}, "sl_cai": {"too_long": 2}}
    harmful, difference = summary.policies["policy"]["harmful"], summary.differences["sl_cai"]["harmful"]
    assert harmful is not None and harmful.n == 40
    assert difference is not None and difference.n == 19  # the prompts that both answered
    assert "2 answers dropped, 4 scores missing" in rendered(summary)


def test_a_metric_that_nothing_could_be_judged_on_is_shown_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_prompts(tmp_path, [saying("Wie geht es dir?")])
    config = Config(policies=("policy",), scorers=("microworld",))
    summary = summary_of(
        Scripted(monkeypatch, tmp_path, {"policy": answering(0.0)}).run(config), EvaluationSummary, summarise
    )
    assert summary.policies == {"policy": {"harmful": None}} and summary.unjudged == {"policy": {"harmful": 1}}
    assert rendered(summary)


def test_formulas_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prompts(tmp_path, [saying(f"Question {k}?") for k in range(10)])
    policies: dict[str, Any] = {
        "policy": lambda prompt_id, *_: f"Answer {prompt_id}.",
        "sl_cai": lambda prompt_id, *_: f"You are so very valued. {prompt_id}",
    }
    summary = summary_of(Scripted(monkeypatch, tmp_path, policies).run(Config()), EvaluationSummary, summarise)
    varied, formulaic = summary.diversity["policy"], summary.diversity["sl_cai"]
    assert varied.boilerplate is not None and varied.boilerplate.value == 0.0
    assert formulaic.boilerplate is not None and formulaic.boilerplate.value == 1.0
    assert formulaic.phrases == {"are so very valued": 1.0, "you are so very": 1.0}
    assert formulaic.distinct_1 is not None and varied.distinct_1 is not None
    assert formulaic.distinct_1 < varied.distinct_1


def test_answers_that_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prompts(tmp_path, PROMPTS[:4])
    artifact = Scripted(monkeypatch, tmp_path, {"policy": answering(0.0)}).run(Config(policies=("policy",)))
    artifact.folder.delete(f"{ANSWERS}/policy/manifest.json")
    with pytest.raises(ConfigError, match="--fresh"):
        summary_of(artifact, EvaluationSummary, summarise)


# --- The terminal's table -------------------------------------------------------------------------------

LONG = "sl_cai_without_critiques_of_round_three_temperature_0.7"


def estimates(rng: random.Random, metrics: Sequence[str], scale: float = 1.0) -> ByMetric:
    """Metric -> an estimate as wide on the page as any."""
    found: ByMetric = {}
    for name in metrics:
        low, value, high = sorted(scale * rng.uniform(-1, 1) for _ in range(3))
        found[name] = Estimate(value=value, low=low, high=high, n=96)
    return found


def summary_with(
    policies: Sequence[str], metrics: Sequence[str], scale: float = 1.0, failed: int = 0
) -> EvaluationSummary:
    """A summary of which the table shows all that it can."""
    rng = random.Random(0)
    judged = JudgedPolicy(num_judged=1, failures={"unparsable": failed}, labels={})
    return EvaluationSummary(
        rows_in=1,
        rows_out=1,
        rows_dropped={},
        num_prompts=12_000,
        samples_per_prompt=1,
        policies={name: estimates(rng, metrics, scale) for name in policies},
        categories={},
        reference=policies[0],
        differences={name: estimates(rng, metrics, scale) for name in policies[1:]},
        diversity={},
        unjudged={name: {"harmful": failed} for name in policies},
        dropped={name: {"too_long": failed} for name in policies},
        judges={"judge": JudgeFacts(kind="rating", model="judge", policies=dict.fromkeys(policies, judged))},
        counters={},
        duration_s=1.0,
        elo=(),
        elo_by_judge={},
        win_rates=(),
        frontier=(),
    )


ORACLE = ("evasive", "harmful", "helpful", "in_language", "meta", "over_refusal", "preachy")
TEXT = ("evasive", "over_refusal", "preachy", "refusal", "repetition", "stock_phrases")
RATINGS = ("harmful", "harmful.guard", "harmfulness_score", "helpfulness_score", "preference_score", "refusal")


@pytest.mark.parametrize("failed", [0, 5_000])
@pytest.mark.parametrize("metrics", [ORACLE, TEXT, RATINGS], ids=["oracle", "text", "ratings"])
@pytest.mark.parametrize(
    "policies",
    [
        ("policy",),
        ("policy", "sl_cai"),
        ("policy", "sl_cai", "rl_cai"),
        ("policy", LONG, f"{LONG}_again"),
        (LONG, "sl_cai", "dpo", "rl_cai"),
    ],
    ids=len,
)
def test_every_name_and_number_is_whole_in_80_columns(
    policies: Sequence[str], metrics: Sequence[str], failed: int
) -> None:
    text = rendered(summary_with(policies, metrics, failed=failed))
    shown = policies if len(policies) < 4 else (policies[0], *policies[-2:])
    assert all(name in text for name in shown)
    assert text.count("change ") == len(shown) - 1
    assert text.count("[") == 3 * (2 * len(shown) - 1)  # three metrics, each with its interval
    assert ("answers dropped" in text) == bool(failed)


def test_the_metrics_are_those_of_harm_and_help(tmp_path: Path) -> None:
    def heads(metrics: Sequence[str]) -> str:
        return rendered(summary_with(("policy", "sl_cai"), metrics)).splitlines()[1].strip()

    assert heads(ORACLE).split() == ["harmful", "helpful", "evasive"]
    assert heads(TEXT).split() == ["evasive", "over-refusal", "refusal"]
    assert heads(RATINGS).split("  ")[0] == "harmful" and "harmfulness score" in heads(RATINGS)
    assert "guard" not in heads(RATINGS)


def test_many_policies_and_wide_numbers_leave_what_fits() -> None:
    names = [f"policy_{k}" for k in range(9)]
    text = rendered(summary_with(names, ORACLE))
    assert "4 more policies and every metric" in text
    assert [name for name in names if name in text] == ["policy_0", *names[-4:]]
    wide = rendered(summary_with(("policy", "sl_cai"), RATINGS, scale=1e9))
    assert "e+0" in wide and "harmfulness score" in wide and "helpfulness score" not in wide
