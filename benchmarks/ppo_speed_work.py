"""What both sides of `ppo_speed` work on: a policy, a model that scores, prompts; a folder that either side can read.

The random Llama has the end of an answer built in, because a random model would hardly ever choose it. One dimension
is the same for every token, and no layer reads or writes it; it comes out of the last norm nearly constant, and the
end token's row of the output layer reads it alone. So each token is the last with about the same probability, and
lengths spread like a geometric distribution up to the limit. The weights say so, hence both sides see the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import small_llama
from cai_ray.chat import Message
from cai_ray.config import ModelConfig
from cai_ray.engines.models.reading import load_renderer
from cai_ray.microworld.pretrain import ensure_model
from cai_ray.microworld.prompt_set import sample_prompts

SEED = 0
WORK = "work.json"


class Case(NamedTuple):
    """One size of the comparison.

    The first `warm_up` of the steps are not counted; nor is the last, which samples nothing ahead.
    """

    name: str
    num_prompts: int
    episodes: int  # per step, one per prompt
    minibatch: int  # episodes per update
    max_tokens: int  # of an answer
    steps: int
    warm_up: int
    target: float  # episodes/s over TRL's
    sides: tuple[str, ...]
    epochs: int = 2  # passes over a step's episodes


BOTH, MODES = ("ours", "trl"), ("on_policy", "asynchronous")
MICRO = Case(
    "micro", 1024, episodes=256, minibatch=64, max_tokens=48, steps=7, warm_up=2, target=1.0, sides=BOTH + MODES
)
# The modes would have one core each here, and take an hour.
LLAMA = Case("llama_30m", 256, episodes=32, minibatch=16, max_tokens=256, steps=4, warm_up=1, target=1.3, sides=BOTH)
CASES = {case.name: case for case in (MICRO, LLAMA)}
MEAN_TOKENS = 96  # of the random Llama's answers, were there no limit
MAX_PROMPT_TOKENS = 160  # of hh-rlhf's


def make(case: Case, folder: Path) -> Path:
    """Write models and prompts; the file that tells both sides about them."""
    policy = ensure_model() if case.name == MICRO.name else save_llama(folder / "policy", folder / "tokenizer")
    return write(case, folder, policy, save_scores(policy, folder / "scores"))


def write(case: Case, folder: Path, policy: Path, scores: Path) -> Path:
    """The same for models that are there: a policy, and a classifier with one output that reads the same tokens."""
    work = {
        **case._asdict(),
        "seed": SEED,
        "policy": str(policy),
        "scores": str(scores),
        "prompts": _prompts(case, policy),
        "learning_rate": 1e-6,  # so small that lengths stay what they are
        "kl_coefficient": 0.05,
    }
    path = folder / WORK
    path.write_text(json.dumps(work), encoding="utf-8")
    return path


def _prompts(case: Case, policy: Path) -> list[dict[str, Any]]:
    """`messages` and `token_ids` of each."""
    renderer = load_renderer(ModelConfig(path=str(policy)))
    conversations: list[Sequence[Message]]
    if case.name == MICRO.name:
        conversations = [request.messages for request in sample_prompts(case.num_prompts, SEED, split="train")]
    else:
        conversations = [pair.messages for pair in small_llama.pairs(16 * case.num_prompts)]
    found: dict[str, dict[str, Any]] = {}
    for messages in conversations:
        token_ids = renderer.encode(renderer.text(renderer.neutralised(messages)[0]))
        if len(token_ids) <= MAX_PROMPT_TOKENS:
            found[str(token_ids)] = {"messages": [dict(message) for message in messages], "token_ids": token_ids}
    return list(found.values())[: case.num_prompts]


def save_scores(policy: Path, folder: Path) -> Path:
    """A small random classifier that reads the policy's tokens: what it likes is arbitrary, but always the same."""
    import torch
    from transformers import AutoTokenizer, LlamaForSequenceClassification

    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    config = _config(tokenizer, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    config.update({"num_labels": 1, "initializer_range": 0.3})
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_llama(folder: Path, scratch: Path) -> Path:
    """A random Llama of 30 million parameters for English text, untied, that ends its answers."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(small_llama.save(scratch))
    torch.manual_seed(SEED)
    sizes = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8}
    model = LlamaForCausalLM(_config(tokenizer, **sizes))
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 1.0
        for layer in model.model.layers:
            for reads in (layer.input_layernorm, layer.post_attention_layernorm):
                reads.weight[0] = 0.0
            for writes in (layer.self_attn.o_proj, layer.mlp.down_proj):
                writes.weight[0] = 0.0
        constant = model.model(torch.randint(len(tokenizer), (8, 64))).last_hidden_state[..., 0].mean().item()
        head = model.lm_head.weight
        head[:, 0] = 0.0
        head[tokenizer.all_special_ids] = 0.0
        head[tokenizer.all_special_ids, 0] = -10.0  # never chosen
        others = len(tokenizer) - len(tokenizer.all_special_ids)
        head[tokenizer.eos_token_id, 0] = math.log(others / (MEAN_TOKENS - 1)) / constant
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _config(tokenizer: Any, **sizes: int) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=small_llama.CONTEXT,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
        **sizes,
    )
