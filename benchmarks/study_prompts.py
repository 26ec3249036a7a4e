"""The small-model study's 90 prompts: 15 standard behaviours of each of HarmBench's semantic categories, seed 42.

    python -m benchmarks.study_prompts harmbench_behaviors_text_all.csv data/harmbench_90.csv

Drawn as the authors' code does, by pandas: each category's `sample(n=15, random_state=42)`, categories by the alphabet.
The columns are HarmBench's own.
"""

from __future__ import annotations

import sys
from typing import Any

PER_CATEGORY, SEED = 15, 42
FUNCTIONAL, SEMANTIC = "FunctionalCategory", "SemanticCategory"


def drawn(behaviours: Any) -> Any:
    """A DataFrame of HarmBench's layout -> the rows drawn. Raises ValueError where a category has fewer than 15."""
    import pandas

    standard = behaviours[behaviours[FUNCTIONAL] == "standard"]
    counts = standard[SEMANTIC].value_counts()
    if (few := counts[counts < PER_CATEGORY]).size:
        raise ValueError(f"fewer than {PER_CATEGORY} standard behaviours in {', '.join(few.index)}")
    parts = [part.sample(n=PER_CATEGORY, random_state=SEED) for _, part in standard.groupby(SEMANTIC)]
    return pandas.concat(parts)


def main() -> None:
    import pandas

    source, target = sys.argv[1:]
    found = drawn(pandas.read_csv(source, keep_default_na=False))
    found.to_csv(target, index=False)
    print(f"{len(found)} behaviours of {found[SEMANTIC].nunique()} categories: {target}")


if __name__ == "__main__":
    main()
