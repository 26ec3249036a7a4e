"""The reward model's own updates: from slopes of scores, whatever the passes, the gradient of the loss itself."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.testing import assert_close

from cai_ray.algorithms.guards import GuardState
from cai_ray.config import OptimConfig
from cai_ray.engines.learners.job import LearnersConfig
from cai_ray.engines.learners.learners import PLACEHOLDER
from cai_ray.engines.learners.learning import Guards, Learning
from cai_ray.engines.learners.models import Models
from cai_ray.engines.learners.nets import score_net, turn_dropout_off
from cai_ray.engines.learners.optim import Trained
from cai_ray.engines.learners.packing import Packed, pack
from cai_ray.engines.learners.passes import Passes
from cai_ray.engines.training.arguments import Device
from cai_ray.engines.training.worker_group import Place
from cai_ray.stages.ppo.refresh.relearning import slopes_of
from tests.policy_jobs import policy_job
from tests.tiny_models import save_tiny

OPTIM = OptimConfig(learning_rate=1e-2, batch_size=4, max_grad_norm=0.5)
TARGETS = [0.9, 0.6, 1.0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("reward"), classifier=True)


def net_of(folder: Path) -> Any:
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    net = score_net(AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32))
    turn_dropout_off(net)
    return net


def learning(folder: Path, tokens_per_pass: int) -> Learning:
    workers = LearnersConfig(tokens_per_pass=tokens_per_pass)
    trained = Trained(net_of(folder), OPTIM, workers, Device(is_gpu=False, has_bf16=False), total_updates=1)
    models = Models(None, None, cast(Any, None), None, None, reward=trained.net, reward_trained=trained)
    job = replace(policy_job(folder, folder, folder), workers=workers, reward_optim=OPTIM)
    place = Place(0, 1, 0, 1)
    return Learning(job, place, Passes(workers, place, torch.device("cpu")), models, Guards(GuardState(), GuardState()))


def conversations() -> list[tuple[int, ...]]:
    """Those of three pairs: all chosen, then all rejected; of different length."""
    rng = random.Random(0)
    return [tuple(rng.randrange(3, 250) for _ in range(rng.randint(2, 20))) for _ in range(2 * len(TARGETS))]


def packed(slopes: list[float] | None = None) -> Packed:
    ids = conversations()
    columns = {} if slopes is None else {"slopes": [(slope,) for slope in slopes]}
    return pack(ids, [PLACEHOLDER] * len(ids), columns)


def scores(learner: Learning) -> list[float]:
    found = learner.rewards(packed())
    return [float(found["score"][list(found["which"]).index(n)]) for n in range(2 * len(TARGETS))]


@pytest.mark.parametrize("tokens_per_pass", [8, 4096], ids=["each conversation alone", "all in one pass"])
def test_an_update_is_the_one_of_the_loss_itself(folder: Path, tokens_per_pass: int) -> None:
    learner = learning(folder, tokens_per_pass)
    before = scores(learner)
    loss, slopes = slopes_of(before, TARGETS, centring=0.1)
    stats = learner.reward_step(packed(slopes))

    plain = net_of(folder)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2, betas=OPTIM.betas, weight_decay=0.0)
    direct = [plain.model(input_ids=torch.tensor([ids])).logits[0, 0] for ids in conversations()]
    assert before == pytest.approx([score.item() for score in direct], abs=1e-5)
    chosen, rejected = torch.stack(direct).chunk(2)
    whole = binary_cross_entropy_with_logits(chosen - rejected, torch.tensor(TARGETS))
    whole = whole + 0.1 * ((chosen + rejected) ** 2).mean()
    assert loss == pytest.approx(float(whole), abs=1e-5)
    whole.backward()
    norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), OPTIM.max_grad_norm)
    optimizer.step()
    assert stats == pytest.approx({"learning_rate": 1e-2, "grad_norm": float(norm), "skipped": 0.0}, rel=1e-4)
    ours = dict(learner._models.reward_trained.module.named_parameters())  # type: ignore[union-attr]
    for name, expected in plain.named_parameters():
        assert_close(ours[name], expected, rtol=1e-3, atol=1e-4, msg=name)
    assert slopes_of(scores(learner), TARGETS, centring=0.1)[0] < loss


def test_a_gradient_that_is_no_number_changes_nothing(folder: Path) -> None:
    learner = learning(folder, 4096)
    before = scores(learner)
    stats = learner.reward_step(packed([float("nan")] * (2 * len(TARGETS))))
    assert stats["skipped"] == 1.0 and scores(learner) == before


def test_those_that_learn_are_those_that_are_saved(folder: Path) -> None:
    models = learning(folder, 4096)._models
    assert list(models.trained) == ["reward"]
    assert replace(models, reward_trained=None).trained == {}
    models.close()
