"""Models that judge answers or score rounds: what they read is the conversation, the answer and a frame of words.

Tested in tests/planning/test_plan.py.
"""

from __future__ import annotations

from cai_ray.config import SamplingConfig
from cai_ray.pipeline.steps import Step
from cai_ray.planning.stand_in_engine import Sample, Usages
from cai_ray.planning.work import StagePlan, Work
from cai_ray.planning.world import PlannedModel, World, config_of, each
from cai_ray.stages.evaluation import score_rounds
from cai_ray.stages.evaluation.judges import named as judges

FRAME_TOKENS = {"rating": 250, "pairwise": 150, "yes_no": 150, "guard": 250, "wildguard": 150}
VERDICT_TOKENS = {"yes_no": 1, "guard": 8, "wildguard": 20}  # written; the judges that only score write nothing


def plan_judge(judge: judges.JudgeConfig, answers: Sample, num_policies: int, world: World) -> Usages:
    """One judge on the answers of one policy (rows of RESPONSES). Nothing is taken to be cached."""
    model, kind = world.model(judge.model), getattr(judge, "kind", "")
    asked, read, longest = 0.0, 0.0, 0
    for row, weight in each(answers):
        if judge.prompts not in ("all", row["kind"]):
            continue
        lengths = _lengths(model, row)
        if isinstance(judge, judges.PairwiseJudge):
            lengths = [2 * length for length in lengths]  # the other policy's answer is about as long
        asked += weight * len(lengths)
        read += weight * (sum(lengths) + len(lengths) * FRAME_TOKENS.get(kind, 0))
        longest = max([longest, *lengths])
    times = _games(judge, num_policies) if isinstance(judge, judges.PairwiseJudge) else 1.0
    written = _verdict(judge, kind, model)
    return Usages(times * asked, times * read, 0.0, times * asked * written, longest + written)


def _lengths(model: PlannedModel, row: dict[str, object]) -> list[int]:
    """Tokens of the conversation with each of its answers."""
    renderer = model.counter.renderer
    asked = len(renderer.encode(renderer.text(row["messages"])))  # type: ignore[arg-type]
    return [asked + len(renderer.encode(str(text), is_start=False)) for text in row["responses"]]  # type: ignore[attr-defined]


def _games(judge: judges.PairwiseJudge, num_policies: int) -> float:
    """Questions per answer of a policy: each pair of policies in both orders, shared between the two."""
    pairs = num_policies - 1 if judge.pairs == "reference" else num_policies * (num_policies - 1) / 2
    return 2 * pairs / num_policies


def _verdict(judge: judges.JudgeConfig, kind: str, model: PlannedModel) -> int:
    if isinstance(judge, judges.PairwiseJudge) and judge.reading == "logprobs":
        return 1
    if isinstance(judge, judges.RatingJudge | judges.PairwiseJudge):
        sampling: SamplingConfig = judge.sampling
        return model.counter.lengths.of("reasoning", sampling)
    return VERDICT_TOKENS.get(kind, 0)


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
        rows * share,
        rows * share,
        Usages(rows * share, tokens * share),
        work=Work(start_s + model.shape.params * 2 * tokens * share / speed, 1),
    )
