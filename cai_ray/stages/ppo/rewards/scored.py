"""What a reward makes of a step's answers.

Tested in tests/stages/ppo/rewards/test_constitution.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cai_ray.algorithms.episodes import Scored


@dataclass(frozen=True)
class Rewarded:
    """A step's answers with their rewards.

    Attributes:
        scored: [num_episodes], in order; the score of an answer without a verdict is NaN.
        unread: positions of these; nothing is learned from them.
        measured: what the reward has to tell of this step, by key of metrics.jsonl.
        counters: of tokens and money, for the manifest.
        why: what kept verdicts from being read, in words.
    """

    scored: Sequence[Scored]
    unread: frozenset[int] = frozenset()
    measured: dict[str, float] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    why: str = ""

    @property
    def read(self) -> list[int]:
        """Positions of the answers that are learned from."""
        return [k for k in range(len(self.scored)) if k not in self.unread]
