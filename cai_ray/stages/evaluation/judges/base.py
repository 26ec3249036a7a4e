"""What all judges share: their config, what they tell of themselves, and the row that a judgement ends in.

A judge is a model that scores the answers of `evaluate`. Each kind is one file of this folder: what a recipe may say
of it, its row function (what it asks and how it reads the reply) and the engine that it needs. Its metrics get its name
where another scorer has them already (scorers.py). A judgement that fails leaves its metrics without a value, and is
counted by reason; nothing is ever guessed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.identity import Input
from cai_ray.config import Config, ModelConfig, SamplingConfig, ScalingConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.factory import backend_factory
from cai_ray.engines.conversations.asking import Completion
from cai_ray.errors import ConfigError
from cai_ray.lookup import InputFile, location, searched
from cai_ray.prompts.comparison import nonce_for
from cai_ray.prompts.judges.yes_no import check_template
from cai_ray.row_ids import EVALUATION_IDS
from cai_ray.rows import ROW_ID
from cai_ray.seeding import stable_id

METRIC_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
Prompts = Literal["all", "red_team", "helpful"]
Row = dict[str, Any]
RowFunction = Callable[
    [Row, Any], Awaitable[Row]
]  # (unit of work, the door of the judge's engine) -> the row it ends in


class JudgeConfig(Config, ABC):
    """What all judges have."""

    model: str = Field(description="Of the recipe's models, or of those that its stages train.")
    name: str | None = Field(
        None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="On the rows and in the table; null: the model's."
    )
    prompts: Prompts = Field("all", description="Answers to which kind of prompts are judged.")
    scaling: ScalingConfig = ScalingConfig()

    endpoint: ClassVar[Literal["may", "must", "never"]] = "may"  # be what its model is
    # For `cai-ray plan`, tokens:
    frame_tokens: ClassVar[int] = 0  # the question's own words around what is judged, about
    verdict_tokens: ClassVar[int] = 0  # of a reply without reasons, about
    answers_per_question: ClassVar[int] = 1

    @property
    def label(self) -> str:
        return self.name or self.model

    @classmethod
    def kind_name(cls) -> str:
        """What a recipe calls this kind of judge."""
        return str(cls.model_fields["kind"].default)

    @property
    def is_asked(self) -> bool:
        """Whether the model is asked by chat, and so needs a prompt format."""
        return self.endpoint != "never"

    @property
    def reasoning(self) -> SamplingConfig | None:
        """How it samples when it says why; None where the verdict is all it says."""
        return None

    def questions_per_answer(self, num_policies: int) -> float:
        """Of each policy's answers."""
        return 1.0

    def files(self) -> tuple[str, ...]:
        """Files whose content decides the judgements."""
        return ()

    def lenders(self) -> tuple[str, ...]:
        """Models besides its own whose config and tokenizer it reads with."""
        return ()

    def check_policies(self, policies: Sequence[str]) -> None:
        """Raises ValueError for a policy that it names and `evaluate` does not."""

    @abstractmethod
    def row_function(self, model: ModelConfig, seed: int) -> RowFunction:
        """What is done with each unit of work; picklable. Raises ConfigError where every row would fail."""

    def engine(self, model: ModelConfig) -> Callable[[], Any]:
        """What makes its backend in an actor; picklable, and nothing heavy is imported before."""
        return backend_factory(model)

    @abstractmethod
    def units(self, answers: Mapping[str, Artifact]) -> Callable[[pa.Table], pa.Table]:
        """What makes units of work out of its input rows; picklable. `answers`: of each policy."""

    def check(self, model: ModelConfig, seed: int) -> None:
        """Raises ConfigError where every row would fail. Reads configs and files, and may ask an endpoint once."""
        told = f"judge {self.label!r}: kind {self.kind_name()!r}"
        if self.endpoint == "must" and model.endpoint is None:
            raise ConfigError(f"{told} asks a server; set models.{self.model}.endpoint")
        if self.endpoint == "never" and model.endpoint is not None:
            raise ConfigError(f"{told} loads its model by `path`; models.{self.model} is an endpoint")
        self.row_function(model, seed)


