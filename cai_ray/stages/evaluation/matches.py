"""Policies' answers against each other, judged in both orders.  Responses of two policies -> Game.

The matches are an artifact of `evaluate`, shared by all pairwise judges; each judge's games are another, under
`evaluate/games/<judge>`. What they add up to is in evaluation_games.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations, islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cai_ray.artifacts.artifact import Artifact, find, open_stage
from cai_ray.artifacts.parts import remove_part, write_part
from cai_ray.chat import Message
from cai_ray.config import ModelConfig
from cai_ray.dropped import DROPPED, DropReason, DropRow
from cai_ray.engines.backends.factory import backend_factory
from cai_ray.engines.backends.option_check import check_options
from cai_ray.engines.conversations.asking import Ask
from cai_ray.engines.conversations.generation import ConversationJob
from cai_ray.engines.conversations.stage import StageSpec, run_conversations
from cai_ray.prompts.comparison import OPTIONS, Form, comparison_messages, nonce_for, prob_a_from_logprobs
from cai_ray.prompts.judges.pairwise import parse_prob_a, verdict_messages
from cai_ray.rows import GAME, MATCH, ROW_ID, match_id_of
from cai_ray.stages.context import Context
from cai_ray.stages.evaluation.games import GAMES
from cai_ray.stages.evaluation.judges.asking import unparsable
from cai_ray.stages.evaluation.judges.named import JudgeConfig, PairwiseJudge

STAGE = "evaluate"
MATCHES = "matches"  # folder inside the stage's own
ROWS_PER_PART = 2_000

Row = dict[str, Any]


# --- Matches --------------------------------------------------------------------------------------------


def matches(answers: Mapping[str, Artifact]) -> Iterator[Row]:
    """Rows of the MATCH schema: every two policies, each answer of the one against the same sample of the other.

    A prompt that either of them has not answered makes no match.
    """
    for policy_a, policy_b in combinations(answers, 2):
        others = {row["prompt_id"]: row["responses"] for row in answers[policy_b].rows(["prompt_id", "responses"])}
        for row in answers[policy_a].rows(["prompt_id", "messages", "kind", "category", "responses"]):
            pairs = zip(row["responses"], others.get(row["prompt_id"], ()), strict=False)
            for k, (response_a, response_b) in enumerate(pairs):
                yield {
                    "match_id": match_id_of(policy_a, policy_b, row["prompt_id"], k),
                    "policy_a": policy_a,
                    "policy_b": policy_b,
                    "prompt_id": row["prompt_id"],
                    "sample_index": k,
                    "category": row["category"],
                    "kind": row["kind"],
                    "messages": row["messages"],
                    "response_a": response_a,
                    "response_b": response_b,
                }


def commit_matches(answers: Mapping[str, Artifact], plain: Row, context: Context) -> Artifact:
    """All matches as an artifact, which is what engines read."""
    folder, fingerprint = context.folder(STAGE) / MATCHES, context.fingerprints[STAGE]
    opened = open_stage(folder, STAGE, fingerprint, plain, {}, lambda rows: rows["match_id"], ("match_id",))
    if isinstance(opened, Artifact):
        return opened
    for part in opened.parts:  # joining is quick, so an interrupted pass starts over
        remove_part(folder, part)
    ids: list[str] = []
    found = matches(answers)
    while batch := list(islice(found, ROWS_PER_PART)):
        own = [row["match_id"] for row in batch]
        write_part(folder, pa.Table.from_pylist(batch, MATCH), DROPPED.empty_table(), own)
        ids += own
    return opened.commit(pa.array(ids, pa.string()))


def expand_matches(rows: pa.Table, *, judge: PairwiseJudge, reference: str) -> pa.Table:
    """Match rows -> units of work: those that this judge is to see."""
    units = rows if judge.prompts == "all" else rows.filter(pc.equal(rows["kind"], judge.prompts))
    if judge.pairs == "reference":
        units = units.filter(pc.equal(units["policy_a"], reference))
    return units.append_column(ROW_ID, units["match_id"])


def row_ids(games: pa.Table) -> pa.Array:
    """The units that Game rows answer."""
    names = ("policy_a", "policy_b", "prompt_id", "sample_index")
    keys = zip(*(games[name].to_pylist() for name in names), strict=True)
    return pa.array([match_id_of(*key) for key in keys], pa.string())


# --- One game -------------------------------------------------------------------------------------------


async def play(row: Row, ask: Ask, *, judge: PairwiseJudge, form: Form, seed: int) -> Row:
    """Both orders of one match; a row of the GAME schema. Raises DropRow when either order has no verdict.

    Two answers that are the same text are a tie without being asked about.
    """
    answers = (row["response_a"], row["response_b"])
    readings = [0.5]
    if answers[0] != answers[1]:
        judged = [*(message["content"] for message in row["messages"]), *answers]
        nonce = nonce_for(seed, row[ROW_ID], judged)
        first = await _prob_first(row["messages"], *answers, ask, judge, form, nonce)
        second = await _prob_first(row["messages"], *answers[::-1], ask, judge, form, nonce)
        readings = [first, 1 - second]
    return {
        **{name: row[name] for name in ("policy_a", "policy_b", "prompt_id", "sample_index", "category")},
        "cluster": row["prompt_id"],
        "prob_a": sum(readings) / len(readings),
        "flipped": (readings[0] - 0.5) * (readings[-1] - 0.5) < 0,
        "judge": judge.label,
    }


async def _prob_first(
    messages: Sequence[Message], first: str, second: str, ask: Ask, judge: PairwiseJudge, form: Form, nonce: str
) -> float:
    """P(the answer shown first is better) in [0, 1]. Raises DropRow(UNPARSABLE, NO_LOGPROBS)."""
    if judge.reading == "text":
        completion = await ask(verdict_messages(messages, first, second, judge.question, nonce), judge.sampling)
        prob = parse_prob_a(completion.text)
        if prob is None:
            raise unparsable("a verdict such as [[A]]", completion)
        return prob
    own_nonce = nonce if judge.delimiters == "nonce" else None
    asked = comparison_messages(messages, first, second, judge.question, own_nonce, form=form)
    try:
        return prob_a_from_logprobs(*await ask.choose(asked, OPTIONS))
    except ValueError as error:
        raise DropRow(DropReason.NO_LOGPROBS, str(error)) from error


# --- Running --------------------------------------------------------------------------------------------


def pairwise(judges: Sequence[JudgeConfig]) -> list[PairwiseJudge]:
    """Those of the judges that compare."""
    return [judge for judge in judges if isinstance(judge, PairwiseJudge)]


def check(judges: Sequence[JudgeConfig], context: Context) -> None:
    """Raises ConfigError where every match would fail. Loads tokenizers, or asks endpoints once."""
    for judge in pairwise(judges):
        if judge.reading == "logprobs":
            model = context.model(judge.model)
            hello: list[Message] = [{"role": "user", "content": "Hello!"}]
            asked = comparison_messages(hello, "Hello!", "Go away.", judge.question, form=model.format)
            check_options(model, OPTIONS, asked)


def run_games(judges: Sequence[JudgeConfig], answers: Mapping[str, Artifact], plain: Row, context: Context) -> None:
    """Have every pairwise judge judge the matches that it has not judged yet. `plain`: the stage's settings."""
    chosen = pairwise(judges)
    if not chosen:
        return
    source = commit_matches(answers, plain, context)
    for judge in chosen:
        model = context.model(judge.model)
        folder = context.folder(STAGE) / GAMES / judge.label
        if find(folder) is None:
            spec = StageSpec(
                folder=folder,
                fingerprint=context.fingerprints[STAGE],
                config=plain,
                source=source,
                row_ids=row_ids,
                key_columns=("policy_a", "policy_b", "prompt_id", "sample_index"),
                unit_columns=("match_id", "kind", "policy_a"),
            )
            job = job_of(judge, model, next(iter(answers)), context.seed)
            run_conversations(spec, job, model, judge.scaling, context.cluster)


def job_of(judge: PairwiseJudge, model: ModelConfig, reference: str, seed: int) -> ConversationJob:
    """What the conversation engine is asked to do."""
    return ConversationJob(
        stage=STAGE,
        seed=seed,
        schema=GAME,
        converse=partial(play, judge=judge, form=model.format, seed=seed),
        expand=partial(expand_matches, judge=judge, reference=reference),
        make_backend=backend_factory(model),
        engine=model.engine,
        expected_tokens=1024,
    )
