"""Our learners on one device: update steps of fine-tuning, preference model and PPO, in tokens per second.

    python -m benchmarks.learner_speed [--minutes 8] [--shapes 0.5b 1b 3b 8b] [--smoke] [--output FILE]

Needs torch, transformers and peft, and neither Ray nor vLLM; DeepSpeed is used on a GPU where it is installed (float32
master weights), else the weights themselves are bfloat16. Random weights of Llama shapes, random tokens of lengths as
real conversations have them. Each cell is warmed up once; one that does not fit into memory says so, and so does one
for which no time was left. MFU counts the arithmetic of the real tokens alone, not of padding or of what checkpointing
computes twice, against the device's dense bfloat16 peak.

Variants: `bucketed` (our passes: sequences of similar length), `in_order` (as many as fit, in the order they come),
`checkpointing` and `lora` (both bucketed), `stock_trainer` (transformers' Trainer on the same sequences).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import learner_speed_work as work
from benchmarks import results_file
from benchmarks.learner_speed_work import Setting, Shape

SEED = 0
TIMED_STEPS = 3
CURVE_STEPS = 30
SHAPES = {  # the trunks of Qwen2.5-0.5B, Llama-3.2-1B and 3B, Llama-3.1-8B, all with Llama 3's vocabulary
    "0.5b": Shape(hidden=896, layers=24, heads=14, kv_heads=2, mlp=4864, vocab=128_256),
    "1b": Shape(hidden=2048, layers=16, heads=32, kv_heads=8, mlp=8192, vocab=128_256),
    "3b": Shape(hidden=3072, layers=28, heads=24, kv_heads=8, mlp=8192, vocab=128_256),
    "8b": Shape(hidden=4096, layers=32, heads=32, kv_heads=8, mlp=14_336, vocab=128_256),
    "tiny": Shape(hidden=32, layers=2, heads=4, kv_heads=2, mlp=64, vocab=256),
}
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}  # dense bfloat16, FLOP/s, by part of the name
VARIANTS = ("bucketed", "in_order", "checkpointing", "lora")


@dataclass(frozen=True)
class Cell:
    """One measurement."""

    shape: str
    kind: str  # "sft" | "preference" | "ppo"
    variant: str

    @property
    def name(self) -> str:
        return f"{self.shape}/{self.kind}/{self.variant}"


def cells(shapes: list[str]) -> Iterator[Cell]:
    """Small shapes first, so that a short time still says something of each kind."""
    for shape in shapes:
        for kind in ("sft", "preference", "ppo"):
            for variant in (*VARIANTS, *(("stock_trainer",) if kind == "sft" else ())):
                yield Cell(shape, kind, variant)


def measure(cell: Cell, setting: Setting) -> dict[str, Any]:
    """Tokens per second of the median step, its share of the peak, and the memory that it took."""
    shape = SHAPES[cell.shape]
    step: Callable[[], object]
    if cell.variant == "stock_trainer":
        step, num_tokens = work.stock_step(shape, setting, TIMED_STEPS)
    else:
        step, num_tokens = work.our_step(shape, cell.kind, cell.variant, setting)
    step()
    _synchronise(setting)
    if setting.is_gpu:
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(TIMED_STEPS):
        started = time.monotonic()
        step()
        _synchronise(setting)
        times.append(time.monotonic() - started)
    seconds = sorted(times)[len(times) // 2]
    flops = work.flops(shape, cell.kind, cell.variant, num_tokens)
    peak = next((peak for name, peak in PEAKS.items() if setting.is_gpu and name in _device_name()), None)
    return {
        "tokens_per_s": round(num_tokens / seconds, 1),
        "tokens": num_tokens,
        "step_s": results_file.spread(times),
        "mfu": round(flops / seconds / peak, 4) if peak else None,
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if setting.is_gpu else None,
    }


def _synchronise(setting: Setting) -> None:
    if setting.is_gpu:
        torch.cuda.synchronize()


def _device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def attempt(cell: Cell, setting: Setting) -> dict[str, Any]:
    try:
        return measure(cell, setting)
    except torch.cuda.OutOfMemoryError:
        return {"out_of_memory": True}
    except ImportError as error:  # the stock Trainer's accelerate
        return {"not_installed": str(error)}
    finally:
        work.release(setting)


def curves(shape: Shape, setting: Setting, num_steps: int) -> dict[str, Any]:
    """Loss by step of the same fine-tuning in bfloat16 and float32, from the same weights, on text with a pattern."""
    found = {
        name: work.loss_curve(shape, setting, dtype, num_steps)
        for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32))
    }
    work.release(setting)
    apart = [abs(a - b) for a, b in zip(found["bfloat16"], found["float32"], strict=True)]
    return {**found, "largest_gap": round(max(apart), 4), "last_gap": round(apart[-1], 4)}


def ratios(figures: dict[str, Any], shapes: list[str]) -> dict[str, Any]:
    """What each variant is worth, and ours against the stock Trainer, by shape."""

    def rate(shape: str, kind: str, variant: str) -> float | None:
        return figures.get(f"{shape}/{kind}/{variant}", {}).get("tokens_per_s")

    def ratio(a: float | None, b: float | None) -> float | None:
        return round(a / b, 3) if a and b else None

    kinds = ("sft", "preference", "ppo")
    return {
        shape: {
            "sft_to_stock_trainer": ratio(rate(shape, "sft", "bucketed"), rate(shape, "sft", "stock_trainer")),
            **{
                f"{kind}_bucketed_to_in_order": ratio(rate(shape, kind, "bucketed"), rate(shape, kind, "in_order"))
                for kind in kinds
            },
        }
        for shape in shapes
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="begin no cell later than leaves it its time")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["0.5b", "1b", "3b", "8b"])
    parser.add_argument("--smoke", action="store_true", help="the tiny shape on the CPU, in seconds")
    parser.add_argument("--output", type=Path, default=results_file.RESULTS / "learner_speed.json")
    given = parser.parse_args()
    shapes = ["tiny"] if given.smoke else given.shapes
    setting = work.setting(is_smoke=given.smoke, seed=SEED)
    until = time.monotonic() + 60 * given.minutes
    curve_shape = "tiny" if given.smoke else "0.5b"
    found = curves(SHAPES[curve_shape], setting, 4 if given.smoke else CURVE_STEPS)
    print(f"curves: {found['largest_gap']} apart at most", flush=True)
    figures: dict[str, Any] = {}
    longest: dict[str, float] = {}  # seconds of a shape's cells: the next shape's take about three times that
    for cell in cells(shapes):
        started = time.monotonic()
        expected = longest.get(cell.shape) or 3 * max(longest.values(), default=5.0)
        figures[cell.name] = {"no_time": True} if started + expected > until else attempt(cell, setting)
        if "no_time" not in figures[cell.name]:
            longest[cell.shape] = max(longest.get(cell.shape, 0.0), time.monotonic() - started)
        print(cell.name, figures[cell.name], flush=True)
    results_file.write(
        given.output.stem,
        "Our learners' update steps on one device, and the stock Trainer's beside them",
        {
            "device": _device_name() if setting.is_gpu else "CPU",
            "deepspeed": setting.has_deepspeed,
            "cells": figures,
            "ratios": ratios(figures, shapes),
            "loss_curves": {"shape": curve_shape, **found},
            "sequences": setting.num_sequences,
        },
        [SEED],
        folder=given.output.parent,
        command=f"python -m benchmarks.learner_speed{' --smoke' if given.smoke else ''}",
    )


if __name__ == "__main__":
    main()
