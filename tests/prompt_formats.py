"""The chat templates in use, in short, each with a tokenizer of single bytes and a reading of what it renders."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from cai_ray.chat import Renderer
from cai_ray.config import SystemRole
from cai_ray.markup import TRANSCRIPT_LABELS

Turns = list[tuple[str, str]]
_TURNS = "{%- for m in messages %}"
_IM = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
_NO_SYSTEM = "{%- if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif -%}"


@dataclass(frozen=True)
class PromptFormat:
    """One format.

    Attributes:
        marks: pattern of a mark -> role of the text behind it; None: no turn's text.
        first: role of the text before any mark.
    """

    template: str | None
    specials: tuple[str, ...]
    marks: dict[str, str | None]
    first: str | None = None
    has_system: bool = True

    @property
    def format(self) -> Any:
        return "chat" if self.template else "transcript"

    def renderer(self, system_role: SystemRole = "auto", **options: Any) -> Renderer:
        return Renderer(self.tokenizer(), self.format, system_role, **options)

    def tokenizer(self) -> Any:
        return _tokenizer(self.template, self.specials)

    def parse(self, text: str) -> Turns:
        """The turns of a rendered prompt, contents stripped; the empty turn that is to be answered is left out."""
        found: Turns = []
        role, at = self.first, 0
        for mark in [*re.finditer("|".join(f"({pattern})" for pattern in self.marks), text), None]:
            content = text[at : mark.start() if mark else len(text)].strip()
            if role is not None and content:
                found.append((role, content))
            if mark is not None:
                assert mark.lastindex is not None
                role, at = list(self.marks.values())[mark.lastindex - 1], mark.end()
        return found


@cache
def _tokenizer(template: str | None, specials: tuple[str, ...]) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("<pad>", *specials)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=specials[-1], pad_token="<pad>")
    tokenizer.chat_template = template
    return tokenizer


def _headed(start: str, end: str, roles: tuple[str, ...], close: str) -> dict[str, str | None]:
    marks: dict[str, str | None] = {
        re.escape(start.format(role)): {"model": "assistant"}.get(role, role) for role in roles
    }
    return {**marks, re.escape(close): None}


_ROLES = ("system", "user", "assistant")
_CHATML = _headed("<|im_start|>{}\n", "", _ROLES, "<|im_end|>")

FORMATS: dict[str, PromptFormat] = {
    "llama": PromptFormat(
        "<|begin_of_text|>" + _TURNS + "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
        "<|eot_id|>{%- endfor %}"
        "{%- if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif -%}",
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        {
            re.escape("<|begin_of_text|>"): None,
            **_headed("<|start_header_id|>{}<|end_header_id|>\n\n", "", _ROLES, "<|eot_id|>"),
        },
    ),
    "qwen2": PromptFormat(
        _TURNS + "{%- if loop.first and m.role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
        + _IM + "{% endfor -%}{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif -%}",
        ("<|im_start|>", "<|im_end|>"),
        _CHATML,
    ),
    "qwen3": PromptFormat(
        _TURNS + "{%- set last = loop.last %}"
        "{%- if m.role == 'user' and m.content.startswith('<tool_response>') %}<|im_start|>user\n<|im_end|>\n"
        "{%- elif m.role == 'assistant' %}<|im_start|>assistant\n"
        "{% if last %}<think>\n\n</think>\n\n{% endif %}{{ m.content.split('</think>')[-1].lstrip('\n') }}<|im_end|>\n"
        "{% else %}" + _IM + "{% endif %}{% endfor -%}"
        "{%- if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif -%}",
        ("<|im_start|>", "<|im_end|>"),
        {**_CHATML, "<think>\n\n</think>\n\n": "assistant"},
    ),
    "mistral": PromptFormat(
        _NO_SYSTEM + "<s>" + _TURNS + "{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
        "{% else %} {{ m.content }}</s>{% endif %}{% endfor -%}",
        ("<s>", "</s>"),
        {"<s>": None, r"\[INST\]": "user", r"\[/INST\]": "assistant", "</s>": None},
        has_system=False,
    ),
    "gemma2": PromptFormat(
        _NO_SYSTEM + "<bos>" + _TURNS
        + "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
        "{% endfor -%}{%- if add_generation_prompt %}<start_of_turn>model\n{% endif -%}",
        ("<bos>", "<start_of_turn>", "<end_of_turn>"),
        {"<bos>": None, **_headed("<start_of_turn>{}\n", "", ("user", "model"), "<end_of_turn>")},
        has_system=False,
    ),
    "chatml": PromptFormat(
        _TURNS + _IM + "{% endfor -%}{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif -%}",
        ("<|im_start|>", "<|im_end|>"),
        _CHATML,
    ),
    "chatml as plain text": PromptFormat(
        _TURNS + _IM + "{% endfor -%}{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif -%}",
        ("</s>",),
        _CHATML,
    ),
    "llama2": PromptFormat(
        "{%- if messages[0].role == 'system' %}{% set ns = namespace(head='<<SYS>>\n' ~ messages[0].content ~ "
        "'\n<</SYS>>\n\n') %}{% set rest = messages[1:] %}{% else %}{% set ns = namespace(head='') %}"
        "{% set rest = messages %}{% endif %}{%- for m in rest %}"
        "{% if m.role == 'user' %}<s>[INST] {{ ns.head if loop.first else '' }}{{ m.content | trim }} [/INST]"
        "{% else %} {{ m.content | trim }} </s>{% endif %}{% endfor -%}",
        ("<s>", "</s>"),
        {
            "<s>": None, r"\[INST\]": "user", r"\[/INST\]": "assistant", "<<SYS>>": "system", "<</SYS>>": "user",
            "</s>": None,
        },
    ),
    "alpaca": PromptFormat(
        _TURNS + "{% if m.role == 'system' %}{{ m.content }}\n\n{% elif m.role == 'user' %}### Instruction:\n"
        "{{ m.content }}\n\n{% else %}### Response:\n{{ m.content }}</s>\n\n{% endif %}{% endfor -%}"
        "{%- if add_generation_prompt %}### Response:\n{% endif -%}",
        ("</s>",),
        {r"(?m:^)### Instruction:": "user", r"(?m:^)### Response:": "assistant", "</s>": None},
        first="system",
    ),
    "vicuna": PromptFormat(
        _TURNS + "{% if m.role == 'system' %}{{ m.content }} {% elif m.role == 'user' %}USER: {{ m.content }} "
        "{% else %}ASSISTANT: {{ m.content }}</s>{% endif %}{% endfor -%}"
        "{%- if add_generation_prompt %}ASSISTANT:{% endif -%}",
        ("</s>",),
        {r"(?<!\S)USER:": "user", r"(?<!\S)ASSISTANT:": "assistant", "</s>(?:USER:)?": "user"},
        first="system",
    ),
    "transcript": PromptFormat(
        None,
        ("<|endoftext|>",),
        {rf"(?:^|\n)\n{label}:": role for role, label in TRANSCRIPT_LABELS.items()},
        first="system",
    ),
}  # fmt: skip
