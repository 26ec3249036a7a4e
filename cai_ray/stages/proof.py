"""What a training stage proves itself by: answers that engines of the run sampled from the weights that it starts from.

Tested in tests/stages/test_proof.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cai_ray.artifacts.artifact import find
from cai_ray.config import ModelConfig, ProofConfig
from cai_ray.engines.conversations.sampled import Sampled, read_sampled
from cai_ray.engines.training.proof import Proof
from cai_ray.stages.context import Context

MOST_TOKENS = 1024  # of prompt and answer together, of a stage's own answers


def proof_of(
    section: str,
    config: ProofConfig,
    context: Context,
    name: str,
    model: ModelConfig,
    own: Iterable[tuple[Sequence[int], Sequence[int]]],
) -> Proof | None:
    """None where the recipe turns it off.

    Args:
        name: of the model that the training starts from, as the recipe and its stages call it.
        own: (prompt ids, answer ids) of the stage's own data, for want of an engine's answers; may be long.
    """
    if not config.sequences:
        return None
    stage, answers = sampled_from(context, name, config.sequences)
    if not answers:
        answers = shortest(own, config.sequences)
    return Proof(section, config, model, tuple(answers), stage)


def sampled_from(context: Context, name: str, most: int) -> tuple[str, list[Sampled]]:
    """The first stage of the run whose engine kept answers of the model `name`, and at most `most` of them."""
    for stage in context.fingerprints:
        artifact = find(context.folder(stage))
        if artifact is None or artifact.manifest.config.get("model") != name:
            continue
        for place in (artifact.folder, *(artifact.folder / inner for inner in artifact.folder.folders())):
            if found := read_sampled(place, most):
                return stage, found
    return "", []


def shortest(answers: Iterable[tuple[Sequence[int], Sequence[int]]], most: int) -> list[Sampled]:
    """Of the first 256 that are not long, as answers that nobody sampled."""
    found: list[Sampled] = []
    for prompt, answer in answers:
        if prompt and answer and len(prompt) + len(answer) <= MOST_TOKENS:
            found.append(Sampled(tuple(prompt), tuple(answer), ()))
        if len(found) == 256:
            break
    return sorted(found, key=lambda one: (one.num_tokens, one.prompt_ids, one.answer_ids))[:most]
