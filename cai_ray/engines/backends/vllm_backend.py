"""vLLM as a backend: rows talk to one engine, each in a conversation whose tokens are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cai_ray.chat import Message, Renderer, split_thinking, stop_strings
from cai_ray.config import SamplingConfig, ThinkingConfig
from cai_ray.dropped import DropReason, DropRow
from cai_ray.engines.backends.dialogue_tokens import DialogueTokens
from cai_ray.engines.backends.vllm_engine import VllmEngine, request_params
from cai_ray.engines.conversations.asking import Completion, Counts, Guard
from cai_ray.engines.conversations.sampled import Sampled
from cai_ray.engines.models.thinking import QUESTION, SHORT, check_first_answer, may_think


class VllmBackend(VllmEngine):
    """A VllmEngine that answers rows."""

    async def first_answer(self, guard: Guard) -> str | None:
        model, renderer = self.model, self.renderer
        if not may_think(model, renderer):
            return None
        ids = renderer.encode(renderer.text(QUESTION))
        params = request_params(SHORT, SHORT.max_tokens)
        reply = (await guard(lambda: self.generate(ids, params, "first answer"))).outputs[0]
        text = renderer.tokenizer.decode(reply.token_ids, skip_special_tokens=False)  # a mark may be a control token
        return check_first_answer(model.path, model.thinking, text, reply.finish_reason != "length")

    def open(self, row_id: str, seed_of: Callable[[int], int], guard: Guard) -> VllmConversation:
        return VllmConversation(self, row_id, seed_of, guard)


class VllmConversation(Counts):
    """One row's Ask on a VllmBackend."""

    def __init__(self, backend: VllmBackend, row_id: str, seed_of: Callable[[int], int], guard: Guard) -> None:
        super().__init__()
        self._backend, self._row_id, self._seed_of, self._guard = backend, row_id, seed_of, guard
        self._tokens = DialogueTokens(backend.renderer)
        self._num_sent = 0
        self._num_asked = 0

    @property
    def max_model_len(self) -> int:
        return self._backend.max_model_len

    def count_tokens(self, messages: Sequence[Message]) -> int:
        renderer = self._backend.renderer
        return len(renderer.encode(renderer.text(renderer.neutralised(messages)[0])))

    async def __call__(self, messages: Sequence[Message], sampling: SamplingConfig) -> Completion:
        safe, num_neutralised = self._backend.renderer.neutralised(messages)
        ids = self._tokens.prompt_ids(safe)
        seed = self._next_seed()
        thinking_config = self._backend.model.thinking
        if thinking_config is None:
            result = await self._generate(ids, sampling, seed)
            reply = result.outputs[0]
            self._tokens.add_reply(reply.text, reply.token_ids, isinstance(reply.stop_reason, str))
            text, thinking, num_output_tokens = reply.text.strip(), None, len(reply.token_ids)
        else:
            # Phase one thinks within its own budget and is closed for the model if need be; phase two answers.
            opened = thinking_config.opened_by_template
            opening = 0 if opened else len(self._backend.renderer.encode(thinking_config.open, is_start=False)) + 1
            first = sampling.model_copy(
                update={
                    "max_tokens": max(thinking_config.max_tokens, opening),  # enough to see whether it thinks at all
                    "stop": (thinking_config.close,),
                }
            )
            result = await self._generate(ids, first, seed)
            reply = result.outputs[0]
            raw, num_output_tokens = reply.text, len(reply.token_ids)
            if _answers_at_once(reply, thinking_config):
                thinking = None
                if not _is_whole_answer(reply, sampling):  # the answer's own budget and stop strings hold
                    result = await self._generate(ids, sampling, seed)
                    reply = result.outputs[0]
                    num_output_tokens += len(reply.token_ids)
            else:
                thinking, _ = split_thinking(raw + thinking_config.close, thinking_config)
                closing = self._backend.renderer.encode(f"{raw}{thinking_config.close}\n\n", is_start=False)
                result = await self._generate([*ids, *closing], sampling, seed)
                reply = result.outputs[0]
                num_output_tokens += len(reply.token_ids)
            text = reply.text.strip()
        completion = Completion(
            text=text,
            finish_reason="length" if reply.finish_reason == "length" else "stop",
            num_prompt_tokens=len(ids),
            num_cached_tokens=result.num_cached_tokens or 0,
            num_output_tokens=num_output_tokens,
            num_neutralised=num_neutralised,
            thinking=thinking,
            logprobs=_logprobs_of(reply),
        )
        self.account(completion)
        return completion

    def _next_seed(self) -> int:
        """Counted when a request is made, not when it is answered: requests made at once have seeds of their own."""
        self._num_asked += 1
        return self._seed_of(self._num_asked - 1)

    async def _generate(self, ids: list[int], sampling: SamplingConfig, seed: int) -> Any:
        params = request_params(
            sampling,
            self._room(ids),
            stop=list(stop_strings(sampling.stop, self._backend.model.format)),
            seed=seed if sampling.temperature > 0 else None,
            **({"logprobs": 0, "flat_logprobs": True} if self.wants_logprobs else {}),  # the sampled token's only
        )
        result = await self._send(ids, params)
        reply = result.outputs[0]
        logprobs = _logprobs_of(reply)
        if self.sampled is None and logprobs:
            self.sampled = Sampled(tuple(ids), tuple(reply.token_ids), logprobs)
        return result

    def _room(self, ids: Sequence[int]) -> int:
        room = self.max_model_len - len(ids)
        if room < 1:
            detail = f"the prompt has {len(ids)} tokens, the context holds {self.max_model_len}"
            raise DropRow(DropReason.TOO_LONG, detail)
        return room

    async def _send(self, ids: list[int], params: Any) -> Any:
        self._num_sent += 1
        attempt = 0

        async def send() -> Any:
            nonlocal attempt  # a retry on a new engine is a new request there
            attempt += 1
            return await self._backend.generate(ids, params, f"{self._row_id}#{self._num_sent}.{attempt}")

        return await self._guard(send)

    async def choose(
        self, messages: Sequence[Message], options: Sequence[str], *, unlisted: float | None = None
    ) -> list[float]:
        """Log-probabilities (nats) of each option as the next token, by one forward pass; all are listed."""
        self._num_asked += 1
        renderer = self._backend.renderer
        text = renderer.text(renderer.neutralised(messages)[0])
        ids = renderer.encode(text)  # an aside: the conversation's own ids stay as they are
        option_ids = [option_token_id(renderer, option, text) for option in options]
        self._room(ids)
        result = await self._send(ids, request_params(temperature=0.0, max_tokens=1, logprob_token_ids=option_ids))
        self.account_read(len(ids), result.num_cached_tokens or 0, num_output_tokens=1)
        position = result.outputs[0].logprobs[0]
        return [position[token_id].logprob for token_id in option_ids]


