"""Measure parts of the pipeline on a real model: `python -m benchmarks.real_model [PART...] [--scale X]`.

Each part goes on where it was ended, and leaves benchmarks/results/real_PART.json. `--scale 0.1` does a tenth of the
work, to see it run. `fetch` makes the model's folder and prints it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.real_model import choices, coherence, data, detectors, generation, labels, ppo, same_words, training
from benchmarks.real_model.weights import model_folder
from benchmarks.results_file import RESULTS
from cai_ray.errors import ConfigError

PARTS: dict[str, Callable[[float, Path], None]] = {
    "same_words": same_words.run,
    "detectors": detectors.run,
    "generation": generation.run,
    "coherence": coherence.run,
    "labels": labels.run,
    **{kind: partial(training.run, kind=kind) for kind in training.SIZES},
    "data": data.run,
    "ppo": ppo.run,
    "choices": choices.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "parts", nargs="*", choices=["fetch", *PARTS], metavar="PART", help=", ".join(["fetch", *PARTS])
    )
    parser.add_argument("--scale", type=float, default=1.0, help="share of the work, above 0; 1: all of it")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    given = parser.parse_args()
    if given.scale <= 0:
        parser.error(f"--scale {given.scale} must be above 0")
    try:
        for part in given.parts or PARTS:
            if part == "fetch":
                print(model_folder())
            else:
                PARTS[part](given.scale, given.results)
    except ConfigError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
