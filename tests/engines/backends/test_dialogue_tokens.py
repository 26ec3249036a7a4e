"""Token ids of growing conversations, with the micro model's own kind of tokenizer and scripted replies."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai_ray.chat import Renderer
from cai_ray.engines.backends.dialogue_tokens import DialogueTokens
from cai_ray.microworld.tokenizer import build_tokenizer

RENDERER = Renderer(build_tokenizer(num_dialogues=50))


@pytest.fixture
def renderer() -> Renderer:
    return RENDERER


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def letter_by_letter(renderer: Renderer, text: str) -> list[int]:
    """Ids that spell `text` as the tokenizer itself never would."""
    return [token_id for letter in text for token_id in renderer.encode(letter, is_start=False)]


def test_a_reply_keeps_the_models_own_ids(renderer: Renderer) -> None:
    tokens = DialogueTokens(renderer)
    first = tokens.prompt_ids([user("How do I bake bread?")])
    reply = letter_by_letter(renderer, "with flour")
    assert reply != renderer.encode("with flour", is_start=False)
    end = renderer.tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokens.add_reply("with flour", [*reply, end], cut_at_stop_string=False)
    messages = [user("How do I bake bread?"), assistant("with flour"), user("more")]
    second = tokens.prompt_ids(messages)
    assert second[: len(first) + len(reply)] == [*first, *reply]
    assert second.count(end) == 3  # the template's, once per turn: the engine's own is not doubled
    assert renderer.tokenizer.decode(second) == renderer.text(messages)


def test_a_cleaned_reply_is_encoded_anew_after_the_same_prefix(renderer: Renderer) -> None:
    tokens = DialogueTokens(renderer)
    first = tokens.prompt_ids([user("q")])
    tokens.add_reply(" Sure! bread ", letter_by_letter(renderer, " Sure! bread "), cut_at_stop_string=False)
    messages = [user("q"), assistant("bread"), user("more")]
    second = tokens.prompt_ids(messages)
    assert second[: len(first)] == first
    assert renderer.tokenizer.decode(second) == renderer.text(messages)


def test_ids_past_a_stop_string_are_not_kept(renderer: Renderer) -> None:
    tokens = DialogueTokens(renderer)
    first = tokens.prompt_ids([user("q")])
    tokens.add_reply("bread", letter_by_letter(renderer, "bread STOP"), cut_at_stop_string=True)
    messages = [user("q"), assistant("bread"), user("more")]
    second = tokens.prompt_ids(messages)
    assert second[: len(first)] == first
    assert renderer.tokenizer.decode(second) == renderer.text(messages)


def test_another_system_prompt_starts_over(renderer: Renderer) -> None:
    tokens = DialogueTokens(renderer)
    tokens.prompt_ids([{"role": "system", "content": "one"}, user("q")])
    tokens.add_reply("bread", letter_by_letter(renderer, "bread"), cut_at_stop_string=False)
    messages = [{"role": "system", "content": "two"}, user("q"), assistant("bread"), user("more")]
    assert tokens.prompt_ids(messages) == renderer.encode(renderer.text(messages))


def test_an_aside_does_not_return_as_a_prefix(renderer: Renderer) -> None:
    tokens = DialogueTokens(renderer)
    tokens.prompt_ids([user("q")])
    tokens.add_reply("bread", letter_by_letter(renderer, "bread"), cut_at_stop_string=False)
    tokens.prompt_ids([user("something else")])
    messages = [user("q"), assistant("bread"), user("more")]
    assert tokens.prompt_ids(messages) == renderer.encode(renderer.text(messages))


def test_transcripts_append_too(renderer: Renderer) -> None:
    plain = Renderer(renderer.tokenizer, format="transcript")
    tokens = DialogueTokens(plain)
    first = tokens.prompt_ids([user("q")])
    reply = letter_by_letter(plain, " bread")
    tokens.add_reply(" bread", reply, cut_at_stop_string=False)
    messages = [user("q"), assistant("bread"), user("more")]
    second = tokens.prompt_ids(messages)
    assert second[: len(first) + len(reply)] == [*first, *reply]
    assert plain.tokenizer.decode(second) == plain.text(messages)


REPLIES = st.lists(
    st.tuples(st.text(max_size=12), st.booleans(), st.sampled_from(["as it is", "stripped", "rewritten"])), max_size=4
)


@given(REPLIES)
@settings(max_examples=50)
def test_ids_always_spell_the_rendered_text_and_only_grow(replies: list[tuple[str, bool, str]]) -> None:
    tokens, messages = DialogueTokens(RENDERER), [user("q")]
    previous = tokens.prompt_ids(messages)
    for text, cut, fate in replies:
        text = RENDERER.neutralised([assistant(text)])[0][0]["content"]
        tokens.add_reply(text, letter_by_letter(RENDERER, text + "STOP" * cut), cut)
        kept = {"as it is": text, "stripped": text.strip(), "rewritten": "something else"}[fate]
        messages += [assistant(kept), user("more")]
        ids = tokens.prompt_ids(messages)
        assert ids[: len(previous)] == previous
        assert RENDERER.tokenizer.decode(ids) == RENDERER.text(messages)
        previous = ids
