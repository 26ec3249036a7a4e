"""One recipe on the real model, run by `cai-ray run` in the cache, where it goes on after an end of any kind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.real_model.weights import model_folder
from cai_ray.artifacts.storage import Storage
from cai_ray.engines.models.files import cache_root
from cai_ray.errors import ConfigError
from cai_ray.seeding import stable_id

SHARED = Path(__file__).parents[3] / "shared" / "data"
CONVERSATIONS = SHARED / "hh_rlhf" / "harmless-base-test.jsonl.gz"
QUESTIONS = SHARED / "cai_paper" / "438HHHEvaluations.jsonl"
MODEL = {
    "dtype": "bfloat16",
    "max_model_len": 4096,
    "engine": {"max_num_seqs": 64, "max_num_batched_tokens": 4096, "kv_cache_gib": 2},
}

MAKERS = {"temperature": 0.2, "top_p": 0.9}  # how the model's makers sample it
MAX_TOKENS = {"answer": 80, "critique": 64, "revision": 80}


def conversations(limit: int) -> dict[str, Any]:
    """A source of prompts: the first conversations of people."""
    return {"path": there(CONVERSATIONS), "layout": "hh_rlhf", "kind": "red_team", "limit": limit}


def sampled(how: Mapping[str, float]) -> dict[str, Any]:
    """The samplings of a section `revise`."""
    return {f"{step}_sampling": {**how, "max_tokens": most} for step, most in MAX_TOKENS.items()}


def finished_run(
    name: str, sections: dict[str, Any], model: str = "policy", seed: int = 0, others: Mapping[str, str] | None = None
) -> Storage:
    """The folder of the finished run; other sections are another run. Raises ConfigError when it does not finish.

    `model`: what the recipe calls the real model; `others`: further models, name -> folder.
    """
    folder = cache_root() / "benchmarks" / "real_model"
    folder.mkdir(parents=True, exist_ok=True)
    recipe = {
        "seed": seed,
        "output": str(folder),
        "constitution": "harmlessness",
        "models": {name: {"path": path, **MODEL} for name, path in {model: model_folder(), **(others or {})}.items()},
        **sections,
    }
    recipe = {"name": f"{name}-{stable_id(recipe)[:8]}", **recipe}
    file = folder / f"{recipe['name']}.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    ended = subprocess.run([sys.executable, "-m", "cai_ray.cli", "run", str(file)]).returncode
    if ended:
        raise ConfigError(f"cai-ray run {file} ended with {ended}, as it says above; run this again and it goes on")
    return Storage(str(folder / str(recipe["name"])))


def there(file: Path) -> str:
    """A file of data. Raises ConfigError when it is not there."""
    if not file.is_file():
        raise ConfigError(f"there is no {file}; put the file there, as its publishers name it")
    return str(file)
