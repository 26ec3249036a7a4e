"""expand_prompts without Ray: rows on scripted answers, the choice, and the stage over a finished `asks` folder."""

from __future__ import annotations

import asyncio
import pickle
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cai_ray.artifacts.artifact import Artifact, OpenStage, open_stage
from cai_ray.artifacts.storage import Storage
from cai_ray.config import EngineConfig, ModelConfig, SamplingConfig
from cai_ray.dropped import DropReason, DropRow, LeftOutReason
from cai_ray.engines.backends.scripted import Script, ScriptedBackend
from cai_ray.engines.cluster import ClusterConfig
from cai_ray.engines.conversations.asking import Completion
from cai_ray.engines.conversations.generation import ConversationActor, ConversationJob
from cai_ray.engines.conversations.outcomes import commit_outcomes
from cai_ray.errors import ConfigError
from cai_ray.row_ids import ASK_IDS, PROMPT_IDS, prompt_id_of
from cai_ray.rows import PROMPT
from cai_ray.stages.context import Context
from cai_ray.stages.inputs import expand_prompts
from cai_ray.stages.inputs.choose_new_prompts import Candidate, SelectionConfig, choose
from cai_ray.stages.inputs.expand_prompts import ASKS, Config, Seed, draw_shots, expand, seeds_of
from tests.finished_stages import finished, spec_of

SOURCE = "load_prompts"


def prompt(
    number: int, text: str, kind: str = "red_team", split: str = "train", category: str | None = None
) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {
        "prompt_id": prompt_id_of(messages, "seeds"),
        "messages": messages,
        "kind": kind,
        "source": "seeds",
        "source_row": f"seeds:{number}",
        "category": category,
        "split": split,
        "license": "mit",
    }


PROMPTS = [
    *(prompt(i, f"please explain seed topic {i} to me", category="red" if i % 2 else "blue") for i in range(6)),
    *(prompt(10 + i, f"please explain test topic {i} to me", split="test") for i in range(3)),
    prompt(20, "a helpful question about bread", kind="helpful"),
]


def seed(number: int, split: str = "train", category: str | None = None) -> Seed:
    return Seed(f"{number:04d}", f"seed {number}", split, category)


# --- drawing what each ask shows ----------------------------------------------------------------------


def test_seeds_are_single_turn_red_team_prompts_of_bearable_length() -> None:
    multi_turn = prompt(30, "first")
    multi_turn["messages"] += [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]
    with_system = prompt(31, "told by a system prompt")
    with_system["messages"] = [{"role": "system", "content": "s"}, *with_system["messages"]]
    rows = [multi_turn, with_system, prompt(32, "word " * 11), prompt(33, "helpful", kind="helpful")]
    assert [found.text for found in seeds_of(iter(rows), max_words=10)] == ["told by a system prompt"]


