"""The feedback model compares two answers under drawn principles.  Pair -> Preference.

The paper's section 4.1: the model reads the conversation, both answers, then a principle's question, and the
log-probabilities of the two options become a soft label. How readings become one label: metrics/readings.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from statistics import fmean
from typing import Any

import pyarrow as pa

from cai_ray.artifacts.artifact import Artifact, StageSpec, find
from cai_ray.artifacts.derived import Outcome, batched, counted, derive
from cai_ray.artifacts.summaries.labels import LabelSummary
from cai_ray.chat import Message
from cai_ray.config import ModelConfig
from cai_ray.constitution.draw import check_choice
from cai_ray.constitution.principles import Constitution
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.factory import backend_factory
from cai_ray.engines.backends.option_check import check_options
from cai_ray.engines.conversations.asking import Ask
from cai_ray.engines.conversations.generation import ConversationJob
from cai_ray.engines.conversations.stage import Conversations, run_conversations, run_together
from cai_ray.errors import ConfigError
from cai_ray.metrics.intervals import PRIOR, VerdictShare, verdict_share
from cai_ray.metrics.readings import clamped, is_tie, mean_prob_a, prob_of_first_shown, readings_of
from cai_ray.prompts.comparison import OPTIONS, Form, comparison_messages, few_shot_comparisons
from cai_ray.row_ids import PAIR_IDS
from cai_ray.rows import PREFERENCE, ROW_ID
from cai_ray.stages.context import Context
from cai_ray.stages.exports import export_comparisons, export_preferences
from cai_ray.stages.preferences import label_summary
from cai_ray.stages.preferences.labels_config import Config as Config
from cai_ray.stages.preferences.pair_judge import STAGE as STAGE
from cai_ray.stages.preferences.pair_judge import PairJudge, questions
from cai_ray.stages.preferences.panel import averaged, preference
from cai_ray.stages.step import Step, shown

JUDGES = "judges"  # folder inside the stage's own: what each of a panel says


async def label(
    row: dict[str, Any],
    ask: Ask,
    *,
    config: Config,
    constitution: Constitution,
    form: Form,
    seed: int,
    keep_ties: bool = False,
) -> dict[str, Any]:
    """All readings of one pair and their label; a row of the PREFERENCE schema.

    `keep_ties`: for a panel, whose labels are averaged before any is a tie.
    Raises DropRow: TIE, NO_LOGPROBS, UNPARSABLE, TRUNCATED, and whatever the engine has against a request. One reading
    that fails ends the row, because a mean over the others would favour the questions that are easily answered.
    """
    few_shot = few_shot_comparisons(constitution, config.num_few_shot, config.chain_of_thought > 0)
    judge = PairJudge(row, ask, config, form, few_shot, seed)
    comparisons: list[dict[str, Any]] = []
    for principle, swapped in questions(row[ROW_ID], config, constitution, seed):
        comparisons += await judge.read(principle, swapped)
    readings = readings_of(comparisons)
    share = sampled_share(comparisons) if config.reading == "sampled" else None
    prob_a = clamped(mean_prob_a(readings) if share is None else share.prob, config.bounds)
    if not keep_ties and is_tie(prob_a, config.tie_margin):
        raise DropRow(
            DropReason.TIE,
            f"P(A)={prob_a:.4f} over {len(readings)} readings, P(shown first)={prob_of_first_shown(readings):.4f}, "
            f"tie_margin={config.tie_margin}",
        )
    bounds = None if share is None else (share.low, share.high)
    return preference(row, prob_a, comparisons, bounds, config.labels == "hard") | {
        "num_prompt_tokens": ask.usage.num_prompt_tokens,
        "num_cached_tokens": ask.usage.num_cached_tokens,
        "num_output_tokens": ask.usage.num_output_tokens,
    }


def sampled_share(comparisons: Sequence[dict[str, Any]]) -> VerdictShare:
    """Of all sampled verdicts on a pair. Every question counts the same, however many of its replies could be read."""
    counts = [c["num_verdicts"] for c in comparisons]
    shares = [(c["prob_a"] * (num + 2 * PRIOR) - PRIOR) / num for c, num in zip(comparisons, counts, strict=True)]
    return verdict_share(min(1.0, max(0.0, fmean(shares))), sum(counts))


def expand_units(pairs: pa.Table) -> pa.Table:
    """Pair rows -> units of work, one each."""
    return pairs.append_column(ROW_ID, pairs["pair_id"])


def count_readings(row: dict[str, Any], verdicts: int = 0) -> dict[str, int]:
    """Counters of one Preference row for the manifest; `verdicts`: sampled ones per question."""
    counts = {"num_readings": len(row["comparisons"])}
    if verdicts:
        read = sum(comparison["num_verdicts"] for comparison in row["comparisons"])
        counts |= {"num_verdicts": read, "num_unreadable_verdicts": verdicts * len(row["comparisons"]) - read}
    return counts


def drawn_from(config: Config, constitution: Constitution) -> Constitution:
    """The constitution with the principles that may be drawn. Raises ConstitutionError for an unknown id."""
    return constitution.only(config.principle_ids) if config.principle_ids else constitution


def check(config: Config, model: ModelConfig, constitution: Constitution) -> None:
    """Raise ConfigError or ConstitutionError where every pair would fail.

    Loads the model's tokenizer, or asks its endpoint once.
    """
    check_choice(drawn_from(config, constitution), config.principles, config.principles_per_pair, "comparison")
    think = config.chain_of_thought > 0
    if config.num_few_shot and not few_shot_comparisons(constitution, 1, think):
        raise ConfigError(
            f"num_few_shot={config.num_few_shot}, but constitution {constitution.name!r} has no example comparison"
            f"{' with reasoning' if think else ''}; add one under few_shot_comparisons, or set num_few_shot=0"
        )
    if model.format == "transcript" and model.system_role in ("fold", "drop"):
        raise ConfigError(
            f'system_role="{model.system_role}" would change a base model\'s comparison, which is one unlabelled text; '
            'set system_role to "auto"'
        )
    if config.reading == "sampled":
        return  # any model can write a verdict
    hello: list[Message] = [{"role": "user", "content": "Hello!"}]
    check_options(
        model, OPTIONS, comparison_messages(hello, "Hello!", "Go away.", "Which is kinder?", form=model.format)
    )


def job_of(config: Config, context: Context, keep_ties: bool = False) -> ConversationJob:
    """What the conversation engine is asked to do, for one judge."""
    model = context.model(config.model)
    reasoning_tokens = config.cot_sampling.max_tokens // 2 if config.chain_of_thought else 0
    return ConversationJob(
        stage=STAGE,
        seed=context.seed,
        schema=PREFERENCE,
        converse=partial(
            label,
            config=config,
            constitution=drawn_from(config, context.principles()),
            form=model.format,
            seed=context.seed,
            keep_ties=keep_ties,
        ),
        expand=expand_units,
        make_backend=backend_factory(model),
        engine=model.engine,
        expected_tokens=512 + 256 * config.num_few_shot + reasoning_tokens,
        count=partial(count_readings, verdicts=config.verdicts if config.reading == "sampled" else 0),
    )


def run(config: Config, context: Context, source_stage: str) -> Artifact:
    """Label every pair of `source_stage` that is not labelled yet.

    Raises ConfigError when there is no pair to label, and what `check` raises, before any is asked.
    """
    source = context.artifact(source_stage)
    if not source.manifest.rows_out:
        raise ConfigError(
            f"{source.folder.shown} holds no pair to label (dropped: {source.manifest.rows_dropped or 'none'}); "
            "sample from more prompts, or see why pairs were dropped"
        )
    spec = context.spec(STAGE, config, PAIR_IDS, source)
    if find(spec.folder) is None:
        for judge in config.judges:
            check(config, context.model(judge.model), context.principles())
    if config.models:
        return derive(spec, _by_panel(config, context, source, spec), PREFERENCE, unit_ids(source))
    model = context.model(config.model)
    asked = Conversations(spec, source, ("pair_id",), job_of(config, context), model, config.scaling)
    return run_conversations(asked, context.cluster)


def unit_ids(source: Artifact) -> list[str]:
    """Every pair."""
    return [row["pair_id"] for row in source.rows(("pair_id",))]


def _by_panel(config: Config, context: Context, source: Artifact, spec: StageSpec) -> Iterator[list[Outcome]]:
    """Have each judge read what it has not read yet, into an artifact of its own, and average.

    Servers are asked at the same time; models with weights take turns, because each may want the machine.
    """
    servers: list[Conversations] = []
    others: list[Conversations] = []
    for judge in config.models:
        alone = config.model_copy(update={"model": judge.model, "models": (), "labels": "soft"})
        model = context.model(judge.model)
        inner = spec.inner(f"{JUDGES}/{judge.model}", PAIR_IDS, source)
        job = job_of(alone, context, keep_ties=True)
        asked = Conversations(inner, source, ("pair_id",), job, model, config.scaling, name=judge.model)
        (servers if model.endpoint else others).append(asked)
    done = {
        asked.name: artifact
        for group in (servers, *([one] for one in others))
        for asked, artifact in zip(group, run_together(group, context.cluster), strict=True)
    }
    labelled = [done[judge.model] for judge in config.models]
    counters: Counter[str] = Counter()
    for artifact in labelled:
        counters.update(artifact.manifest.counters)
    yield from batched(counted(averaged(labelled, config), counters))


def step(config: Config, source_stage: str) -> Step:
    """Of a run."""
    return Step(
        STAGE,
        config,
        lambda context: run(config, context, source_stage),
        asks=tuple(judge.model for judge in config.judges),
        reads=(source_stage,),
        needs_constitution=True,
        exports={"preferences": export_preferences, "comparisons": export_comparisons},
        summary=shown(LabelSummary, label_summary.summarise, label_summary.table),
        units=None if config.models else PAIR_IDS,
        why_dropped=label_summary.tied_by_position,
    )
