"""A multiple-choice question as the messages that one token answers.

Tested in tests/stages/evaluation/test_multiple_choice.py.
"""

from __future__ import annotations

from cai_ray.chat import DOCUMENT, Message
from cai_ray.dropped import DropReason, DropRow
from cai_ray.prompts.comparison import Form


def choice_messages(prompt: str, lead: str, form: Form) -> list[Message]:
    """The question word for word, up to the token that tells the options apart.

    "...\\n\\nThe answer is:" with lead " (" stops at "The answer is: (". For a base model ("transcript") the whole is
    one document without labels, as the paper asks it (Bai et al. 2022, section 2). For "chat" everything up to the
    last line is the user's turn, and the last line begins the assistant's: a chat model is asked nothing that the
    base model is not.

    Raises DropRow(malformed) for "chat" where the prompt is one line, so that no line is left to begin the answer.
    """
    text = prompt.strip() + lead
    if form == "transcript":
        return [{"role": DOCUMENT, "content": text}]
    question, _, begun = text.rpartition("\n")
    if not question.strip():
        raise DropRow(
            DropReason.MALFORMED, "the prompt is one line; a chat model needs a last line to begin, 'The answer is:'"
        )
    return [{"role": "user", "content": question.strip()}, {"role": "assistant", "content": begun.strip()}]