def test_draws_do_not_depend_on_the_order_of_the_prompts() -> None:
    config = Config(num_new=40)
    shuffled = random.Random(3).sample(PROMPTS, len(PROMPTS))
    drawn = [list(draw_shots(seeds_of(iter(rows), 100), config, 7)) for rows in (PROMPTS, shuffled)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != list(draw_shots(seeds_of(iter(PROMPTS), 100), config, 8))


def test_more_asks_leave_the_earlier_ones_as_they_were() -> None:
    seeds = [seed(i) for i in range(9)]
    few, many = (list(draw_shots(seeds, Config(num_new=n), 0)) for n in (10, 20))
    assert many[: len(few)] == few


LABELS = st.tuples(st.sampled_from(["train", "test"]), st.sampled_from(["red", "blue", None]))


@given(
    st.lists(LABELS, min_size=1, max_size=9),
    st.integers(1, 5),
    st.booleans(),
)
@settings(max_examples=50)
def test_an_ask_never_mixes_splits(labels: list[tuple[str, str | None]], num_shots: int, one_category: bool) -> None:
    seeds = [seed(i, split, category) for i, (split, category) in enumerate(labels)]
    by_id = {found.prompt_id: found for found in seeds}
    config = Config(num_new=20, num_shots=num_shots, one_category=one_category)
    for row in draw_shots(seeds, config, 1):
        shots = [by_id[shot] for shot in row["shot_ids"]]
        assert 1 <= len(shots) == len({shot.prompt_id for shot in shots}) <= num_shots
        assert {shot.split for shot in shots} == {row["split"]}
        categories = {shot.category for shot in shots}
        assert row["category"] == (categories.pop() if len(categories) == 1 else None)
        assert not one_category or not categories
        assert row["shots"] == [shot.text for shot in shots]


def test_asks_cover_the_prompts_wanted() -> None:
    assert Config(num_new=10, per_ask=4, surplus=1.0).num_asks == 3
    assert Config(num_new=10, per_ask=4, surplus=2.0).num_asks == 5


# --- one ask ------------------------------------------------------------------------------------------


class OneReply:
    """An Ask that gives one reply and remembers what it was asked."""

    max_model_len: int | None = None

    def __init__(self, text: str, finish_reason: str = "stop") -> None:
        self.completion = Completion(text, finish_reason)
        self.asked: list[tuple[Any, SamplingConfig]] = []

    async def __call__(self, messages: Any, sampling: SamplingConfig) -> Completion:
        self.asked.append((messages, sampling))
        return self.completion

    async def choose(self, messages: Any, options: Any) -> list[float]:
        raise AssertionError("expand never chooses")

    def count_tokens(self, messages: Any) -> int | None:
        return None


UNIT = {"row_id": "expand/00000000", "split": "train", "category": "red", "shot_ids": ["a"], "shots": ["show me"]}


def test_an_ask_shows_its_shots_and_reads_the_list() -> None:
    ask, config = OneReply("1. tell me\n2. help me"), Config(per_ask=2)
    row = asyncio.run(expand(UNIT, ask, config=config))
    assert row == {
        "ask_id": "expand/00000000",
        "split": "train",
        "category": "red",
        "shot_ids": ["a"],
        "requests": ["tell me", "help me"],
        "truncated": False,
    }
    [(messages, sampling)] = ask.asked
    assert "1. show me\n\nWrite 2 new requests" in messages[0]["content"] and sampling == config.sampling


@pytest.mark.parametrize(("text", "reason"), [("  ", DropReason.EMPTY_RESPONSE), ("...", DropReason.UNPARSABLE)])
def test_a_reply_without_requests_is_dropped(text: str, reason: DropReason) -> None:
    with pytest.raises(DropRow) as caught:
        asyncio.run(expand(UNIT, OneReply(text), config=Config()))
    assert caught.value.reason == reason


def test_the_job_travels() -> None:
    job = expand_prompts.ask_job(Config(), ModelConfig(path="some/model"), 3)
    again = pickle.loads(pickle.dumps(job))
    assert again.schema == job.schema and again.converse.keywords == job.converse.keywords  # type: ignore[attr-defined]


# --- the choice ---------------------------------------------------------------------------------------


def candidate(j: int, text: str, truncated: bool = False) -> Candidate:
    return Candidate(f"expand/0/{j}", f"expand/0/{j:06d}", text, "train", None, truncated)


def test_choose() -> None:
    long_text = "tell me in twenty words or so how one goes about painting an old wooden fence without making a mess"
    texts = [
        "Tell  me a JOKE please",  # repeats a seed
        "two words",
        "something new to ask",
        "Something new to ask",  # repeats the one before
        long_text.replace("old", "older"),  # nearly repeats a seed
        "another new thing to ask",
        "one too many things to ask",
        "cut off in the",
    ]
    candidates = [candidate(j, text, truncated=j == 7) for j, text in enumerate(texts)]
    seeds = [("s1", "tell me a joke please"), ("s2", long_text)]
    verdicts = choose(candidates, seeds, SelectionConfig(), num_new=2)
    reasons = [verdict.reason if verdict else None for verdict in (verdicts[c.row_id] for c in candidates)]
    assert reasons == [
        DropReason.DUPLICATE,
        LeftOutReason.LENGTH,
        None,
        DropReason.DUPLICATE,
        DropReason.NEAR_DUPLICATE,
        None,
        LeftOutReason.LIMIT,
        DropReason.TRUNCATED,
    ]
    exact_only = choose(candidates, seeds, SelectionConfig(near_duplicate_jaccard=None), num_new=9)
    assert exact_only["expand/0/4"] is None


@given(st.lists(st.text(st.sampled_from("ab \u00e9"), max_size=12), max_size=12), st.integers(1, 5))
@settings(max_examples=50)
def test_every_candidate_has_one_verdict(texts: list[str], num_new: int) -> None:
    candidates = [candidate(j, text) for j, text in enumerate(texts)]
    verdicts = choose(candidates, [], SelectionConfig(min_words=1), num_new)
    assert set(verdicts) == {c.row_id for c in candidates}
    kept = [c.text for c in candidates if verdicts[c.row_id] is None]
    assert len(kept) <= num_new and len({" ".join(text.split()) for text in kept}) == len(kept)


def test_limits_are_ordered() -> None:
    with pytest.raises(ValidationError, match="max_words=2 is below min_words=3"):
        SelectionConfig(max_words=2)


# --- the stage ----------------------------------------------------------------------------------------


def context_with(tmp_path: Path, prompts: list[dict[str, Any]]) -> Context:
    run = Storage(str(tmp_path))
    finished(spec_of(run / SOURCE, SOURCE, PROMPT_IDS, "f0"), PROMPT, prompts)
    models = {"policy": ModelConfig(path="scripted")}
    return Context(run, 5, models, {}, None, ClusterConfig(), {expand_prompts.STAGE: "f1"})


def answer_asks(config: Config, context: Context, script: Script) -> None:
    """Fill and commit the `asks` folder as the engine pool would, in this process."""
    folder = context.folder(expand_prompts.STAGE)
    source = context.artifact(SOURCE)
    spec = context.spec(expand_prompts.STAGE, config, PROMPT_IDS, source)
    shots = expand_prompts.draw_all(config, source, spec, context.seed)
    made = expand_prompts.ask_job(config, context.model("policy"), context.seed)
    job = ConversationJob(
        made.stage,
        made.seed,
        made.schema,
        made.converse,
        made.expand,
        lambda: ScriptedBackend(script),
        EngineConfig(),
        made.expected_tokens,
        made.count,
    )
    opened = open_stage(spec.inner(ASKS, ASK_IDS, shots))
    assert isinstance(opened, OpenStage)

    async def converse() -> list[str]:
        actor, ids = ConversationActor(job), []
        for table in shots.tables():
            ids += table["row_id"].to_pylist()
            async for outcomes in actor(table):
                commit_outcomes(folder / ASKS, job.schema, outcomes)
        return ids

    opened.commit(pa.array(asyncio.run(converse()), pa.string()))


def script(row_id: str, messages: Any, seed: int) -> str:
    """Ask 0 comes to nothing; every other repeats a seed, is too short once, and writes one of its own."""
    number = int(row_id.rsplit("/", 1)[1])
    if number == 0:
        return "!"
    return f"1. please explain seed topic 1 to me\n2. short\n3. a fresh question numbered {number} about gardens"


def finish(config: Config, tmp_path: Path, prompts: list[dict[str, Any]] = PROMPTS) -> tuple[Artifact, Context]:
    context = context_with(tmp_path, prompts)
    answer_asks(config, context, script)
    return expand_prompts.run(config, context, SOURCE), context


SMALL = Config(num_new=4, per_ask=2, surplus=3.0, selection=SelectionConfig(near_duplicate_jaccard=None))


def test_every_seed_request_and_failed_ask_is_accounted_for(tmp_path: Path) -> None:
    artifact, _ = finish(SMALL, tmp_path)
    rows, dropped = list(artifact.rows()), [*artifact.dropped(), *artifact.left_out()]
    assert SMALL.num_asks == 6
    units = [row["source_row"] for row in rows] + [row["row_id"] for row in dropped]
    expected = [row["source_row"] for row in PROMPTS] + ["expand/00000000"]
    expected += [f"expand/{i:08d}/{j}" for i in range(1, 6) for j in range(3)]
    assert sorted(units) == sorted(expected)
    assert artifact.manifest.rows_in == len(expected)
    assert artifact.manifest.rows_dropped == {"duplicate": 5, "unparsable": 1}
    assert artifact.manifest.rows_left_out == {"length": 5, "limit": 1}
    assert Counter(row["stage"] for row in dropped) == {expand_prompts.STAGE: 12}
    assert artifact.manifest.counters["num_asks"] == 5 and artifact.manifest.counters["num_requests"] == 6


def test_new_prompts_carry_what_is_known_of_them(tmp_path: Path) -> None:
    artifact, context = finish(SMALL.model_copy(update={"one_category": True}), tmp_path)
    new = [row for row in artifact.rows() if row["source"] == "expanded"]
    asks = {row["ask_id"]: row for row in Artifact(context.folder(expand_prompts.STAGE) / ASKS).rows()}
    assert len(new) == 4 and len({row["prompt_id"] for row in artifact.rows()}) == artifact.manifest.rows_out
    for row in new:
        ask = asks[row["source_row"].rsplit("/", 1)[0]]
        assert (row["split"], row["category"]) == (ask["split"], ask["category"])
        assert (row["kind"], row["license"]) == ("red_team", None)
        assert row["prompt_id"] == prompt_id_of(row["messages"], "expanded")
    assert [row for row in artifact.rows() if row["source"] == "seeds"] == PROMPTS


def test_seeds_can_be_left_behind(tmp_path: Path) -> None:
    artifact, _ = finish(SMALL.model_copy(update={"keep_seeds": False}), tmp_path)
    assert {(row["kind"], row["source"]) for row in artifact.rows()} == {("red_team", "expanded"), ("helpful", "seeds")}
    assert artifact.manifest.rows_left_out == {"length": 5, "limit": 1, "seed": 9}


def test_a_second_run_changes_nothing_and_a_crashed_one_ends_the_same(tmp_path: Path) -> None:
    artifact, context = finish(SMALL, tmp_path)
    folder = context.folder(expand_prompts.STAGE)
    manifest = folder.read("manifest.json")
    assert expand_prompts.run(SMALL, context, SOURCE).manifest == artifact.manifest
    assert folder.read("manifest.json") == manifest

    files = artifact.manifest.files, artifact.manifest.dropped_files
    folder.delete("manifest.json")  # as if the driver had died right before its commit
    again = expand_prompts.run(SMALL, context, SOURCE)
    assert (again.manifest.files, again.manifest.dropped_files) == files
    assert again.manifest.attempts == 2


def test_other_settings_are_refused(tmp_path: Path) -> None:
    _, context = finish(SMALL, tmp_path)
    other = Context(context.run, 5, context.models, {}, None, context.cluster, {expand_prompts.STAGE: "f2"})
    with pytest.raises(ConfigError, match="num_new: 4 -> 5"):
        expand_prompts.run(SMALL.model_copy(update={"num_new": 5}), other, SOURCE)


def test_no_seed_is_a_config_error(tmp_path: Path) -> None:
    context = context_with(tmp_path, [prompt(0, "only a helpful one", kind="helpful")])
    with pytest.raises(ConfigError, match="expand finds no seed"):
        expand_prompts.run(SMALL, context, SOURCE)
