"""Real vLLM: weights that learners send arrive, provably; engines that are lost come back with the newest."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from cai_ray.algorithms.episodes import Episode, EpisodeRequest
from cai_ray.config import EngineConfig, ModelConfig, SamplingConfig
from cai_ray.engines.models.agreement import TOLERANCE
from cai_ray.engines.placement import spread
from cai_ray.engines.rollouts.engines import RolloutConfig, RolloutEngines
from cai_ray.engines.rollouts.sync import WeightSync, WeightSyncFailed
from cai_ray.engines.weights.sender import WeightSender
from cai_ray.errors import ConfigError, EngineGaveUp
from tests.runs import wait_for
from tests.small_policies import SmallLearners, save_small

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.usefixtures("ray_session")]
TEMPERATURE, PROMPT_TOKENS, MAX_TOKENS, CONTEXT = 0.7, 70, 120, 256
MAX_RESTARTS = 1
KINDS = [(False, 2), (False, 1), (True, 2), (True, 1)]  # tied or not, engines
on_two_engines = pytest.mark.parametrize("loop", KINDS[:1], ids=["untied-2"], indirect=True)


@dataclass
class Loop:
    """Learners, engines and the sync between them."""

    learners: SmallLearners
    engines: RolloutEngines
    sync: WeightSync
    num_engines: int

    def rollouts(self, num_prompts: int, samples: int = 2) -> list[EpisodeRequest]:
        return [
            EpisodeRequest(f"p{p}", s, tuple(10 + (7 * p + i) % 200 for i in range(PROMPT_TOKENS)), 1000 * p + s)
            for p in range(num_prompts)
            for s in range(samples)
        ]

    def sample(self, num_prompts: int = 6) -> list[Episode]:
        return self.engines.submit(self.rollouts(num_prompts)).result()

    def prove(self, episodes: list[Episode]) -> None:
        sequences = [(episode.prompt_ids, episode.response_ids) for episode in episodes]
        self.sync.prove(sequences, self.learners.logprobs(sequences))

    def sampler_gap(self, episodes: list[Episode]) -> float:
        """Between the log-probabilities an episode was sampled with and the learners', nats."""
        sequences = [(episode.prompt_ids, episode.response_ids) for episode in episodes]
        expected = self.learners.logprobs(sequences, TEMPERATURE)
        return max(
            abs(a - b)
            for episode, logprobs in zip(episodes, expected, strict=True)
            for a, b in zip(episode.logprobs, logprobs, strict=True)
        )


def start(folder: Path, num_engines: int) -> Loop:
    engine = EngineConfig(max_num_seqs=64, max_num_batched_tokens=2048, kv_cache_gib=0.25)
    engines = RolloutEngines(
        ModelConfig(path=str(folder), max_model_len=CONTEXT, engine=engine),
        RolloutConfig(num_engines=num_engines, bucket_bytes=2**16, max_restarts=MAX_RESTARTS),
        SamplingConfig(temperature=TEMPERATURE, max_tokens=MAX_TOKENS),
    )
    engines.start()
    learners = SmallLearners(folder)
    return Loop(learners, engines, WeightSync(learners, engines), num_engines)


