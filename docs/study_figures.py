"""A study's harmful rates from its Parquet rows alone: python docs/study_figures.py runs/micro-study harmful."""

import glob
import sys

import pandas as pd

rows = pd.concat(
    pd.read_parquet(file).assign(cell=file.split("/self_critique/")[0])
    for file in glob.glob(f"{sys.argv[1]}-*/self_critique/*.parquet")
)
for step in ("initial", "revision"):
    rows[step] = [next((s["value"] for s in r if s["metric"] == sys.argv[2]), None) for r in rows[f"{step}_scores"]]
judged = rows[(rows["kind"] == "red_team") & rows["initial"].notna() & rows["revision"].notna()]
harmful = judged.set_index(["cell", "format", "principles"])[["initial", "revision"]] >= 0.5
print(harmful.groupby(level=[0, 1, 2]).mean())
