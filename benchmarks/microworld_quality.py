"""How good is the micro model? Measured against the oracle with plain Hugging Face generation, no Ray, no vLLM.

    python benchmarks/microworld_quality.py [MODEL_FOLDER] [--seed 0] [--num-prompts 512] [--out FILE.json]

Held-out prompts, four rounds of critique and revision in one growing conversation, temperature 1. Prints, per round,
the harmful rate (with standard error) among harmful prompts and the helpfulness of answers to harmless ones; then
the catch rate of a matching against a random principle, remarks about the revision with and without NO_META, direct
revision, and the calibration of comparisons.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cai_ray.microworld.comparison_dialogues import prob_a
from cai_ray.microworld.language import Request, Style, answer, sample_request
from cai_ray.microworld.oracle import score
from cai_ray.microworld.pretrain import ensure_model
from cai_ray.microworld.teaching import principles, relation
from cai_ray.prompts.comparison import comparison_messages
from cai_ray.prompts.revision import critique_turn, revision_turn

Messages = list[dict[str, str]]


class Asker:
    """Batched sampling at temperature 1 from a local model."""

    def __init__(self, path: Path, seed: int, batch_size: int = 128) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.batch_size = batch_size
        torch.manual_seed(seed)

    def ask(self, conversations: list[Messages], max_tokens: int = 72) -> list[str]:
        """One answer to each conversation."""
        answers: list[str] = []
        for start in range(0, len(conversations), self.batch_size):
            batch = conversations[start : start + self.batch_size]
            texts = [self.tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in batch]
            inputs = self.tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
            with torch.inference_mode():
                out = self.model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=max_tokens)
            answers += self.tokenizer.batch_decode(out[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        return answers

    def prob_first(self, conversations: list[Messages], options: tuple[str, str]) -> list[float]:
        """P(first option) of two single tokens that continue each conversation's last, open assistant turn."""
        ids = [self.tokenizer.convert_tokens_to_ids(o) for o in options]
        probs: list[float] = []
        for start in range(0, len(conversations), self.batch_size):
            batch = conversations[start : start + self.batch_size]
            texts = [self.tokenizer.apply_chat_template(c, tokenize=False, continue_final_message=True) for c in batch]
            inputs = self.tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
            with torch.inference_mode():
                logits = self.model(**inputs).logits[:, -1, ids]
            probs += torch.softmax(logits, dim=-1)[:, 0].tolist()
        return probs


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def measure_rounds(asker: Asker, requests: list[Request], rng: random.Random, num_rounds: int, **how: Any) -> Any:
    """Rates per round, initial answer first. `how`: no_meta, contextual, direct."""
    conversations = [list(r.messages) for r in requests]
    answers = asker.ask(conversations)
    rounds = [rates(requests, answers)]
    for _ in range(num_rounds):
        conversations = [[*c, turn("assistant", a)] for c, a in zip(conversations, answers, strict=True)]
        drawn = [rng.choice(principles()) for _ in requests]
        if how.get("contextual"):
            drawn = [
                next((p for p in principles() if relation(p, r.category) == "match"), d)
                for r, d in zip(requests, drawn, strict=True)
            ]
        if not how.get("direct"):
            for c, p in zip(conversations, drawn, strict=True):
                c.append(turn("user", critique_turn(p)["content"]))
            for c, text in zip(conversations, asker.ask(conversations), strict=True):
                c.append(turn("assistant", text))
        for c, p in zip(conversations, drawn, strict=True):
            c.append(turn("user", revision_turn(p, bool(how.get("no_meta", True)))["content"]))
        answers = asker.ask(conversations)
        rounds.append(rates(requests, answers))
    return {
        "rounds": rounds,
        "examples": [[*c, turn("assistant", a)] for c, a in zip(conversations[:4], answers[:4], strict=True)],
    }


def rates(requests: list[Request], answers: list[str]) -> dict[str, float]:
    scored = [(r.harmful, score(r.messages, a)) for r, a in zip(requests, answers, strict=True)]
    bad = [s for harmful, s in scored if harmful]
    good = [s for harmful, s in scored if not harmful]
    rate = statistics.fmean(s.harmful for s in bad)
    return {
        "harmful": rate,
        "harmful_se": math.sqrt(rate * (1 - rate) / len(bad)),
        "explained": statistics.fmean(s.helpful for s in bad),
        "evasive": statistics.fmean(s.evasive for s in bad),
        "benign_helpful": statistics.fmean(s.helpful for s in good),
        "benign_refused": statistics.fmean(s.refusal for s in good),
        "benign_harmful": statistics.fmean(s.harmful for s in good),
        "meta": statistics.fmean(s.has_meta for _, s in scored),
        "parsed": statistics.fmean(s.parsed for _, s in scored),
    }


def measure_comparisons(asker: Asker, rng: random.Random, num: int) -> dict[str, float]:
    """Held-out comparisons: the model's P(A) against the true probability that the training labels follow."""
    conversations, truths = [], []
    styles: list[Style] = ["comply", "refuse", "evade"]
    for _ in range(num):
        request = sample_request(rng, harmful=True, split="test")
        principle = rng.choice(principles())
        a, b = rng.sample(styles, 2)
        question = principle.comparison_question or ""
        texts = answer(rng, request.task, a), answer(rng, request.task, b)
        conversations.append(comparison_messages(list(request.messages), *texts, question))
        truths.append(prob_a(principle, request.task, a, b))
    probs = asker.prob_first(conversations, ("A", "B"))
    pairs = list(zip(truths, probs, strict=True))
    return {
        "mean_abs_error": statistics.fmean(abs(t - p) for t, p in pairs),
        "correlation": statistics.correlation(truths, probs),
        "same_side": statistics.fmean((t > 0.5) == (p > 0.5) for t, p in pairs if abs(t - 0.5) > 0.1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-prompts", type=int, default=512)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="Only the four rounds.")
    args = parser.parse_args()

    asker = Asker(args.model or ensure_model(), args.seed)
    rng = random.Random(args.seed)
    requests = [sample_request(rng, harmful=i % 8 < 5, split="test") for i in range(args.num_prompts)]
    started = time.monotonic()
    random_choice = measure_rounds(asker, requests, rng, 4)
    results: dict[str, Any] = {"random": random_choice["rounds"], "comparisons": measure_comparisons(asker, rng, 512)}
    if not args.quick:
        results["contextual"] = measure_rounds(asker, requests, rng, 1, contextual=True)["rounds"]
        results["direct"] = measure_rounds(asker, requests, rng, 1, direct=True)["rounds"]
        results["without_no_meta"] = measure_rounds(asker, requests, rng, 1, no_meta=False)["rounds"]
    for name, rounds in results.items():
        print(name)
        for row in rounds if isinstance(rounds, list) else [rounds]:
            print("  " + "  ".join(f"{key} {value:.3f}" for key, value in row.items()))
    for example in random_choice["examples"][:2]:
        print(*(f"{m['role']}: {m['content']}" for m in example), "", sep="\n")
    print(f"took {time.monotonic() - started:.0f} s")
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
