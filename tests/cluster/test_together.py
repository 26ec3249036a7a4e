"""What a run shares on real Ray: one connection for its stages, one execution for the policies that answer at once."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from cai_ray.artifacts.artifact import Artifact, find
from cai_ray.artifacts.storage import Storage
from cai_ray.chat import Message
from cai_ray.engines.backends.scripted import Script, ScriptedBackend
from cai_ray.errors import EngineGaveUp
from cai_ray.exits import EXIT_RETRYABLE, exit_code
from cai_ray.stages import sampled_responses
from cai_ray.stages.evaluation import evaluate
from cai_ray.stages.evaluation.folders import ANSWERS, STAGE
from tests import faults
from tests.scripted_choices import must_not_be_asked
from tests.stages.evaluation.evaluate_runs import microworld_prompts, run_evaluate, write_prompts

pytestmark = pytest.mark.slow
POLICIES = ("policy", "sl_cai", "rl_cai")
TWO_STAGES = """
import ray
from cai_ray.engines.cluster import ClusterConfig, connected, kept_connection

def node():
    with connected(ClusterConfig(object_store_gib=0.1)):
        return ray.get_runtime_context().get_node_id()

with kept_connection():
    with kept_connection():
        assert not ray.is_initialized(), "nothing is started before a stage needs it"
        nodes = {node(), node()}
    assert ray.is_initialized(), "it lasts until the outer end"
assert len(nodes) == 1, nodes
assert not ray.is_initialized()
assert node() not in nodes, "and outside of it every connection is one of its own"
assert not ray.is_initialized()
"""


@dataclass(frozen=True)
class Meets:
    """`echo`, once every policy has been asked."""

    policy: str
    folder: str

    async def __call__(self, row_id: str, messages: Sequence[Message], seed: int) -> str:
        (Path(self.folder) / self.policy).touch()
        for _ in range(600):
            if {file.name for file in Path(self.folder).iterdir()} == set(POLICIES):
                return f"{self.policy}: {faults.echo(row_id, messages, seed)}"
            await asyncio.sleep(0.1)
        raise EngineGaveUp("the other policies were not asked at the same time")


@dataclass(frozen=True)
class FailsLast:
    """An engine that cannot be had, once the other policies' rows are all committed."""

    records: tuple[str, ...]
    num_rows: int

    async def __call__(self, row_id: str, messages: Sequence[Message], seed: int) -> str:
        for _ in range(600):
            if all(self._num_done(folder) == self.num_rows for folder in self.records):
                raise EngineGaveUp("scripted")
            await asyncio.sleep(0.1)
        raise AssertionError(f"the others have not ended: {[self._num_done(folder) for folder in self.records]}")

    def _num_done(self, folder: str) -> int:
        records = [json.loads(file.read_bytes()) for file in Path(folder).glob("[!.]*.json")]
        return sum(record["rows"]["num_rows"] for record in records)


def test_stages_share_one_ray_and_it_ends_with_the_run() -> None:
    subprocess.run([sys.executable, "-c", TWO_STAGES], check=True, timeout=300)


class Evaluation:
    """`evaluate` of all policies at once, each a script, on 20 prompts."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run_folder, self._monkeypatch = folder / "run", monkeypatch
        self.meeting = folder / "meeting"
        self.meeting.mkdir()
        write_prompts(self.run_folder, microworld_prompts(24, num_train=4))
        self.config = evaluate.Config.model_validate(
            {
                "policies": POLICIES,
                "samples_per_prompt": 2,
                "scaling": {"policies_at_once": 3, "rows_per_task": 4, "rows_per_part": 8},
            }
        )

    def answers(self, policy: str) -> Storage:
        return Storage(str(self.run_folder)) / STAGE / ANSWERS / policy

    def run(self, **scripts: Script) -> Artifact:
        """The scripts of policies that do more than meet."""
        known = {name: scripts.get(name, Meets(name, str(self.meeting))) for name in POLICIES}
        self._monkeypatch.setattr(
            sampled_responses, "backend_factory", lambda model: partial(ScriptedBackend, known[model.path])
        )
        return run_evaluate(self.run_folder, self.config, POLICIES)


@pytest.fixture
def evaluation(ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluation:
    return Evaluation(tmp_path, monkeypatch)


def test_policies_answer_at_the_same_time(evaluation: Evaluation) -> None:
    manifest = evaluation.run().manifest
    assert (manifest.rows_out, manifest.num_dropped) == (3 * 20 * 2, 0)
    for name in POLICIES:
        answers = find(evaluation.answers(name))
        assert answers is not None
        rows = list(answers.rows())
        assert len(rows) == 20 and {row["policy"] for row in rows} == {name}
        assert all(text.startswith(f"{name}: ") for row in rows for text in row["responses"]), (
            "none in another's folder"
        )


def test_what_the_others_have_answered_outlives_a_policy_that_fails(evaluation: Evaluation) -> None:
    others = {name: must_not_be_asked for name in POLICIES if name != "sl_cai"}
    records = tuple(evaluation.answers(name).path("records") for name in others)
    (evaluation.meeting / "sl_cai").touch()
    with pytest.raises(Exception) as caught:  # Ray wraps the worker's error in types of its own making
        evaluation.run(sl_cai=FailsLast(records, 20))
    assert exit_code(caught.value) == EXIT_RETRYABLE
    assert evaluation.run(**others).manifest.rows_out == 3 * 20 * 2