def _logprobs_of(reply: Any) -> tuple[float, ...] | None:
    return None if reply.logprobs is None else tuple(reply.logprobs.logprobs)


def _answers_at_once(reply: Any, config: ThinkingConfig) -> bool:
    """Whether phase one's output is no thought: none was opened, and none ended."""
    if config.opened_by_template or reply.stop_reason == config.close:
        return False
    return not reply.text.lstrip().startswith(config.open)


def _is_whole_answer(reply: Any, sampling: SamplingConfig) -> bool:
    """Whether it is what `sampling` would have got: it ended by itself, within the budget, before any stop string."""
    ended = reply.finish_reason != "length" and len(reply.token_ids) <= sampling.max_tokens
    return ended and not any(end in reply.text for end in sampling.stop)


def option_token_id(renderer: Renderer, option: str, text: str = "") -> int:
    """The one token that spells `option` right behind `text`. Raises ValueError when it takes several.

    SentencePiece has one "A" for the start of a word and another for the inside, which is what follows a bracket.
    Where the tokenizer would merge the two ("(A"), the option's own token is the one to ask for.
    """
    before = text[len(text.rstrip()) :] or text.split()[-1] if text.strip() else ""
    start, whole = (renderer.encode(part, is_start=False) for part in (before, before + option))
    if before and len(whole) == len(start) + 1 and whole[:-1] == start:
        return whole[-1]
    ids = renderer.encode(option, is_start=False)
    if len(ids) != 1:
        raise ValueError(
            f"option {option!r} is {len(ids)} tokens in this tokenizer; options must be single tokens: "
            "use letters, and end the prompt right before the letter"
        )
    return ids[0]
