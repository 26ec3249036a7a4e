"""The converted model says the same in transformers and in vLLM: greedy answers, float32, token by token.

Each side runs in a process of its own: `python -m benchmarks.real_model.same_words SIDE NUM_PROMPTS`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import results_file
from benchmarks.real_model.weights import model_folder

MAX_TOKENS = 64
PROMPTS = (
    "What is the capital of France?",
    "Write a short poem about rain.",
    "How do I bake bread?",
    "Name three trees that lose their leaves.",
    "Why is the sky blue?",
    "My neighbour is loud at night. What should I do?",
    "What is 12 + 30?",
    "Translate 'good morning' into Spanish.",
)


def ids_of(num: int) -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    asked = [[{"role": "user", "content": prompt}] for prompt in PROMPTS[:num]]
    texts = [tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True) for one in asked]
    return [tokenizer.encode(text, add_special_tokens=False) for text in texts]


def transformers(num: int) -> list[list[int]]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder(), dtype=torch.float32).eval()
    found = []
    for ids in ids_of(num):
        with torch.no_grad():
            told = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=MAX_TOKENS)
        found.append(told[0, len(ids) :].tolist())
    return found


def vllm(num: int) -> list[list[int]]:
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    llm = LLM(model=model_folder(), dtype="float32", enforce_eager=True, max_model_len=512, max_num_seqs=8)
    given = [TokensPrompt(prompt_token_ids=ids) for ids in ids_of(num)]
    told = llm.generate(given, SamplingParams(temperature=0, max_tokens=MAX_TOKENS), use_tqdm=False)
    return [list(one.outputs[0].token_ids) for one in told]


def first_difference(one: list[int], other: list[int]) -> int | None:
    """Where two answers part; an end token that only one of them shows is no difference."""
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return at
    return None if abs(len(one) - len(other)) <= 1 else min(len(one), len(other))


def run(scale: float, folder: Path) -> None:
    """`scale`: share of the prompts, at most 1."""
    num = max(1, min(len(PROMPTS), round(len(PROMPTS) * scale)))
    sides = []
    for side in ("transformers", "vllm"):
        command = [sys.executable, "-m", "benchmarks.real_model.same_words", side, str(num)]
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        sides.append(json.loads(told.strip().splitlines()[-1]))
    parted = [first_difference(*pair) for pair in zip(*sides, strict=True)]
    figures = {
        "answers": num,
        "equal": parted.count(None),
        "first_differences": parted,
        "tokens": sum(map(len, sides[0])),
        "target": "equal == answers",
    }
    claim = "Greedy answers of the converted model are the same in transformers and in vLLM"
    results_file.write("real_same_words", claim, figures, [], folder, "python -m benchmarks.real_model same_words")


if __name__ == "__main__":
    print(json.dumps({"transformers": transformers, "vllm": vllm}[sys.argv[1]](int(sys.argv[2]))))