class AnswerJudge(JudgeConfig):
    """A judge of single answers: rows of ANSWER -> JUDGEMENT."""

    @property
    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """Every metric that it may give."""

    def units(self, answers: Mapping[str, Artifact]) -> Callable[[pa.Table], pa.Table]:
        return partial(answer_units, prompts=self.prompts)


class TemplateJudge(AnswerJudge):
    """A judge that reads one text, made from a template."""

    template: InputFile | None = Field(
        None, description="A text file with {generation} and {behavior} or {conversation}; null: our own words."
    )

    @property
    @abstractmethod
    def own_template(self) -> str:
        """The template where no file is named."""

    def files(self) -> tuple[str, ...]:
        return (self.template,) if self.template else ()

    def template_text(self) -> str:
        """Raises ConfigError for a file that is not there or leaves out what is judged."""
        text = self.own_template if self.template is None else read_text(self.template)
        try:
            check_template(text)
        except ValueError as error:
            raise ConfigError(f"{self.template}: {error}") from error
        return text


# --- Rows -----------------------------------------------------------------------------------------------


def answer_units(rows: pa.Table, *, prompts: Prompts) -> pa.Table:
    """Answer rows -> units of work: those to such prompts."""
    units = rows.append_column(ROW_ID, EVALUATION_IDS(rows))
    return units if prompts == "all" else units.filter(pc.equal(units["kind"], prompts))


def judgement(
    row: Row, judge: JudgeConfig, values: Mapping[str, float], labels: Sequence[str] = (), reply: str | None = None
) -> Row:
    """A row of the JUDGEMENT schema."""
    return {
        "policy": row["policy"],
        "prompt_id": row["prompt_id"],
        "sample_index": row["sample_index"],
        "scores": [{"metric": metric, "value": value, "judge": judge.label} for metric, value in values.items()],
        "labels": list(labels),
        "reply": reply,
    }


def unparsable(what: str, completion: Completion) -> DropRow:
    """The reply itself is not quoted: it may repeat what was judged."""
    cut = ", cut off" if completion.finish_reason == "length" else ""
    return DropRow(DropReason.UNPARSABLE, f"the reply of {len(completion.text)} characters{cut} is not {what}")


def nonce_of(row: Row, seed: int) -> str:
    """For the marks around what is judged; in none of the texts between them."""
    return nonce_for(seed, row[ROW_ID], [*(message["content"] for message in row["messages"]), row["response"]])


def read_text(path: str) -> str:
    """Raises ConfigError for a file that cannot be read."""
    try:
        return Path(location(path)).expanduser().read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path!r}, which evaluate.judges names, is not there; {searched(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path!r}, which evaluate.judges names, cannot be read: {error}") from error


# --- The judges of a recipe -----------------------------------------------------------------------------


def asked_models(judges: Iterable[JudgeConfig]) -> tuple[str, ...]:
    """Names of the models that are asked by chat."""
    return tuple(dict.fromkeys(one.model for one in judges if one.is_asked))


def scoring_models(judges: Iterable[JudgeConfig]) -> tuple[str, ...]:
    """Names of the models that score texts, and need no prompt format."""
    return tuple(dict.fromkeys(one.model for one in judges if not one.is_asked))


def input_identity(judges: Iterable[JudgeConfig]) -> dict[str, Any]:
    """For the fingerprint: the content of the files that judges name. Raises ConfigError for an unreadable one."""
    return {path: stable_id(read_text(path)) for one in judges for path in one.files()}


def input_files(judges: Iterable[JudgeConfig]) -> list[Input]:
    """Templates and references that judges read, and models that lend them a tokenizer."""
    found = []
    for one in judges:
        purpose = f"of judge {one.label}"
        found += [Input(str(Path(location(path)).expanduser()), purpose) for path in one.files()]
        found += [Input(path, purpose, is_model=True) for path in one.lenders()]
    return found


def check_names(judges: Sequence[JudgeConfig], policies: Sequence[str]) -> None:
    """Raises ValueError for two judges of one name, and for a reference that no policy gives."""
    names = [one.label for one in judges]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"judges has {', '.join(repeated)} twice; give each its own `name`")
    for one in judges:
        one.check_policies(policies)
