"""How like an answer is to a reference, by embeddings.  Answer -> Judgement."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from cai_ray.artifacts.artifact import Artifact
from cai_ray.config import ModelConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.errors import ConfigError
from cai_ray.lookup import InputFile
from cai_ray.metrics.names import SCORE
from cai_ray.stages.evaluation.judges.base import (
    AnswerJudge,
    Prompts,
    Row,
    RowFunction,
    answer_units,
    judgement,
    read_text,
)


class SimilarityJudge(AnswerJudge):
    """Cosine of an answer's embedding and a reference's, by a model that vLLM can embed with."""

    kind: Literal["similarity"] = "similarity"
    reference_policy: str | None = Field(None, description="A policy; its answers are the others' references.")
    references: InputFile | None = Field(
        None, description='Or a file of JSON lines {"prompt": last message, "reference": text}.'
    )

    endpoint: ClassVar[Literal["may", "must", "never"]] = "never"

    @model_validator(mode="after")
    def _one_source(self) -> SimilarityJudge:
        if (self.reference_policy is None) == (self.references is None):
            raise ValueError("similarity needs a reference: set reference_policy or references, and not both")
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        return (f"similarity_{SCORE}",)

    def files(self) -> tuple[str, ...]:
        return (self.references,) if self.references else ()

    def check_policies(self, policies: Sequence[str]) -> None:
        if self.reference_policy not in (None, *policies):
            raise ValueError(
                f"reference_policy={self.reference_policy!r} is not among policies ({', '.join(policies)})"
            )

    def row_function(self, model: ModelConfig, seed: int) -> RowFunction:
        return partial(compare_to_reference, judge=self)

    def engine(self, model: ModelConfig) -> Callable[[], Any]:
        return partial(_backend, model)

    def units(self, answers: Mapping[str, Artifact]) -> Callable[[pa.Table], pa.Table]:
        if self.references is not None:
            references = References(None, {}, read_references(self.references))
        else:
            policy = str(self.reference_policy)
            references = References(policy, by_answer(answers[policy]), {})
        return partial(referred_units, prompts=self.prompts, references=references)

    def check(self, model: ModelConfig, seed: int) -> None:
        super().check(model, seed)
        if self.references is not None:
            read_references(self.references)


def _backend(model: ModelConfig) -> Any:
    from cai_ray.engines.backends.embedding import EmbeddingBackend

    return EmbeddingBackend(model)


async def compare_to_reference(row: Row, ask: Any, *, judge: SimilarityJudge) -> Row:
    """Cosine of the embeddings of `response` and `reference`, in [-1, 1]. Raises DropRow(UNPARSABLE).

    `ask`: the door of an EmbeddingBackend.
    """
    one, other = await ask.embed(row["response"]), await ask.embed(row["reference"])
    norms = math.hypot(*one) * math.hypot(*other)
    if not norms or not math.isfinite(norms):
        raise DropRow(DropReason.UNPARSABLE, "an embedding is zero or not a number")
    cosine = sum(x * y for x, y in zip(one, other, strict=True)) / norms
    return judgement(row, judge, {judge.metrics[0]: max(-1.0, min(1.0, cosine))})


# --- References -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class References:
    """Texts that answers are compared with."""

    policy: str | None  # the one that gave them: its own answers are not compared
    by_answer: Mapping[str, str]  # "<prompt_id>/<sample_index>" -> text
    by_prompt: Mapping[str, str]  # a prompt's last message, stripped -> text

    def of(self, row: Row) -> str | None:
        if row["policy"] == self.policy:
            return None
        own = self.by_answer.get(f"{row['prompt_id']}/{row['sample_index']}")
        return self.by_prompt.get(row["messages"][-1]["content"].strip()) if own is None else own


def referred_units(rows: pa.Table, *, prompts: Prompts, references: References) -> pa.Table:
    """Answer rows -> units of work: those that have a reference, with it."""
    units = answer_units(rows, prompts=prompts)
    named = units.select(["policy", "prompt_id", "sample_index", "messages"]).to_pylist()
    texts = pa.array([references.of(row) for row in named], pa.string())
    return units.append_column("reference", texts).filter(pc.is_valid(texts))


def by_answer(responses: Artifact) -> dict[str, str]:
    """ "<prompt_id>/<sample_index>" -> a policy's answer."""
    rows = responses.rows(["prompt_id", "responses"])
    return {f"{row['prompt_id']}/{k}": text for row in rows for k, text in enumerate(row["responses"])}


def read_references(path: str) -> dict[str, str]:
    """A prompt's last message, stripped -> text. Raises ConfigError for a file that is not JSON lines of the two."""
    found: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            prompt, reference = record["prompt"].strip(), record["reference"]
            if not isinstance(reference, str):
                raise TypeError("reference is no text")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f'{path}, line {number}: {type(error).__name__}: {error}; a line is {{"prompt": "the last '
                'message", "reference": "a good answer"}'
            ) from error
        found[prompt] = reference
    return found