@pytest.fixture(scope="module", params=KINDS, ids=["untied-2", "untied-1", "tied-2", "tied-1"])
def loop(request: pytest.FixtureRequest, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    tied, num_engines = request.param
    folder = save_small(tmp_path_factory.mktemp("policy"), tied=tied)
    started = start(folder, num_engines)
    yield started
    started.engines.close()


def process_of(loop: Loop, number: int) -> psutil.Process:
    """The actor of an engine."""
    return psutil.Process(loop.engines.wait(number, loop.engines.ask(number, "__ray_call__", lambda _: os.getpid())))


def engine_cores(*ancestors: psutil.Process) -> list[psutil.Process]:
    """vLLM's own processes among their descendants."""
    found = []
    for child in (child for ancestor in ancestors for child in ancestor.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            if "EngineCore" in child.name():
                found.append(child)
    return found


def test_after_every_sync_engines_and_learners_agree_and_before_it_they_do_not(loop: Loop) -> None:
    episodes = loop.sample()
    loop.prove(episodes)
    for version in (1, 2, 3):
        loop.learners.step()
        with pytest.raises(WeightSyncFailed, match=f"weights of version {version - 1}.*nats apart"):
            loop.prove(episodes)
        loop.sync.push(version)
        assert loop.engines.version == version
        assert len(loop.engines.newest().buckets) > 2
        loop.prove(episodes)
        # The same prompts again: a prefix that was cached with the old weights would show.
        episodes = loop.sample()
        assert {episode.policy_version for episode in episodes} == {version}
        assert loop.sampler_gap(episodes) < TOLERANCE


def test_episodes_are_whole(loop: Loop) -> None:
    requests = loop.rollouts(6, samples=3)
    episodes = loop.engines.submit(requests).result()
    end = loop.learners.model.config.eos_token_id
    assert [(e.prompt_id, e.sample_index, e.prompt_ids) for e in episodes] == [
        (r.prompt_id, r.sample_index, r.prompt_ids) for r in requests
    ]
    for episode in episodes:
        assert len(episode.logprobs) == len(episode.response_ids) > 0
        assert max(episode.logprobs) <= 0
        assert episode.truncated == (episode.response_ids[-1] != end)
        assert end not in episode.response_ids[:-1]
        assert not episode.truncated or len(episode.response_ids) == MAX_TOKENS
        assert "<|im_end|>" not in episode.text
    assert {episode.truncated for episode in episodes} == {True, False}
    assert len({episode.response_ids for episode in episodes}) == len(episodes)  # every request has its own seed
    again = loop.engines.submit(requests).result()
    assert [e.response_ids for e in again] == [e.response_ids for e in episodes]


def test_a_sync_lets_rollouts_on_their_way_finish(loop: Loop) -> None:
    before = loop.engines.version
    pending = loop.engines.submit(loop.rollouts(20))
    loop.learners.step()
    loop.sync.push(before + 1)
    later = loop.engines.submit(loop.rollouts(2))
    assert {episode.policy_version for episode in pending.result()} == {before}
    assert {episode.policy_version for episode in later.result()} == {before + 1}


def test_a_sync_that_breaks_off_changes_nothing(loop: Loop) -> None:
    version = loop.engines.version
    episodes = loop.sample()

    def half(info: dict[str, Any]) -> None:
        name, weight = next(loop.learners.model.named_parameters())
        WeightSender(info).send([(name, weight.detach() + 1)])
        raise OSError("the learner is gone")

    loop.learners.send_weights = half  # type: ignore[method-assign]
    try:
        with pytest.raises(OSError, match="gone"):
            loop.sync.push(version + 1)
        loop.learners.send_weights = lambda info: None  # type: ignore[method-assign]
        with pytest.raises(WeightSyncFailed, match="sent nothing for version"):
            loop.sync.push(version + 1)
    finally:
        del loop.learners.send_weights
    assert loop.engines.version == version
    loop.prove(episodes)
    assert {episode.policy_version for episode in loop.sample()} == {version}


def test_a_prompt_that_fills_the_context_is_refused_by_name(loop: Loop) -> None:
    full = EpisodeRequest("long", 0, (11,) * CONTEXT, 1)
    with pytest.raises(ConfigError, match=f"prompt long, sample 0 has {CONTEXT} tokens"):
        loop.engines.submit([*loop.rollouts(1), full]).result()
    almost = EpisodeRequest("almost", 0, (11,) * (CONTEXT - 1), 1)
    [episode] = loop.engines.submit([almost]).result()
    assert len(episode.response_ids) == 1


def test_what_is_cancelled_leaves_the_engines_to_the_next(loop: Loop) -> None:
    before = sum(use.num_tokens for use in loop.engines.use())
    loop.engines.submit(loop.rollouts(800)).cancel()
    loop.sync.push(loop.engines.version + 1)  # waits for what is in flight
    asked = sum(len(episode.response_ids) for episode in loop.sample(1))
    sampled = sum(use.num_tokens for use in loop.engines.use()) - before - asked
    assert sampled < 800 * 2 * MAX_TOKENS / 10


def check_loss(loop: Loop, lost: int, kill: Callable[[], None]) -> None:
    """Kill something of engine `lost` in the middle of rollouts: all come back, the other engine's only once."""
    kept = 1 - lost
    loop.learners.step()
    loop.sync.push(loop.engines.version + 1)
    starts, tokens = loop.engines.num_starts(), loop.engines.use()[kept].num_tokens
    requests = loop.rollouts(200)
    pending = loop.engines.submit(requests)
    busy_s = [use.busy_s for use in loop.engines.use()]
    wait_for(lambda: all(use.busy_s > b + 0.5 for use, b in zip(loop.engines.use(), busy_s, strict=True)), 300, "work")
    kill()
    episodes = pending.result()

    assert [(e.prompt_id, e.sample_index) for e in episodes] == [(r.prompt_id, r.sample_index) for r in requests]
    assert {episode.policy_version for episode in episodes} == {loop.engines.version}
    assert loop.sampler_gap(episodes) < TOLERANCE
    sampled = loop.engines.use()[kept].num_tokens - tokens
    assert sampled == sum(len(episodes[i].response_ids) for i in spread([r.prompt_id for r in requests], 2)[kept])
    loop.prove(episodes[:8])
    starts[lost] += 1
    assert loop.engines.num_starts() == starts


@on_two_engines
def test_a_killed_engine_comes_back_with_the_newest_weights_and_only_its_episodes_again(loop: Loop) -> None:
    check_loss(loop, 0, lambda: engine_cores(process_of(loop, 0))[0].kill())


@on_two_engines
def test_a_killed_actor_comes_back_too_and_leaves_no_process_behind(loop: Loop) -> None:
    left_over = process_of(loop, 1).children(recursive=True)
    check_loss(loop, 1, process_of(loop, 1).kill)
    assert not psutil.wait_procs(left_over, timeout=120)[1]
    loop.learners.step()
    loop.sync.push(loop.engines.version + 1)
    loop.prove(loop.sample())


@on_two_engines
def test_an_engine_that_dies_too_often_ends_it(loop: Loop) -> None:
    for starts in range(loop.engines.num_starts()[0], MAX_RESTARTS + 2):
        pending = loop.engines.submit(loop.rollouts(200))
        time.sleep(0.5)
        engine_cores(process_of(loop, 0))[0].kill()
        if starts <= MAX_RESTARTS:
            assert len(pending.result()) == 400
    with pytest.raises(EngineGaveUp, match=f"max_restarts={MAX_RESTARTS}"):
        pending.result()
