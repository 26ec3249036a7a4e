"""Layouts that hold an answer to be learned: at the end of a conversation, beside a prompt, or the better of a pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from cai_ray.chat import Message
from cai_ray.dropped import DropReason, DropRow
from cai_ray.prompt_layouts.conversations import _raw_text, _transcript_turns, _turns
from cai_ray.prompt_layouts.pairs import JUDGED, ParsedPair, _list_or_transcript
from cai_ray.prompt_layouts.readings import Reading
from cai_ray.prompt_layouts.records import Fields, conversation, text_of

Example = list[Message]  # ends in an answer, which is not empty
ExampleLayout = Literal[
    "auto",
    "messages",
    "sharegpt",
    "ultrafeedback",
    "helpsteer",
    "helpsteer_preference",
    "chosen_rejected",
    "transcript",
    "prompt_completion",
]


def parse_messages(fields: Fields) -> Example:
    """OpenAI's and TRL's `messages`: a list of `{role, content}` that ends in an answer."""
    return _example(_turns(fields["messages"], "role", "content"))


def parse_sharegpt(fields: Fields) -> Example:
    """A list of `{from, value}` that ends in an answer."""
    return _example(_turns(fields["messages"], "from", "value"))


def parse_transcript(fields: Fields) -> Example:
    """ "\\n\\nHuman: ...\\n\\nAssistant: ..." that ends in an answer."""
    return _example(_transcript_turns(_raw_text(fields, "messages")))


def parse_prompt_completion(fields: Fields) -> Example:
    """TRL's `prompt` and `completion`, each text or a list of messages; `input` stands behind the instruction."""
    prompt, completion = fields["prompt"], fields["completion"]
    given = fields.label("input")
    if isinstance(prompt, str) and given is not None:
        prompt = f"{text_of(prompt, 'prompt')}\n\n{given}"
    turns = [{"role": "user", "content": text_of(prompt, "prompt")}] if isinstance(prompt, str) else None
    answer = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
    return _example([*(turns or _list_or_transcript(prompt, "prompt")), *_turns(answer, "role", "content")])


def _example(turns: list[Message]) -> Example:
    if not turns or turns[-1]["role"] != "assistant":
        raise DropRow(DropReason.MALFORMED, "the conversation does not end in an answer to learn")
    answer = turns[-1]["content"]
    prompt = conversation(turns, cut_final_answer=True)
    return [*prompt, {"role": "assistant", "content": answer}]


def _better(parse: Callable[[Fields], ParsedPair]) -> Callable[[Fields], Example]:
    """The better answer of a pair; of equals the first."""

    def example(fields: Fields) -> Example:
        pair = parse(fields)
        if not pair.chosen:
            raise DropRow(DropReason.EMPTY, "the better answer is empty")
        return [*pair.messages, {"role": "assistant", "content": pair.chosen}]

    return example


def _of_pairs(name: str) -> Reading[Example]:
    reading = JUDGED[name]
    return Reading(_better(reading.parse), reading.required, reading.optional, reading.signs, reading.gather)


_COMPLETION: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt", "instruction", "question", "query"),
    "completion": ("completion", "response", "output", "answer"),
}
EXAMPLES: dict[str, Reading[Any]] = {
    "ultrafeedback": _of_pairs("ultrafeedback"),
    "helpsteer": _of_pairs("helpsteer"),
    "helpsteer_preference": _of_pairs("helpsteer_preference"),
    "messages": Reading(parse_messages, {"messages": ("messages", "conversation")}, signs=(("messages",),)),
    "sharegpt": Reading(parse_sharegpt, {"messages": ("conversations",)}, signs=(("conversations",),)),
    "chosen_rejected": _of_pairs("chosen_rejected"),
    "transcript": Reading(parse_transcript, {"messages": ("transcript", "text")}, signs=(("transcript",),)),
    "prompt_completion": Reading(parse_prompt_completion, _COMPLETION, {"input": ("input",)}),
}
