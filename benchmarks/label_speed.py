"""Labels of pairs by one scored token with the principle last, against the same labels through prompt_logprobs.

Real conversations (hh-rlhf), a random four-million-parameter Llama, four principles a pair in both orders. One engine
serves both sides in turn, three times, each time on pairs that it has not seen, with an empty prefix cache.

- `one_token`: what the labels stage does. The question comes after the conversation and the answers, so that questions
  of one order share their prefix in the cache; one token is asked for, with both options' log-probabilities.
- `prompt_logprobs`: the usual way of evaluation harnesses. Each option is appended to the same text and the
  log-probability of the prompt's last token is read, which the prefix cache cannot serve.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import results_file, small_llama
from cai_ray.chat import Message
from cai_ray.config import EngineConfig, ModelConfig
from cai_ray.constitution.source import load, resolve
from cai_ray.engines.backends.vllm_backend import VllmBackend, VllmConversation, option_token_id
from cai_ray.row_ids import prompt_id_of
from cai_ray.rows import ROW_ID
from cai_ray.stages.preferences.label_comparisons import Config, label

SEED = 0
REPEATS = 3
PAIRS = {"one_token": 48, "prompt_logprobs": 18}  # per repeat
WARM_UP = 4  # pairs, before the first repeat
CONFIG = Config(principles_per_pair=4, tie_margin=0.0)
ENGINE = EngineConfig(max_num_seqs=16, max_num_batched_tokens=4096, kv_cache_gib=1.0)


class ByPromptLogprobs(VllmConversation):
    """Chooses by appending each option to the text and reading the log-probability of the last prompt token."""

    async def choose(self, messages: Sequence[Message], options: Sequence[str]) -> list[float]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        renderer = self._backend.renderer
        text = renderer.text(renderer.neutralised(messages)[0])
        ids = renderer.encode(text)
        params = SamplingParams(
            temperature=0.0, max_tokens=1, prompt_logprobs=0, output_kind=RequestOutputKind.FINAL_ONLY
        )
        found = []
        for token in (option_token_id(renderer, option, text) for option in options):
            result = await self._send([*ids, token], params)
            found.append(result.prompt_logprobs[-1][token].logprob)
        return found


SIDES = {"one_token": VllmConversation, "prompt_logprobs": ByPromptLogprobs}


def rows(num: int) -> list[dict[str, Any]]:
    """Units of the labels stage."""
    found = []
    for k, pair in enumerate(small_llama.pairs(num)):
        messages = [dict(message) for message in pair.messages]
        prompt_id = prompt_id_of(messages, "hh_rlhf")
        answers = {"response_a": pair.chosen, "response_b": pair.rejected}
        about = {"kind": "red_team", "category": None, "split": "test"}
        found.append(
            {
                ROW_ID: f"{k}",
                "pair_id": f"{prompt_id}/{k}",
                "prompt_id": prompt_id,
                "messages": messages,
                **answers,
                **about,
            }
        )
    return found


async def passed(send: Callable[[], Awaitable[Any]]) -> Any:
    return await send()


async def labelled(backend: VllmBackend, side: str, batch: Sequence[dict[str, Any]]) -> tuple[float, list[float]]:
    """Pairs per second, and P(A is better) of each pair."""
    slots = asyncio.Semaphore(backend.max_concurrent_rows)
    ask_label = partial(label, config=CONFIG, constitution=load(resolve("harmlessness")), form="chat", seed=SEED)

    async def one(row: dict[str, Any]) -> float:
        async with slots:
            ask = SIDES[side](backend, f"{side}-{row[ROW_ID]}", lambda k: k, passed)
            found = await ask_label(row, ask)
            return float(found["prob_chosen"] if found["chosen_is_a"] else 1 - found["prob_chosen"])

    await backend._engine.reset_prefix_cache()
    started = time.monotonic()
    probs = await asyncio.gather(*(one(row) for row in batch))
    return len(batch) / (time.monotonic() - started), list(probs)


async def measure(model: Path) -> tuple[dict[str, list[float]], float]:
    """side -> pairs/s of each repeat; and the largest difference between the labels of both sides."""
    unseen = iter(rows(WARM_UP + REPEATS * sum(PAIRS.values())))
    backend = VllmBackend(ModelConfig(path=str(model), engine=ENGINE))
    await backend.start()
    try:
        warm = list(itertools.islice(unseen, WARM_UP))
        labels = [(await labelled(backend, side, warm))[1] for side in SIDES]
        gap = max(abs(a - b) for a, b in zip(*labels, strict=True))
        rates: dict[str, list[float]] = {side: [] for side in SIDES}
        for repeat in range(REPEATS):
            for side in SIDES:
                rate, _ = await labelled(backend, side, list(itertools.islice(unseen, PAIRS[side])))
                rates[side].append(rate)
                print(f"round {repeat + 1}: {side} {rate:.2f} pairs/s", flush=True)
    finally:
        backend.close()
    return rates, gap


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        rates, gap = asyncio.run(measure(small_llama.save(Path(scratch) / "model")))
    ratios = [a / b for a, b in zip(rates["one_token"], rates["prompt_logprobs"], strict=True)]
    figures = {
        "pairs_per_s": {side: results_file.spread(values) for side, values in rates.items()},
        "one_token_to_prompt_logprobs": results_file.spread(ratios) | {"target": ">= 3"},
        "largest_difference_of_labels": gap,
        "questions_per_pair": 2 * CONFIG.principles_per_pair,
        "pairs": PAIRS,
        "engine": ENGINE.model_dump(include={"max_num_seqs", "max_num_batched_tokens", "block_size", "kv_cache_gib"}),
    }
    claim = "One scored token with the principle last labels >= 3x as many pairs/s as prompt_logprobs of the whole text"
    results_file.write("label_speed", claim, figures, [SEED])


if __name__ == "__main__":
    main()
