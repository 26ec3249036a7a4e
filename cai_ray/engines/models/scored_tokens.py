"""A conversation and its answer as token ids to score, and the token at which they are scored.

A conversation is rendered and tokenised as one text, as stock transformers and vLLM's API do with messages. (To train
or ask a policy, prompt and answer are tokenised apart: `answer_tokens`.)

A finished conversation ends at the token that closes the assistant's turn: "<|im_end|>" of ChatML, "<|eot_id|>" of
Llama 3, the end-of-sequence token where a template closes no turn. Whatever a template writes behind it (ChatML: a
line break) is cut, so the last token is always that one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cai_ray.chat import Message, Renderer, with_system_role
from cai_ray.config import ModelConfig, SystemRole
from cai_ray.errors import ConfigError

PROBE = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer-probe"}]
# Base models: hh-rlhf's transcript, as `chat.messages_to_transcript` writes it.
TRANSCRIPT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '\\n\\n' }}"
    "{% if message['role'] == 'user' %}{{ 'Human: ' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' }}{% endif %}"
    "{{ message['content'] }}"
    "{% endfor %}"
)


class ScoredTokens:
    """Encodes finished conversations for one model; control tokens spelt out in their text are defused.

    Attributes:
        tokenizer: the one given.
        end_token_id: the last token of every encoded conversation.

    Raises ConfigError when there is no end token, it is also the padding token, or the template drops the answer.
    """

    def __init__(self, model: ModelConfig, tokenizer: Any) -> None:
        self.tokenizer = tokenizer  # of `engines.models.load_tokenizer`, which has the recipe's chat template
        self._template = _template(model, tokenizer)
        self._renderer = Renderer(
            tokenizer, "chat", model.system_role, self._template, model.chat_template_kwargs, model.template_date
        )
        text = self._text(PROBE)
        if PROBE[-1]["content"] not in text:
            raise ConfigError(
                f"model {model.path!r}: its chat template leaves the assistant's last turn out, so there is nothing to "
                "score or learn; set models.<name>.chat_template to a template that writes it"
            )
        ids = self._ids(text)
        self._closes_turns = ids[-1] in tokenizer.all_special_ids or ids[-1] in _special_added(tokenizer)
        if not self._closes_turns and tokenizer.eos_token_id is None:
            raise ConfigError(
                f"model {model.path!r}: its chat template ends in no control token and its tokenizer has no "
                "end-of-sequence token, so no token marks the end of an answer; give the tokenizer an eos_token"
            )
        self.end_token_id: int = ids[-1] if self._closes_turns else tokenizer.eos_token_id
        if tokenizer.pad_token_id is None or tokenizer.pad_token_id == self.end_token_id:
            raise ConfigError(
                f"model {model.path!r}: padding token {tokenizer.pad_token!r} is not apart from the end-of-turn token "
                f"{self.end_token!r}, so a classifier would score at the wrong place; give the tokenizer another "
                "pad_token"
            )

    @property
    def system_role(self) -> SystemRole:
        """What becomes of a system message: kept, folded into the first user turn, or dropped."""
        return self._renderer.system_role

    @property
    def end_token(self) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(self.end_token_id))

    def encode(self, messages: Sequence[Message], answer: str) -> list[int]:
        """The whole conversation, [num_tokens]; the last one is `end_token_id`."""
        ids = self._ids(self._text([*messages, {"role": "assistant", "content": answer}]))
        return ids if self._closes_turns else [*ids, self.end_token_id]

    def scoring_template(self) -> str:
        """A chat template that renders exactly what `encode` encodes, for the tokenizer of a saved classifier.

        Whoever then scores messages through it, in transformers or over vLLM's API, scores at the same token.
        """
        closing = "" if self._closes_turns else " ~ eos_token"
        variables = "".join(f"{{% set {name} = {value!r} %}}" for name, value in self._renderer.template_kwargs.items())
        return f"{variables}{{% set turns %}}{self._template}{{% endset %}}{{{{ turns.rstrip(){closing} }}}}"

    def _text(self, messages: Sequence[Message]) -> str:
        safe, _ = self._renderer.neutralised(with_system_role(messages, self._renderer.system_role))
        return self._renderer.rendered(safe).rstrip()

    def _ids(self, text: str) -> list[int]:
        # The template writes its own beginning-of-sequence token.
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids


def _template(model: ModelConfig, tokenizer: Any) -> str:
    """The Jinja template in force. Raises ConfigError when there is none."""
    if model.format == "chat":
        if not tokenizer.chat_template:
            raise ConfigError(
                f"model {model.path!r}: its tokenizer has no chat template; set models.<name>.chat_template to a Jinja "
                'file, or models.<name>.format to "transcript" for a base model'
            )
        return str(tokenizer.get_chat_template())
    first = tokenizer.encode("x", add_special_tokens=True)[0]
    starts_with_bos = tokenizer.bos_token_id is not None and first == tokenizer.bos_token_id
    return ("{{ bos_token }}" if starts_with_bos else "") + TRANSCRIPT_TEMPLATE


def _special_added(tokenizer: Any) -> set[int]:
    return {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
