from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cai_ray.chat import (
    CHAT_ROLES,
    DOCUMENT,
    FINISHED,
    REPLY_ROLES,
    STOP_STRINGS,
    Renderer,
    fold_system,
    is_begun,
    messages_to_transcript,
    split_thinking,
    stop_strings,
    transcript_prompt,
    transcript_to_messages,
    with_system_role,
)
from cai_ray.config import ThinkingConfig
from cai_ray.markup import TRANSCRIPT_LABELS, neutralise

SPECIALS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|im", "[INST]", "[/INST]", "<unk>"]
CHATML = (
    "{%- for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor -%}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif -%}"
)
NO_SYSTEM_ROLE = "{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif -%}"
SYSTEM_IGNORED = CHATML.replace("{%- for m in messages %}", "{%- for m in messages if m.role != 'system' %}")


def tokenizer_with(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """Byte-level without merges: every text has ids, and a control token's spelling becomes the control token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>", bos_token="<s>")
    tokenizer.chat_template = template
    return tokenizer


TOKENIZER = tokenizer_with()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return TOKENIZER


def said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


# --- transcripts --------------------------------------------------------------------------------------

# A turn's own text can hold no label after a blank line, or it would be another turn.
CONTENTS = st.text(st.characters(exclude_categories=("Cs",)) | st.sampled_from("\n:"))
TURNS = st.lists(
    st.tuples(
        st.sampled_from(["user", "assistant"]),
        CONTENTS.map(str.strip).filter(lambda text: "Human:" not in text and "Assistant:" not in text),
    ),
    min_size=1,
    max_size=5,
)


@given(TURNS)
def test_transcripts_round_trip(turns: list[tuple[str, str]]) -> None:
    messages = said(*turns)
    assert transcript_to_messages(messages_to_transcript(messages)) == messages


def test_the_layout_of_hh_rlhf() -> None:
    transcript = "\n\nHuman: Hi there\n\nsecond paragraph\n\nAssistant: Hello: Human\n\nHuman: ok"
    messages = said(("user", "Hi there\n\nsecond paragraph"), ("assistant", "Hello: Human"), ("user", "ok"))
    assert transcript_to_messages(transcript) == messages
    assert messages_to_transcript(messages) == transcript


def test_a_label_within_a_paragraph_is_text() -> None:
    assert transcript_to_messages("Human: say\nAssistant: now") == said(("user", "say\nAssistant: now"))


@pytest.mark.parametrize("text", ["", "hello", "System: x\n\nHuman: hi"])
def test_text_without_a_leading_label_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="starts with"):
        transcript_to_messages(text)


def test_transcripts_name_the_steps_of_revision() -> None:
    messages = said(("system", "Be kind."), ("user", "q"), ("assistant", "a"), ("critique_request", "criticise"))
    assert transcript_prompt(messages) == (
        "\n\nBe kind.\n\nHuman: q\n\nAssistant: a\n\nCritiqueRequest: criticise\n\nCritique:"
    )
    assert transcript_prompt(messages[:3]) == "\n\nBe kind.\n\nHuman: q\n\nAssistant: a"


def test_every_role_has_its_places() -> None:
    assert set(CHAT_ROLES) == set(TRANSCRIPT_LABELS) | {"system", FINISHED, DOCUMENT}
    assert all(CHAT_ROLES[asked] == "user" and CHAT_ROLES[reply] == "assistant" for asked, reply in REPLY_ROLES.items())


# --- control tokens -----------------------------------------------------------------------------------

# Pieces from which tokens can be put together again, and text between them.
PIECES = [*SPECIALS, "<", "|", ">", "im_end", "s", "/", "[", "]", "INST", " ", "a"]
SHARDS = st.lists(st.sampled_from(PIECES) | st.text())


@given(SHARDS.map("".join))
def test_neutralised_text_holds_no_control_token(text: str) -> None:
    safe, count = neutralise(text, SPECIALS)
    assert not any(token in safe for token in SPECIALS)
    assert (count == 0) == (safe == text)
    assert safe.replace(" ", "") == text.replace(" ", "")
    assert neutralise(safe, SPECIALS) == (safe, 0)


@given(st.lists(SHARDS.map("".join), min_size=1, max_size=3))
def test_no_text_becomes_a_control_token(contents: list[str]) -> None:
    renderer = Renderer(TOKENIZER)
    messages = said(*((("user", "assistant")[i % 2], content) for i, content in enumerate(contents)))
    if len(contents) % 2 == 0:
        messages = messages[:-1]
    safe, _ = renderer.neutralised(messages)
    ids = renderer.encode(renderer.text(safe))
    special = set(TOKENIZER.all_special_ids) | set(TOKENIZER.added_tokens_decoder)
    # Every message opens and closes once, and the answer is opened: nothing else is a control token.
    assert sum(token_id in special for token_id in ids) == 2 * len(safe) + 1


def test_neutralised_counts_over_all_messages(tokenizer: PreTrainedTokenizerFast) -> None:
    renderer = Renderer(tokenizer)
    safe, count = renderer.neutralised(said(("user", "a<|im_end|>b</s>"), ("assistant", "fine")))
    assert count == 2 and safe == said(("user", "a< |im_end|>b< /s>"), ("assistant", "fine"))
    untouched = said(("user", "1 < 2 | 3"))
    assert renderer.neutralised(untouched) == (untouched, 0)


# --- thinking -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "opened_by_template", "expected"),
    [
        ("<think>why</think>\n\nanswer", False, ("why", "answer")),
        ("  <think>\nwhy\n</think>answer ", False, ("why", "answer")),
        ("why</think>answer", True, ("why", "answer")),
        ("<think>why</think>answer", True, ("why", "answer")),
        ("answer", False, (None, "answer")),
        (" answer about <think> tags", False, (None, "answer about <think> tags")),
        ("<think>never ends", False, ("never ends", "")),
        ("never ends", True, ("never ends", "")),
        ("<think></think>answer", False, ("", "answer")),
        ("<think>a</think>b</think>c", False, ("a", "b</think>c")),
    ],
)
def test_split_thinking(text: str, opened_by_template: bool, expected: tuple[str | None, str]) -> None:
    assert split_thinking(text, ThinkingConfig(opened_by_template=opened_by_template)) == expected


# --- system messages ----------------------------------------------------------------------------------


def test_fold_system() -> None:
    folded = said(("user", "Be kind.\n\nq"), ("assistant", "a"))
    assert fold_system(said(("system", "Be kind."), ("user", "q"), ("assistant", "a"))) == folded
    assert fold_system(said(("system", "Be kind."))) == said(("user", "Be kind."))
    no_user = said(("system", "Be kind."), ("assistant", "a"))
    assert fold_system(no_user) == said(("user", "Be kind."), ("assistant", "a"))
    assert fold_system(said(("user", "q"))) == said(("user", "q"))
    assert fold_system([]) == []


def test_folding_leaves_the_messages_as_they_were() -> None:
    messages = said(("system", "s"), ("user", "q"))
    fold_system(messages)
    assert messages == said(("system", "s"), ("user", "q"))


def test_with_system_role() -> None:
    messages = said(("system", "s"), ("user", "q"))
    assert with_system_role(messages, "auto") == with_system_role(messages, "native") == messages
    assert with_system_role(messages, "fold") == said(("user", "s\n\nq"))
    assert with_system_role(messages, "drop") == said(("user", "q"))


# --- the renderer -------------------------------------------------------------------------------------


def test_a_chat_template_renders_steps_as_turns(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = said(("system", "s"), ("user", "q"), ("assistant", "a"), ("revision_request", "better"))
    assert Renderer(tokenizer).text(messages) == (
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
        "<|im_start|>user\nbetter<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_begun_answer_is_continued(tokenizer: PreTrainedTokenizerFast) -> None:
    text = Renderer(tokenizer).text(said(("user", "q"), ("assistant", "The answer is (")))
    assert text == "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\nThe answer is ("


@pytest.mark.parametrize("template", [NO_SYSTEM_ROLE + CHATML, SYSTEM_IGNORED])
def test_auto_folds_for_templates_without_a_system_role(template: str) -> None:
    renderer = Renderer(tokenizer_with(template))
    assert renderer.system_role == "fold"
    text = renderer.text(said(("system", "s"), ("user", "q")))
    assert text == "<|im_start|>user\ns\n\nq<|im_end|>\n<|im_start|>assistant\n"


def test_auto_keeps_a_system_role_that_is_there(tokenizer: PreTrainedTokenizerFast) -> None:
    assert Renderer(tokenizer).system_role == "native"
    dropping = Renderer(tokenizer, system_role="drop").text(said(("system", "s"), ("user", "q")))
    assert dropping == "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"


def test_no_template_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"no chat template; set .*chat_template.*transcript"):
        Renderer(tokenizer_with(None))


def test_a_template_of_ones_own(tokenizer: PreTrainedTokenizerFast) -> None:
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    assert Renderer(tokenizer_with(None), chat_template=template).text(said(("user", "q"))) == "[user]q"
    assert Renderer(tokenizer, chat_template=template).text(said(("user", "q"))) == "[user]q"


def test_a_transcript_is_stopped_at_the_label_of_any_further_turn() -> None:
    labels = ("Human", "Assistant", "CritiqueRequest", "Critique", "RevisionRequest", "Revision")
    assert set(STOP_STRINGS) == {f"\n\n{label}:" for label in labels}
    assert stop_strings(["###", "\n\nHuman:"], "transcript")[:2] == ("###", "\n\nHuman:")
    assert set(stop_strings(["###"], "transcript")) == {"###", *STOP_STRINGS}
    assert stop_strings(["###"], "chat") == ("###",)


def test_a_transcript_needs_no_template() -> None:
    renderer = Renderer(tokenizer_with(None), format="transcript")
    assert renderer.text(said(("system", "s"), ("user", "q"))) == "\n\ns\n\nHuman: q\n\nAssistant:"


def test_only_the_start_of_a_transcript_gets_a_bos() -> None:
    class WithBos:
        """The two arguments of a real tokenizer that matter here."""

        chat_template = CHATML
        all_special_tokens = ("<s>",)

        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            return [0] * add_special_tokens + [1] * len(text)

    made: Any = WithBos()
    transcript, chat = Renderer(made, "transcript"), Renderer(made, system_role="native")
    assert transcript.encode("ab") == [0, 1, 1] and transcript.encode("ab", is_start=False) == [1, 1]
    assert chat.encode("ab") == [1, 1]


def test_a_finished_turn_is_judged_and_not_continued(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = said(("user", "Hi"), (FINISHED, "Hello."))
    assert Renderer(tokenizer).text(turns) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert not is_begun(turns) and is_begun(said(("user", "Hi"), ("assistant", "Hel")))
