"""Weights from learners to rollout engines after every step, and the proof that they arrived.

Learners gather their weights bucket by bucket and hand them to a `WeightSender`. From there they go through host
memory (a WeightStore, any CPU or GPU) or over NCCL (GPUs that are not shared). A sync that silently did nothing, or
half of it, would train a policy on another one's samples: so engine and learner are compared on the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from cai_ray.engines.models.agreement import TOLERANCE, largest_gap
from cai_ray.engines.rollouts.engines import RolloutEngines
from cai_ray.engines.rollouts.worker import Sequences
from cai_ray.engines.weights.sender import SendsWeights


class WeightSyncFailed(RuntimeError):
    """Learners and rollout engines disagree about the weights. Nothing sampled from here on can be trusted."""


class WeightSync:
    """Keeps rollout engines at the learners' weights. One per loop, in the driver."""

    def __init__(self, learners: SendsWeights, engines: RolloutEngines) -> None:
        self._learners, self._engines = learners, engines
        engines.resend = lambda: self._push(engines.version)

    def push(self, version: int) -> None:
        """Bring the learners' weights to every engine, and call them `version`.

        Rollouts on their way are finished first, with the weights they began with. Engines that sleep are woken.
        Raises WeightSyncFailed, EngineGaveUp, and what `learners.send_weights` raises.
        """
        self._push(version)
        self._engines.version = version

    def _push(self, version: int) -> None:
        engines = self._engines
        engines.wake()
        serial = engines.newest().serial
        if engines.transport == "nccl":
            self._send_past_the_store(version)
        else:
            self._learners.send_weights(engines.transfer_info(version))
            engines.ask_all("pull")
        newest = engines.newest()
        if newest.serial == serial or newest.version != version:
            raise WeightSyncFailed(
                f"the learners sent nothing for version {version}: send_weights must stream every bucket through "
                "WeightSender(info) and call finish()"
            )

    def _send_past_the_store(self, version: int) -> None:
        """Learners and engines are one process group for the time of the transfer: nothing may be in flight."""
        self._engines.ask_all("hold")
        is_done = False
        try:
            self._learners.send_weights(self._engines.transfer_info(version))
            is_done = True
        finally:
            self._engines.ask_all("release", is_done)

    def prove(
        self, sequences: Sequences, learner_logprobs: Sequence[Sequence[float]], tolerance: float = TOLERANCE
    ) -> None:
        """Compare every engine with the learners on the same tokens.

        Args:
            sequences: (prompt ids, response ids), both non-empty. What an engine's context does not hold is left out.
            learner_logprobs: of the response tokens, nats, at temperature 1, of the weights last pushed.
            tolerance: nats of the worst token; TOLERANCE suits float32, bfloat16 needs HALF_PRECISION_WORST.

        Raises:
            WeightSyncFailed: a gap above `tolerance`, or a number that is none; names engine, sequence and token.
            ValueError: the two lists do not fit together.
        """
        fitting = fit(sequences, learner_logprobs, self._engines.max_model_len)
        found = self._engines.logprobs([sequence for sequence, _ in fitting])
        for number, logprobs in enumerate(found):
            gap = largest_gap(logprobs, [expected for _, expected in fitting])
            if not gap.nats <= tolerance:  # NaN too
                token = fitting[gap.sequence][0][1][gap.token]
                raise WeightSyncFailed(
                    f"rollout engine {number}, weights of version {self._engines.version}: response token {gap.token} "
                    f"(id {token}) of sequence {gap.sequence} has log-probability {gap.found:.6f}, the learners say "
                    f"{gap.expected:.6f}: {gap.nats:.6f} nats apart, more than {tolerance:g}. The engine has other "
                    "weights than the learners"
                )


def fit(
    sequences: Sequences, learner_logprobs: Sequence[Sequence[float]], max_model_len: int
) -> list[tuple[tuple[tuple[int, ...], tuple[int, ...]], tuple[float, ...]]]:
    """Sequences with their log-probabilities, responses cut to what a context holds beside one more token.

    Raises ValueError when there is nothing to compare or the lengths differ.
    """
    fitting = []
    for number, ((prompt, response), logprobs) in enumerate(zip(sequences, learner_logprobs, strict=True)):
        if len(response) != len(logprobs):
            raise ValueError(f"sequence {number}: {len(response)} response tokens, {len(logprobs)} log-probabilities")
        room = max_model_len - 1 - len(prompt)
        if prompt and response and room > 0:
            fitting.append(((tuple(prompt), tuple(response[:room])), tuple(logprobs[:room])))
    if not fitting:
        raise ValueError("no sequence to prove a sync with")
    return fitting
