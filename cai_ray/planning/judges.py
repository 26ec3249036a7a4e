"""Models that judge answers or score rounds: what they read is the conversation, the answer and a frame of words.

Tested in tests/planning/test_plan.py.
"""

from __future__ import annotations

from cai_ray.planning.stand_in_engine import Sample, Usages
from cai_ray.planning.work import StagePlan, Work
from cai_ray.planning.world import PlannedModel, World, config_of, each
from cai_ray.stages.evaluation import score_rounds
from cai_ray.stages.evaluation.judges.base import JudgeConfig
from cai_ray.stages.step import Step


def plan_judge(judge: JudgeConfig, answers: Sample, num_policies: int, world: World) -> Usages:
    """One judge on the answers of one policy (rows of RESPONSES). Nothing is taken to be cached."""
    model = world.model(judge.model)
    asked, read, longest = 0.0, 0.0, 0
    for row, weight in each(answers):
        if judge.prompts not in ("all", row["kind"]):
            continue
        # Another policy's answer is about as long.
        lengths = [judge.answers_per_question * length for length in _lengths(model, row)]
        asked += weight * len(lengths)
        read += weight * (sum(lengths) + len(lengths) * judge.frame_tokens)
        longest = max([longest, *lengths])
    times = judge.questions_per_answer(num_policies)
    reasoning = judge.reasoning
    written = judge.verdict_tokens if reasoning is None else model.counter.lengths.of("reasoning", reasoning)
    return Usages(times * asked, times * read, 0.0, times * asked * written, longest + written)


def _lengths(model: PlannedModel, row: dict[str, object]) -> list[int]:
    """Tokens of the conversation with each of its answers."""
    renderer = model.counter.renderer
    asked = len(renderer.encode(renderer.text(row["messages"])))  # type: ignore[arg-type]
    return [asked + len(renderer.encode(str(text), is_start=False)) for text in row["responses"]]  # type: ignore[attr-defined]


def plan_score_rounds(step: Step, world: World) -> StagePlan:
    """One process scores the initial answer and every revision of the dialogues, one forward pass each."""
    config = config_of(step, score_rounds.Config)
    model = world.model(config.model)
    rows, tokens, dialogues = 0.0, 0.0, 0.0
    for row, weight in each(world.written[step.reads[0]]):
        if row["revisions"]:
            texts = [row["initial_response"], *(done["revision"] for done in row["revisions"])]
            dialogues += weight
            rows += weight * len(texts)
            tokens += weight * sum(_lengths(model, {"messages": row["messages"], "responses": texts}))
    share = min(1.0, (config.limit or dialogues) / max(1.0, dialogues))
    assumed, device = world.hardware.assumptions, world.hardware.device
    speed = device.bf16_tflops * 1e12 * assumed.prefill_mfu
    start_s = assumed.engine_start_s if device.is_gpu else assumed.cpu_start_s
    return StagePlan(
        step.stage,
        rows,
        rows * share,
        Usages(rows * share, tokens * share),
        work=Work(start_s + model.shape.params * 2 * tokens * share / speed, 1),
    )


PLANNERS = {score_rounds.STAGE: plan_score_rounds}
