"""A conversation and its answer as token ids to train on: the prompt as the engine sees it, then what it is to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cai_ray.chat import Message, Renderer
from cai_ray.config import ThinkingConfig
from cai_ray.errors import ConfigError

_PROBE = "ANSWER-PROBE"
IGNORED = -100  # the label of a token that is not learned


@dataclass(frozen=True)
class TrainingTokens:
    """One example."""

    prompt_ids: list[int]  # equal to what the engine is sent for the same messages
    answer_ids: list[int]  # ends with the token that ends the turn

    @property
    def input_ids(self) -> list[int]:
        return [*self.prompt_ids, *self.answer_ids]

    @property
    def labels(self) -> list[int]:
        """[num_tokens]: the loss is on the answer only."""
        return [*([IGNORED] * len(self.prompt_ids)), *self.answer_ids]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)


class AnswerTokens:
    """Tokenises whole examples for one tokenizer and prompt format.

    Prompt and answer are tokenised apart, as they are at inference, so that no token spans the border. What stands
    between them and behind the answer is found by rendering a probe. Raises ConfigError when the chat template
    leaves the assistant's turn out, or renders a conversation otherwise once its answer is there.
    """

    def __init__(self, renderer: Renderer, thinking: ThinkingConfig | None = None) -> None:
        self._renderer = renderer
        self._before, self._after = _frame(renderer, thinking)

    @property
    def end_id(self) -> int:
        """The token that ends an answer; the model must stop at it."""
        return self._renderer.encode(self._after, is_start=False)[-1]

    def __call__(self, messages: Sequence[Message]) -> TrainingTokens:
        """`messages` end in the answer, role "assistant"."""
        safe, _ = self._renderer.neutralised(messages)
        *prompt, answer = safe
        prompt_ids = self._renderer.encode(self._renderer.text(prompt))
        text = f"{self._before}{answer['content'].strip()}{self._after}"
        return TrainingTokens(prompt_ids, self._renderer.encode(text, is_start=False))


def _frame(renderer: Renderer, thinking: ThinkingConfig | None) -> tuple[str, str]:
    """The text between prompt and answer, and the text from the answer to the end of its turn."""
    end: str | None = renderer.tokenizer.eos_token
    if renderer.format == "transcript":
        if end is None:
            raise ConfigError("the tokenizer has no end token, so a model could not learn to stop; give it one")
        return " ", end
    question = [{"role": "user", "content": "u"}]
    prompt = renderer.text(question)
    whole = renderer.rendered([*question, {"role": "assistant", "content": _PROBE}])
    head, found, tail = whole.rpartition(_PROBE)
    if not found:
        raise ConfigError(
            "the chat template drops the assistant's turn, so there would be nothing to learn; "
            "set models.<name>.chat_template to a Jinja file that renders it"
        )
    if head.startswith(prompt):
        before = head[len(prompt) :]
    elif thinking is not None and thinking.opened_by_template:
        before = f"\n{thinking.close}\n\n"  # the prompt ends in an opened thought: learned is to have none
    else:
        raise ConfigError(
            "the chat template renders a conversation otherwise once its answer is there, so training would show the "
            "model other prompts than it is asked; set models.<name>.chat_template to a Jinja file that does not"
        )
    return before, _end_of_turn(tail, renderer.special_tokens, end)


def _end_of_turn(tail: str, special_tokens: Sequence[str], end: str | None) -> str:
    """What follows an answer, up to the first control token; the end token where the template writes none."""
    ends = [(tail.index(token), -len(token), token) for token in special_tokens if token in tail]
    if ends:
        start, _, token = min(ends)
        return tail[: start + len(token)]
    if end is None:
        raise ConfigError(
            "neither the chat template nor the tokenizer ends the assistant's turn with a control token, "
            "so a model could not learn to stop; give the tokenizer an end token"
        )
    return end
