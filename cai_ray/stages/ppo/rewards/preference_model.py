"""The preference model's score as the reward, frozen or refreshed.

Tested in tests/stages/ppo/test_train_ppo.py and tests/stages/ppo/refresh/test_relearning.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cai_ray.algorithms.episodes import Episode
from cai_ray.stages.ppo.refresh.relearning import Relearning
from cai_ray.stages.ppo.rewards.scored import Rewarded
from cai_ray.stages.ppo.run_state import Carried, Training
from cai_ray.stages.ppo.snapshot import LoopState


@dataclass(frozen=True)
class PreferenceModelScore:
    """A `run_state.Reward`. `relearning`: how the model goes on learning; None: it stays as it is."""

    relearning: Relearning | None = None

    def rewarded(self, training: Training, state: LoopState, episodes: Sequence[Episode]) -> Rewarded:
        ids = [
            training.models.scored_ids(training.turns.prompt(episode.prompt_id).messages, episode.text)
            for episode in episodes
        ]
        found = training.machines.learners.score(episodes, ids)
        return Rewarded([replace(one, score=one.score - state.offset) for one in found] if state.offset else found)

    def num_due(self, step: int, num_steps: int) -> int:
        return self.relearning.config.num_due(step, num_steps) if self.relearning else 0

    def renewed(self, training: Training, carried: Carried) -> Carried:
        return self.relearning.done(training, carried) if self.relearning else carried
